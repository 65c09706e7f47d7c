"""What a population needs is told beforehand, and refused where it is not there."""

import dataclasses
import io

import jax
import pytest
from rich.console import Console

from planprior import host, launch, memory, methods, planner, programs
from planprior.experiment import TrainConfig
from planprior.memory import Need, Room
from planprior.population import Population
from test_population import SPEC, build
from toys import TINY

MIB = 2**20
NEED = Need(replay=6 * MIB, agent=3 * MIB, work=MIB)


def test_the_need_is_that_of_the_arrays():
    pop = build((3, 4), (0.2, 0.7))
    need = memory.need(pop)
    # Agents twice: so small ones are not written over on a CPU.
    for part, made in ((need.replay, pop.init_replay), (need.agent / 2, pop.init)):
        leaves = jax.tree.leaves(jax.eval_shape(made))
        assert 2 * part == sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert need.work > 4 * pop.num_parameters()
    # Two states of each environment on the device, those that evaluate included.
    envs = memory.need(pop, evaluated=3, env_bytes=10).envs
    assert need.envs == 0 and envs == 2 * 10 * (pop.num_envs + 3)
    # Planning for 1000 states at once takes more than learning.
    assert memory.need(pop, evaluated=1000).work > need.work


def test_a_cpu_plans_for_so_many_states_at_a_time_and_a_gpu_for_all(monkeypatch):
    pop = build((3,), (0.2,))
    work = [memory.need(pop, evaluated=n).work for n in (10_000, 20_000)]
    monkeypatch.setattr(planner, "on_accelerator", lambda: True)
    all_at_once = [memory.need(pop, evaluated=n).work for n in (10_000, 20_000)]
    assert work[0] == work[1] < all_at_once[0] == all_at_once[1] / 2


def test_old_agents_are_kept_on_a_cpu_up_to_the_default_size(monkeypatch):
    def copies(pop, **how):
        leaves = jax.tree.leaves(jax.eval_shape(pop.init))
        size = sum(x.size * x.dtype.itemsize for x in leaves) / pop.num_members
        return memory.need(pop, **how).agent / size

    default, hypers = methods.make("tdmpc2", SPEC, "5")
    larger, _ = methods.make("tdmpc2", SPEC, "48")
    sizes = {"num_envs": 1, "capacity": 10}
    pops = [Population(SPEC, c, [0], [hypers], **sizes) for c in (default, larger)]
    assert [pop.programs.donates for pop in pops] == [False, True]
    assert [copies(pop) for pop in pops] == [2, 1]
    # A loop on the device writes over an agent, wherever it runs.
    assert copies(pops[0], loops_on_device=True) == 1
    # Of several, which a CPU updates in turn, the old ones stay until all are made.
    two = Population(SPEC, larger, [0, 1], [hypers] * 2, num_devices=1, **sizes)
    assert [copies(two, loops_on_device=x) for x in (False, True)] == [2, 2]
    monkeypatch.setattr(programs, "on_accelerator", lambda: True)
    assert copies(two) == 1


def test_environments_on_the_device_are_told_where_there_are_some():
    text = "10.0 MiB a member: replay 6.0 MiB, agent 3.0 MiB, work about 1.0 MiB"
    assert NEED.describe() == text
    more = NEED._replace(envs=2 * MIB)
    assert more.describe() == f"12{text[2:]}, environments 2.0 MiB"
    assert Room("a card", 24 * MIB, 4, 4).fitting(more) == 2


def test_members_that_fit_are_counted():
    assert Room("a card", 20 * MIB, 4, 4).fitting(NEED) == 2
    assert Room("a card", 9 * MIB, 4, 4).fitting(NEED) == 0
    # Those that take turns need the room to work in only once.
    assert Room("this host", 28 * MIB, 4, 1).fitting(NEED) == 3
    memory.check(NEED, Room("a card", 40 * MIB, 4, 4))
    memory.check(NEED, None)


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (
            Room("a card", 25 * MIB, 4, 4),
            "4 members need too much memory, 10.0 MiB a member: replay 6.0 MiB, agent "
            "3.0 MiB, work about 1.0 MiB; a card has 25.0 MiB free, where 2 would fit: "
            "choose fewer members, or a lower --buffer-size",
        ),
        (
            Room("a card", 25 * MIB, 4, 4, rooms=2),
            "8 members need too much memory, 10.0 MiB a member: replay 6.0 MiB, agent "
            "3.0 MiB, work about 1.0 MiB; each of 2 devices (a card) has 25.0 MiB "
            "free, where 4 would fit: choose fewer members, or a lower --buffer-size",
        ),
        (
            Room("this host", MIB, 1, 1),
            "1 member needs too much memory, 10.0 MiB a member: replay 6.0 MiB, agent "
            "3.0 MiB, work about 1.0 MiB; this host has 1.0 MiB free, where not even "
            "one would fit: choose a lower --buffer-size, --batch-size or --size",
        ),
    ],
)
def test_too_many_are_one_sentence(room, message):
    with pytest.raises(ValueError) as error:
        memory.check(NEED, room)
    assert str(error.value) == message


def test_a_training_that_does_not_fit_takes_nothing(tmp_path, monkeypatch):
    config = TrainConfig(
        "toys:aim", seeds=(0, 1), seed_steps=40, steps=80, eval_episodes=1,
        run_dir=str(tmp_path), settings=TINY,
    )  # fmt: skip
    screen = io.StringIO()
    needs, need = [], memory.need

    def told_need(*args, **options):
        needs.append(need(*args, **options))
        return needs[-1]

    def room_for_one():
        return host.Memory(needs[-1].total if needs else 0, 2**33)

    monkeypatch.setattr(memory, "need", told_need)
    monkeypatch.setattr(host, "memory", room_for_one)
    with pytest.raises(ValueError, match="free, where 1 would fit: choose fewer"):
        launch.train(config, console=Console(file=screen, width=300))
    told = screen.getvalue()
    assert "rows; memory of " in told and "MiB a member: replay " in told
    assert not (tmp_path / "checkpoints").exists()
    # As the sentence says: fewer members, in the same folder.
    fewer = dataclasses.replace(config, seeds=(0,))
    assert launch.train(fewer, console=Console(file=screen)).finished
