"""What is trained, and where it goes: one training as data."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from planprior import methods, settings, sweep
from planprior.checked import (
    Checked,
    find,
    is_real,
    is_seed,
    is_whole,
    require,
    require_seed,
)
from planprior.compatibility import require_read
from planprior.config import Config
from planprior.hypers import Hypers, weight_from_lambda
from planprior.settings import Value
from planprior.spec import EnvSpec
from planprior.sweep import Choice, Member, Numbers
from planprior.tables import flattened

FORMAT = 1
"""Version of `config.json`."""

FREE = (
    *("steps", "run_dir", "workers", "loop", "save_minutes", "tensorboard", "wandb"),
)
"""Fields that may differ when a training goes on: they do not change what is learned
(`loop` no more than by rounding), only how far it goes and where it is shown."""


MOST_ENVS = 100_000
"""Environments of a member, at most: even so many take gigabytes to build."""

MOST_STEPS = 2**31 - 1
"""What counters hold."""


@dataclass(frozen=True)
class TrainConfig(Checked):
    """One training: a task, a method, and how long.

    Steps are environment steps everywhere: simulator steps, action repeats included.
    Several `seeds`, prior weights, λ or numbers among the `settings` make a population:
    all combinations are trained side by side in one program, each as if alone.

    Attributes:
        task: Task, e.g. `cheetah-run`, `dm_control:dog-run`, or `module:function` for
            an environment of your own.
        method: Method; `planprior list methods` shows all.
        seed: Seed of everything random.
        seeds: Seeds of a population, instead of the one: 0-4, or 0 3 7.
        steps: Environment steps to train for; a finished run can be trained on.
        size: Model size (tiny, small, 1, 5, 19, 48, 317); auto is 5 on accelerators and
            tiny on CPUs.
        prior_weight: w = λ / (1 + λ), from 0 (TD-MPC2's policy) to 1 (imitation of the
            planner); the method's own if not given. One or several.
        lam: λ itself, an alternative to the prior weight; inf is allowed. One or
            several.
        num_envs: Environments of each agent that collect at the same time.
        run_dir: Folder of the run; by default one under `runs/` named after task,
            method, size and seed.
        seed_steps: Environment steps of random actions at the start; by default the
            published max(1000, 5 episodes) decisions, and `horizon` of each environment
            at least.
        updates_per_step: Gradient steps per decision of one environment.
        buffer_size: Rows that an agent's replay keeps, at most those of `steps`: one
            for each decision and one more for each episode, or `horizon` more for one
            that ends by a rule which is learned.
        eval_every: Environment steps between evaluations; by default a twentieth of
            `steps`, but at least 10,000.
        eval_episodes: Episodes per evaluation.
        log_every: Environment steps between lines of losses in the log.
        overlap: Let the environments step while the agent learns; off is the papers'
            strict order.
        workers: Processes that step the environments: auto, or a number (0 is none).
        pool: envpool steps the environments in C++ threads, as many as `workers` says:
            faster, for tasks of dm_control that it simulates equally.
        loop: Where the loop runs: on the device, act, step, remember and learn are one
            program of many decisions, which only environments that are JAX programs
            allow; auto is the device for these, the host for all others.
        precision: Of matrix products: float32; on a GPU tensorfloat32_x3 (as exact),
            tensorfloat32 or bfloat16 (coarser) are faster.
        save_minutes: Minutes between checkpoints, beside those at evaluations.
        tensorboard: Write event files for TensorBoard too.
        wandb: Send curves to this Weights & Biases project too.
        init_from: Begin with the networks of this agent (a run or an agent's folder),
            as far as they fit.
        settings: Any other settings of the agent, by name. Numbers of the algorithm
            (`learning_rate`, `temperature`, …), which are no sizes or counts, may be
            several.
    """

    task: str
    method: str = "pompc"
    seed: int = 0
    seeds: tuple[int, ...] = ()
    steps: int = 100_000
    size: str = "auto"
    prior_weight: float | tuple[float, ...] | None = None
    lam: float | tuple[float, ...] | None = None
    num_envs: int = 1
    run_dir: str = ""
    seed_steps: int | None = None
    updates_per_step: float = 1.0
    buffer_size: int = 1_000_000
    eval_every: int | None = None
    eval_episodes: int = 10
    log_every: int = 1000
    overlap: bool = True
    workers: int | str = "auto"
    pool: Literal["envpool"] | None = None
    loop: Literal["auto", "device", "host"] = "auto"
    precision: Literal["float32", "tensorfloat32", "tensorfloat32_x3", "bfloat16"] = (
        "float32"
    )
    save_minutes: float = 10.0
    tensorboard: bool = False
    wandb: str = ""
    init_from: str | None = None
    settings: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        named = isinstance(self.settings, Mapping)
        require(named, owner, "settings", self.settings, "values by name")
        self._settle_sweeps()
        require_seed(self.seed, f"{owner}.seed")
        self.at_least(1, "steps", "num_envs", "buffer_size", "eval_episodes")
        self.at_least(1, "log_every")
        self.at_most(MOST_ENVS, "num_envs", "eval_episodes")
        self.at_most(MOST_STEPS, "steps")
        for name in ("seed_steps", "eval_every"):
            value = getattr(self, name)
            holds = value is None or value >= 1
            require(holds, owner, name, value, "at least 1")
        rate = self.updates_per_step
        require(0 < rate <= 64, owner, "updates_per_step", rate, "in (0, 64]")
        minutes = self.save_minutes
        require(minutes > 0, owner, "save_minutes", minutes, "above 0")
        require(self.init_from != "", owner, "init_from", "", "a folder, or left out")
        both = self.prior_weight is not None and self.lam is not None
        require(not both, owner, "lam", self.lam, "left out beside prior_weight")
        self._settle_workers()

    def _settle_workers(self) -> None:
        """Make a number of one that was given as a text."""
        given, name = self.workers, "workers"
        settled = int(given) if str(given).isdecimal() else given
        holds = settled == "auto" or (is_whole(settled) and settled >= 0)
        allowed = "'auto' or a whole number of at least 0"
        require(holds, type(self).__name__, name, given, allowed)
        object.__setattr__(self, name, settled)

    def _settle_sweeps(self) -> None:
        """Make tuples of sweeps, and single values of those that are none."""
        owner, seeds = type(self).__name__, self.seeds
        several = isinstance(seeds, Iterable) and not isinstance(seeds, str)
        require(several, owner, "seeds", seeds, "several whole numbers, like (0, 1)")
        seeds = tuple(seeds)
        for name in ("prior_weight", "lam"):
            settled = sweep.one_or_several(owner, name, getattr(self, name))
            numbers = () if settled is None else sweep.as_tuple(settled)
            holds = all(map(is_real, numbers))
            require(holds, owner, name, settled, "a number, or several")
            object.__setattr__(self, name, settled)
        holds = not (seeds and self.seed)
        require(holds, owner, "seed", self.seed, "left out beside seeds")
        for seed in seeds:
            allowed = "whole numbers in [0, 2^32 - 1]"
            require(is_seed(seed), owner, "seeds", seeds, allowed)
        settled = sweep.one_or_several(owner, "seeds", seeds) if seeds else ()
        if isinstance(settled, int):
            object.__setattr__(self, "seed", settled)
            settled = ()
        object.__setattr__(self, "seeds", settled)

    def choices(self) -> list[Choice]:
        """The members of the population: a seed and values of what is swept.

        Raises:
            ValueError: A setting is unknown, or cannot have several values; or they
                are too many.
        """
        given = _prior_weights(self) | settings.parse(self.settings)
        swept = {name: x for name, x in given.items() if isinstance(x, tuple)}
        seeds = self.seeds or (self.seed,)
        count = math.prod(map(len, (seeds, *swept.values())))
        if count > sweep.MOST_MEMBERS:
            raise ValueError(
                f"the population has {count:,} members, one for each combination; it "
                f"must have at most {sweep.MOST_MEMBERS}"
            )
        return sweep.choices(seeds, swept)

    def loops_on_device(self, task: str, on_device: bool) -> bool:
        """Whether the loop runs on the device.

        Args:
            task: The task's name.
            on_device: Whether its environments are JAX programs.

        Raises:
            ValueError: It cannot, and was asked to.
        """
        if self.loop == "device" and not on_device:
            raise ValueError(
                f"TrainConfig.loop is 'device', but the environments of {task} are no "
                "JAX programs; it must be 'auto' or 'host'"
            )
        return on_device and self.loop != "host"


@dataclass(frozen=True)
class Experiment:
    """A `TrainConfig` with everything that it left open decided.

    Attributes:
        train: What was asked for.
        spec: The environment.
        config: The agents' static settings.
        members: The agents: each has a seed and numbers of its own.
        proposed: Settings that the task's suite proposed and the user left so.
        size: Their size.
        seed_decisions: Random decisions at the start, of all environments together.
        eval_every: Environment steps between evaluations.
        capacity: Rows of each agent's replay.
        run_dir: The run folder.
    """

    train: TrainConfig
    spec: EnvSpec
    config: Config
    members: tuple[Member, ...]
    proposed: Mapping[str, Value]
    size: str
    seed_decisions: int
    eval_every: int
    capacity: int
    run_dir: Path

    @property
    def hypers(self) -> Hypers:
        """The numbers of the first member; the others' differ in what is swept."""
        return self.members[0].hypers

    @property
    def decisions(self) -> int:
        """Decisions of each environment: as many as `steps` take, or begin."""
        return -(-self.train.steps // self.steps_per_decision)

    @property
    def last_step(self) -> int:
        """Environment steps of each member at the end, which whole decisions make."""
        return self.decisions * self.steps_per_decision

    @property
    def random_steps(self) -> int:
        """Environment steps of random actions at the start, of each member."""
        return self.seed_decisions * self.spec.action_repeat

    @property
    def steps_per_decision(self) -> int:
        """Environment steps of a member when each environment makes one decision."""
        return self.spec.action_repeat * self.train.num_envs


def resolve(
    train: TrainConfig,
    spec: EnvSpec,
    *,
    accelerator: bool,
    proposed: Mapping[str, Value] = MappingProxyType({}),
) -> Experiment:
    """Decide what a `TrainConfig` leaves open.

    Args:
        train: What was asked for.
        spec: The environment.
        accelerator: Whether there is a GPU or TPU.
        proposed: Settings by full name that the user's own come before.

    Raises:
        ValueError: A setting is unknown or makes no sense.
    """
    sizes = {"auto": "5" if accelerator else "tiny", **{s: s for s in methods.SIZES}}
    size = find(sizes, train.size, "size")
    config, members = _members(train, spec, size, proposed)
    own = settings.parse(train.settings)
    decisions = -(-train.steps // spec.action_repeat)
    # An episode of T decisions has T + 1 rows; T + H where its end is learned, and it
    # may be as short as one decision.
    extra = 1 / spec.episode_length
    if spec.can_terminate:
        extra = config.horizon if config.terminations == "learned" else 1
    rows = math.ceil(decisions * (1 + extra)) + 2 * train.num_envs
    # One slice lies within an episode wherever the border of two may be.
    least = train.num_envs * (2 * config.horizon + 1)
    every = train.eval_every or max(10_000, train.steps // 20)
    return Experiment(
        train=train,
        spec=spec,
        config=config,
        members=members,
        proposed={k: v for k, v in proposed.items() if k not in own},
        size=size,
        seed_decisions=_seed_decisions(train, spec, config.horizon),
        eval_every=every,
        capacity=max(min(train.buffer_size, rows), least),
        run_dir=Path(train.run_dir or _default_folder(train, spec, size)),
    )


def _members(
    train: TrainConfig, spec: EnvSpec, size: str, proposed: Mapping[str, Value]
) -> tuple[Config, tuple[Member, ...]]:
    """The static settings, and the agents that share them."""
    config, hypers = methods.make(train.method, spec, size)
    given = {**proposed, **_prior_weights(train), **settings.parse(train.settings)}
    swept = tuple(name for name, x in given.items() if isinstance(x, tuple))
    fixed = {name: x for name, x in given.items() if name not in swept}
    found = []
    for choice in train.choices():
        config, own = settings.apply(config, hypers, {**fixed, **choice.numbers})
        found.append(Member(choice.seed, own, swept))
    require_read(config, swept)
    return config, tuple(found)


def _prior_weights(train: TrainConfig) -> dict[str, Numbers]:
    """The prior weight that was asked for, if any: w itself, or that of λ."""
    if train.lam is not None:
        weights = tuple(weight_from_lambda(x) for x in sweep.as_tuple(train.lam))
    elif train.prior_weight is not None:
        weights = sweep.as_tuple(train.prior_weight)
    else:
        return {}
    only = len(weights) == 1
    return {"prior_weight": weights[0] if only else weights}


def _seed_decisions(train: TrainConfig, spec: EnvSpec, horizon: int) -> int:
    """Random decisions of all environments: TD-MPC2's, and a slice's of each at least.

    Of thousands of environments none would have come as far as a slice is long.
    """
    if train.seed_steps is not None:
        return -(-train.seed_steps // spec.action_repeat)
    return max(1000, 5 * spec.episode_length, train.num_envs * horizon)


def _default_folder(train: TrainConfig, spec: EnvSpec, size: str) -> str:
    task = spec.name.rpartition(":")[2].replace("/", "-")
    parts = [task, train.method]
    for weight in _prior_weights(train).values():
        parts.append(f"w{sweep.short(sweep.as_tuple(weight))}")
    for name, value in settings.parse(train.settings).items():
        if isinstance(value, tuple):
            parts.append(f"{name}{sweep.short(value)}")
    seeds = sweep.short_seeds(train.seeds or (train.seed,))
    return "runs/" + "-".join([*parts, size, seeds])


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Everything that a training depends on, as `config.json` holds it."""
    train = dataclasses.asdict(experiment.train)
    everything = {
        "format": FORMAT,
        "train": train | {"settings": settings.parse(experiment.train.settings)},
        "size": experiment.size,
        "spec": dataclasses.asdict(experiment.spec),
        "agent": settings.config_to_json(experiment.config),
        "hypers": dataclasses.asdict(experiment.hypers),
        "members": [member.columns() for member in experiment.members],
        "seed_decisions": experiment.seed_decisions,
    }
    return settings.without_infinities(everything)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two stored experiments and may not, one text each."""
    # The members follow from all the rest.
    before, after = (flattened({**x, "members": None}) for x in (old, new))
    found = []
    for name in sorted(before.keys() | after.keys()):
        free = name.startswith("train.") and name.removeprefix("train.") in FREE
        was, now = before.get(name), after.get(name)
        if not free and was != now:
            found.append(f"{name} was {was!r} and is {now!r}")
    return found


def read(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of a run folder.

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    path = folder / "config.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is no run folder: it has no config.json") from None
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    version = stored.get("format") if isinstance(stored, dict) else None
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}; it must be {FORMAT}")
    return stored
