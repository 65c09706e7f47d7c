"""What is trained, and where it goes: one training as data."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from planprior import methods, settings
from planprior.checked import Checked, require
from planprior.config import Config
from planprior.hypers import Hypers, weight_from_lambda
from planprior.settings import Value
from planprior.spec import EnvSpec

FORMAT = 1
"""Version of `config.json`."""

FREE = ("steps", "run_dir", "workers", "save_minutes", "tensorboard", "wandb")
"""Fields that may differ when a training goes on: they do not change what is learned,
only how far it goes and where it is shown."""


@dataclass(frozen=True)
class TrainConfig(Checked):
    """One training: a task, a method, and how long.

    Steps are environment steps everywhere: simulator steps, action repeats included.

    Attributes:
        task: Task, e.g. `cheetah-run`, `dm_control:dog-run`, or `module:function` for
            an environment of your own.
        method: Method; `planprior list methods` shows all.
        seed: Seed of everything random.
        steps: Environment steps to train for; a finished run can be trained on.
        size: Model size (tiny, small, 1, 5, 19, 48, 317); auto is 5 on accelerators and
            tiny on CPUs.
        prior_weight: w = λ / (1 + λ), from 0 (TD-MPC2's policy) to 1 (imitation of the
            planner); the method's own if not given.
        lam: λ itself, an alternative to the prior weight; inf is allowed.
        num_envs: Environments that collect at the same time.
        run_dir: Folder of the run; by default one under `runs/` named after task,
            method, size and seed.
        seed_steps: Environment steps of random actions at the start; by default the
            published max(1000, 5 episodes) decisions.
        updates_per_step: Gradient steps per decision of one environment.
        buffer_size: Decisions that the replay keeps, at most those of `steps`.
        eval_every: Environment steps between evaluations; by default a twentieth of
            `steps`, but at least 10,000.
        eval_episodes: Episodes per evaluation.
        log_every: Environment steps between lines of losses in the log.
        overlap: Let the environments step while the agent learns; off is the papers'
            strict order.
        workers: Processes that step the environments: auto, or a number (0 is none).
        precision: Of matrix products: float32; on a GPU tensorfloat32_x3 (as exact),
            tensorfloat32 or bfloat16 (coarser) are faster.
        save_minutes: Minutes between checkpoints, beside those at evaluations.
        tensorboard: Write event files for TensorBoard too.
        wandb: Send curves to this Weights & Biases project too.
        init_from: Begin with the networks of this agent (a run or an agent's folder),
            as far as they fit.
        settings: Any other settings of the agent, by name.
    """

    task: str
    method: str = "pompc"
    seed: int = 0
    steps: int = 100_000
    size: str = "auto"
    prior_weight: float | None = None
    lam: float | None = None
    num_envs: int = 1
    run_dir: str = ""
    seed_steps: int | None = None
    updates_per_step: float = 1.0
    buffer_size: int = 1_000_000
    eval_every: int | None = None
    eval_episodes: int = 10
    log_every: int = 1000
    overlap: bool = True
    workers: str = "auto"
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
        self.at_least(0, "seed")
        self.at_least(1, "steps", "num_envs", "buffer_size", "eval_episodes")
        self.at_least(1, "log_every")
        for name in ("seed_steps", "eval_every"):
            value = getattr(self, name)
            holds = value is None or value >= 1
            require(holds, owner, name, value, "at least 1")
        rate = self.updates_per_step
        require(0 < rate <= 64, owner, "updates_per_step", rate, "in (0, 64]")
        minutes = self.save_minutes
        require(minutes > 0, owner, "save_minutes", minutes, "above 0")
        both = self.prior_weight is not None and self.lam is not None
        require(not both, owner, "lam", self.lam, "left out beside prior_weight")
        number = self.workers == "auto" or self.workers.isdecimal()
        require(
            number, owner, "workers", self.workers, "'auto' or a number of at least 0"
        )

    def num_workers(self) -> int | str:
        """Worker processes, for `envs.make_pool`."""
        return self.workers if self.workers == "auto" else int(self.workers)


@dataclass(frozen=True)
class Experiment:
    """A `TrainConfig` with everything that it left open decided.

    Attributes:
        train: What was asked for.
        spec: The environment.
        config: The agent's static settings.
        hypers: Its numbers.
        proposed: Settings that the task's suite proposed and the user left so.
        size: Its size.
        seed_decisions: Random decisions at the start, of all environments together.
        eval_every: Environment steps between evaluations.
        capacity: Rows of the replay.
        run_dir: The run folder.
    """

    train: TrainConfig
    spec: EnvSpec
    config: Config
    hypers: Hypers
    proposed: Mapping[str, Value]
    size: str
    seed_decisions: int
    eval_every: int
    capacity: int
    run_dir: Path

    @property
    def steps_per_decision(self) -> int:
        """Environment steps made when every environment makes one decision."""
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
    size = train.size
    if size == "auto":
        size = "5" if accelerator else "tiny"
    config, hypers = methods.make(train.method, spec, size)
    weight = _prior_weight(train)
    if weight is not None:
        hypers = dataclasses.replace(hypers, prior_weight=weight)
    own = settings.parse(train.settings)
    config, hypers = settings.apply(config, hypers, {**proposed, **own})
    decisions = math.ceil(train.steps / spec.action_repeat)
    # An episode of T decisions has T + 1 rows, and a few more where it terminates: then
    # it may be far shorter than the limit, though hardly shorter than a slice.
    extra = 1 / spec.episode_length
    if spec.can_terminate:
        extra = config.horizon / (config.horizon + 1)
    rows = math.ceil(decisions * (1 + extra)) + 2 * train.num_envs
    least = train.num_envs * (config.horizon + 1)
    every = train.eval_every or max(10_000, train.steps // 20)
    return Experiment(
        train=train,
        spec=spec,
        config=config,
        hypers=hypers,
        proposed={k: v for k, v in proposed.items() if k not in own},
        size=size,
        seed_decisions=_seed_decisions(train, spec),
        eval_every=every,
        capacity=max(min(train.buffer_size, rows), least),
        run_dir=Path(train.run_dir or _default_folder(train, spec, size)),
    )


def _prior_weight(train: TrainConfig) -> float | None:
    if train.lam is not None:
        return weight_from_lambda(train.lam)
    return train.prior_weight


def _seed_decisions(train: TrainConfig, spec: EnvSpec) -> int:
    if train.seed_steps is not None:
        return math.ceil(train.seed_steps / spec.action_repeat)
    return max(1000, 5 * spec.episode_length)


def _default_folder(train: TrainConfig, spec: EnvSpec, size: str) -> str:
    task = spec.name.rpartition(":")[2].replace("/", "-")
    weight = _prior_weight(train)
    shown = "" if weight is None else f"-w{weight:g}"
    return f"runs/{task}-{train.method}{shown}-{size}-seed{train.seed}"


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Everything that a training depends on, as `config.json` holds it."""
    train = dataclasses.asdict(experiment.train)
    return {
        "format": FORMAT,
        "train": train | {"settings": settings.parse(experiment.train.settings)},
        "size": experiment.size,
        "spec": dataclasses.asdict(experiment.spec),
        "agent": settings.config_to_json(experiment.config),
        "hypers": dataclasses.asdict(experiment.hypers),
        "seed_decisions": experiment.seed_decisions,
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two stored experiments and may not, one text each."""
    before, after = _flat(old), _flat(new)
    found = []
    for name in sorted(before.keys() | after.keys()):
        free = name.startswith("train.") and name.removeprefix("train.") in FREE
        was, now = before.get(name), after.get(name)
        if not free and was != now:
            found.append(f"{name} was {was!r} and is {now!r}")
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


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
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    version = stored.get("format") if isinstance(stored, dict) else None
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}; it must be {FORMAT}")
    return stored
