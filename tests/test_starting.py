"""Beginning with another agent's networks: what fits is taken; the rest is named."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from helpers import same
from planprior import agent, launch, starting
from planprior.acting import Agent
from planprior.experiment import TrainConfig
from planprior.spec import EnvSpec
from toys import TINY

KEPT = Path(__file__).parent / "agents" / "format-1" / "agent"
NETWORKS = ("model", "target_heads", "policy", "prior")


@pytest.fixture(scope="module")
def source():
    return Agent.load(KEPT)


def fresh(source, spec):
    @jax.jit
    def both():
        hypers = source.hypers.arrays()
        return [
            agent.init(spec, source.config, hypers, key=jax.random.key(seed))
            for seed in (1, 2)
        ]

    return jax.tree.map(lambda *x: jax.numpy.stack(x), *both())


def test_of_the_same_task_everything_is_taken_by_every_agent(source):
    agents, taken = starting.take(fresh(source, source.spec), source)
    for i in range(2):
        for part in NETWORKS:
            got = jax.tree.map(lambda x, i=i: x[i], getattr(agents, part))
            same(got, getattr(source.state, part))
    assert not taken.partly and not taken.fresh
    assert "begin afresh" not in taken.sentence()


def test_of_another_task_what_reads_and_makes_its_sizes_begins_afresh(source):
    new = fresh(source, EnvSpec("toys:x", 7, 2, 10))
    agents, taken = starting.take(new, source)
    latent = source.config.network.latent_dim
    assert sorted(taken.fresh) == [
        "model/encoder/layers/0/linear/weight",
        "policy/net/last/bias",
        "policy/net/last/weight",
        "prior/policy/net/last/bias",
        "prior/policy/net/last/weight",
    ]
    assert sorted(taken.partly) == [
        "model/dynamics/layers/0/linear/weight",
        "model/reward_head/hidden/0/linear/weight",
        "model/value_heads/hidden/0/linear/weight",
        "target_heads/hidden/0/linear/weight",
    ]
    got = agents.model.dynamics.layers[0].linear.weight
    drawn = new.model.dynamics.layers[0].linear.weight
    old = source.state.model.dynamics.layers[0].linear.weight
    np.testing.assert_array_equal(got[1, :latent], old[:latent])
    np.testing.assert_array_equal(got[1, latent:], drawn[1, latent:])
    assert "4 as far as they read the latent, 5 begin afresh" in taken.sentence()


def train(folder, **changes):
    screen = io.StringIO()
    values = {"steps": 20, "seed_steps": 40, "eval_episodes": 1, "settings": TINY}
    values |= {"task": "toys:aim", "run_dir": str(folder)} | changes
    config = TrainConfig(**values)
    launch.train(config, console=Console(file=screen, width=500))
    return screen.getvalue()


def test_a_training_begins_where_it_is_told_to(source, tmp_path):
    """In a task of other sizes: what fits is taken, and what does not is named."""
    said = train(tmp_path / "run", task="toys:wide", init_from=str(KEPT))
    count = sum(len(jax.tree.leaves(getattr(source.state, n))) for n in NETWORKS)
    assert (
        f"from {KEPT}: {count - 9} tensors taken, 4 as far as they read the latent, 5 "
        "begin afresh (model/encoder/layers/0/linear/weight, policy/net/last/weight, "
        "policy/net/last/bias, prior/policy/net/last/weight, prior/policy/net/last/bias"
        ")\n"
    ) in said
    # All its steps were random, so that nothing has been learned since.
    begun = Agent.load(tmp_path / "run", checkpoint="latest")
    assert (begun.spec.observation_dim, begun.spec.action_dim) == (4, 2)
    same(begun.state.model.reward_head.last, source.state.model.reward_head.last)
    same(begun.state.model.encoder.layers[1:], source.state.model.encoder.layers[1:])
    assert begun.info["step"] == 20


def test_networks_of_other_sizes_are_refused(tmp_path):
    wide = TINY | {"network.mlp_dim": 24}
    with pytest.raises(ValueError, match=r"network\.mlp_dim is 16; it is 24 here"):
        train(tmp_path / "run", init_from=str(KEPT), settings=wide)
    assert not (tmp_path / "run/config.json").exists()
