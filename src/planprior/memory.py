"""What members take of a device's memory, told before any of it is taken."""

from typing import NamedTuple

import jax

from planprior import host, runtime
from planprior.config import Config
from planprior.flops import Layers, networks
from planprior.planner import states_at_once
from planprior.population import Population
from planprior.runtime import format_bytes
from planprior.spec import EnvSpec

FLOAT = 4


class Need(NamedTuple):
    """Bytes of one member.

    Attributes:
        replay: Its replay.
        agent: Networks, their slow copies, and the optimisers' moments: twice where an
            update does not write over them.
        work: About what its programs use besides: an estimate, since only a compiled
            program tells, and compiling takes longer than many a training.
        envs: Its environments, where they are on the device.
    """

    replay: int
    agent: int
    work: int
    envs: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)

    def describe(self) -> str:
        """The sum and its parts."""
        replay, agent, work, envs, total = map(format_bytes, (*self, self.total))
        text = f"{total} a member: replay {replay}, agent {agent}, work about {work}"
        return f"{text}, environments {envs}" if self.envs else text


def need(
    population: Population,
    evaluated: int = 0,
    *,
    env_bytes: int = 0,
    loops_on_device: bool = False,
) -> Need:
    """What each member of a population needs.

    Args:
        population: The population; nothing of it has to exist.
        evaluated: Environments of a member that evaluate, and are planned for at once.
        env_bytes: Bytes of one environment on the device; there are two states of each,
            before and after a step.
        loops_on_device: Whether it is trained by a `DeviceLoop`, which writes over an
            agent wherever it runs, if it has the device to itself or that is no CPU.
    """
    spec, config = population.spec, population.config
    agents = jax.tree.leaves(jax.eval_shape(population.init))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in agents)
    alone = population.placement.members_each == 1
    written_over = population.programs.donates or (loops_on_device and alone)
    size *= 1 if written_over else 2
    states = states_at_once(max(population.num_envs, evaluated), config.planner)
    plan = states * plan_bytes(spec, config)
    learned = FLOAT * population.num_parameters()
    return Need(
        replay=population.replay_bytes() // population.num_members,
        agent=size // population.num_members,
        work=max(
            plan, reanalysis_bytes(spec, config), update_bytes(spec, config) + learned
        ),
        envs=2 * env_bytes * (population.num_envs + evaluated),
    )


def plan_bytes(spec: EnvSpec, config: Config, samples: int = 0) -> int:
    """About what one plan computes with at a time.

    Two numbers for every output of a layer, and every sample. Compiled for a CPU, plans
    of `bmpc` in dog-run at size tiny need 1.0 MiB, where this says 1.1.
    """
    net = networks(spec, config)
    heads = net.drawn * [net.value]
    width = _outputs(net.dynamics, net.reward, net.policy, *heads)
    return FLOAT * 2 * (samples or config.planner.num_samples) * width


def reanalysis_bytes(spec: EnvSpec, config: Config) -> int:
    """About what the plans of a reanalysis compute with."""
    if not config.reanalysis.interval:
        return 0
    states = config.horizon * config.reanalysis.num_slices
    planner = config.reanalysis_planner()
    at_once = states_at_once(states, planner)
    return at_once * plan_bytes(spec, config, planner.num_samples)


def update_bytes(spec: EnvSpec, config: Config) -> int:
    """About what an update keeps for its gradients, beside the gradients themselves.

    Four numbers for every output of a layer. Compiled for a CPU, an update in dog-run
    at size 5 needs 114 MiB (`tdmpc2`), 93 (`bmpc`) or 129 (`pompc`), gradients
    included; this says, with 20, 13 and 22 for the gradients, 161, 101 and 163.
    """
    net = networks(spec, config)
    heads = config.critic.num_heads * [net.value]
    width = _outputs(net.encoder, net.dynamics, net.reward, net.end, *heads)
    return FLOAT * 4 * (config.horizon + 1) * config.batch_size * width


def _outputs(*nets: Layers) -> int:
    return sum(out for net in nets for _, out in net)


class Room(NamedTuple):
    """A memory that members share, the fullest of several.

    Attributes:
        name: Whose it is.
        free: Bytes.
        members: Members that share it.
        working: How many of them work at the same time.
        rooms: How many such memories carry members.
    """

    name: str
    free: int
    members: int
    working: int
    rooms: int = 1

    def fitting(self, need: Need) -> int:
        """How many of its members fit."""

        def taken(count: int) -> int:
            working = min(count, self.working)
            kept = need.replay + need.agent + need.envs
            return count * kept + working * need.work

        return max(n for n in range(self.members + 1) if taken(n) <= self.free)


def room(population: Population) -> Room | None:
    """The fullest memory that members go to; None where the system does not tell."""
    placement = population.placement
    devices, each = placement.devices, placement.members_each
    known = [m for m in map(runtime.device_memory, devices) if m]
    if known:
        free = min(memory.free for memory in known)
        return Room(devices[0].device_kind, free, each, each, len(devices))
    memory = host.memory()
    # On CPUs members take turns, see `map_members`.
    return memory and Room(
        "this host", memory.free, population.num_members, len(devices)
    )


def check(need: Need, room: Room | None) -> None:
    """Refuse to begin what would not end.

    Raises:
        ValueError: The members do not fit; says how many would.
    """
    fitting = room.fitting(need) if room else 0
    if room is None or fitting == room.members:
        return
    count, fitting = room.members * room.rooms, fitting * room.rooms
    devices = f"each of {room.rooms} devices ({room.name})"
    where = room.name if room.rooms == 1 else devices
    advice = "fewer members, or a lower --buffer-size"
    if not fitting:
        advice = "a lower --buffer-size, --batch-size or --size"
    raise ValueError(
        f"{count} {'member needs' if count == 1 else 'members need'} too much memory, "
        f"{need.describe()}; {where} has {format_bytes(room.free)} free, where "
        f"{fitting or 'not even one'} would fit: choose {advice}"
    )
