"""Agent folders: one agent, to be carried anywhere, of a few megabytes.

    agent/meta.json              settings, environment, versions, scores, checksums
    agent/agent.safetensors      the networks that act
    agent/learner.safetensors    what training goes on from: target heads, scales

Neither optimiser nor replay. The format has a number of its own: folders of an older
one are migrated, step by step, by `MIGRATIONS`. A setting that is younger than a folder
takes its default, which by rule keeps what was computed before.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from planprior import checkpoint, settings
from planprior.actor import Actor, CanAct, Networks, init_networks
from planprior.checkpoint import CheckpointError
from planprior.config import Config
from planprior.hypers import Hypers
from planprior.spec import EnvSpec

KIND = "agent"
FORMAT = 1
VALUES = "values.csv"
"""What `planprior eval --values` writes about the agent, into its folder."""

Meta = dict[str, Any]
MIGRATIONS: dict[int, Callable[[Meta], Meta]] = {}
"""By format: what turns a folder's meta into that of the next format."""

_SAID_OF_IT = ("task", "method", "size", "seed", "prior_weight", "step", "score")


def save(
    folder: str | Path,
    agent: CanAct,
    learner: PyTree,
    info: Meta,
    attached: Mapping[str, bytes] | None = None,
) -> None:
    """Write an agent folder, or leave what was there as it was.

    Args:
        folder: Where. An older agent there is replaced; anything else is not.
        agent: The agent.
        learner: What training goes on from.
        info: What is to be said of it: task, method, size, seed, prior weight, step,
            score; versions, and anything else that JSON can hold.
        attached: Further files by name, such as those for other runtimes.

    Raises:
        CheckpointError: It cannot be written there.
    """
    state = agent.state
    numbers = {k: float(v) for k, v in dataclasses.asdict(agent.hypers).items()}
    meta = {
        "kind": KIND,
        "format": FORMAT,
        **{name: info.get(name) for name in _SAID_OF_IT},
        **{k: v for k, v in info.items() if k not in _SAID_OF_IT},
        "spec": dataclasses.asdict(agent.spec),
        "agent": settings.config_to_json(agent.config),
        "hypers": settings.without_infinities(numbers),
    }
    if Path(folder).exists() and not is_agent(folder):
        raise CheckpointError(f"{folder} is there and is no agent; it is left as it is")
    networks = Networks(state.model, state.policy, state.prior)
    groups = {"agent": networks, "learner": learner}
    checkpoint.save(folder, groups, meta, attached, added=[VALUES])


def is_agent(folder: str | Path) -> bool:
    """Return whether a folder holds an exported agent, good or damaged."""
    try:
        return checkpoint.read_meta(folder).get("kind") == KIND
    except CheckpointError:
        return False


def load(folder: str | Path) -> Actor:
    """Load what acts of an agent folder; its learner's part is not even opened.

    Raises:
        CheckpointError: It is damaged, foreign, or of a newer format.
    """
    folder = Path(folder)
    is_run = (folder / "checkpoints").is_dir()
    meta = {} if is_run else checkpoint.read_meta(folder)
    if meta.get("kind") != KIND:
        raise CheckpointError(
            f"{folder} is no agent folder; make one with: planprior export RUN agent/"
        )
    try:
        meta = migrate(meta)
        spec, config, hypers = read_settings(meta)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} cannot be used: {checkpoint.printable(str(error))}"
        ) from None
    like = jax.eval_shape(lambda: init_networks(spec, config, key=jax.random.key(0)))
    networks = checkpoint.load(folder, {"agent": like})["agent"]
    return Actor(networks, spec, config, hypers, meta)


def load_learner(folder: str | Path, like: PyTree) -> PyTree:
    """Load what training goes on from, shaped as `like`.

    Raises:
        CheckpointError: It is damaged or does not fit.
    """
    return checkpoint.load(folder, {"learner": like})["learner"]


def migrate(meta: Meta) -> Meta:
    """Bring what an older planprior wrote to today's format.

    Raises:
        ValueError: It is of a format that is not known here.
    """
    version = meta.get("format")
    while version != FORMAT:
        if version not in MIGRATIONS:
            known = ", ".join(map(str, sorted({*MIGRATIONS, FORMAT})))
            raise ValueError(f"its format is {version!r}; known here: {known}")
        meta = MIGRATIONS[version](meta)
        version = meta["format"]
    return meta


def read_settings(meta: Mapping[str, Any]) -> tuple[EnvSpec, Config, Hypers]:
    """Environment, settings and numbers of a folder of today's format."""
    config = settings.config_from_json(
        _filled(meta["agent"], settings.config_to_json(Config()))
    )
    hypers = settings.hypers_from_json(
        _filled(meta["hypers"], dataclasses.asdict(Hypers()))
    )
    return EnvSpec(**meta["spec"]), config, hypers.validate(config)


def _filled(stored: Mapping[str, Any], defaults: Mapping[str, Any]) -> Meta:
    """What is stored, and the default of what is younger."""
    filled = dict(stored)
    for name, default in defaults.items():
        if name not in filled:
            filled[name] = default
        elif isinstance(default, Mapping):
            filled[name] = _filled(filled[name], default)
    return filled
