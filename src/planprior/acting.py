"""A trained agent in your hands: load it, ask it for actions."""

import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from planprior import checkpoint, exporting, portable, settings, sweep
from planprior.checked import require_seed
from planprior.checkpoint import CheckpointError, Checkpoints
from planprior.config import Config
from planprior.experiment import FORMAT
from planprior.hypers import Hypers
from planprior.population import Population, member
from planprior.search import aged
from planprior.spec import EnvSpec
from planprior.state import AgentState

Which = Literal["best", "latest"] | SupportsIndex
MemberChoice = SupportsIndex | Mapping[str, float | int]


SOURCES = "a run folder, one of its checkpoints or an agent's folder"


class NotFiniteError(RuntimeError):
    """An agent chose NaN or infinity, in one sentence."""


class Agent:
    """A trained agent with its planner.

    It remembers its last plan, from which the next one starts: `reset` it when an
    episode begins.

    Attributes:
        spec: The environment it was trained for.
        config: Its static settings.
        hypers: Its numbers.
        state: Its parameters.
        info: What its checkpoint says: method, size, seed, environment steps, versions.

    Example:
        agent = Agent.load("runs/cheetah-run-pompc-tiny-seed0")
        action = agent.act(observation)
    """

    def __init__(
        self,
        state: AgentState,
        spec: EnvSpec,
        config: Config,
        hypers: Hypers,
        info: dict[str, Any] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Wrap the state of one agent; `load` is the usual way to get one."""
        require_seed(operator.index(seed))  # which NumPy's whole numbers have
        self.state, self.spec, self.config, self.hypers = state, spec, config, hypers
        self.info = info or {}
        self.population = Population(
            spec, config, [seed], [hypers], num_envs=1, capacity=config.horizon + 1
        )
        self.agents = jax.tree.map(lambda x: x[None], state)
        self._step = 0
        self.reset()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        checkpoint: Which = "best",
        member: MemberChoice = 0,
        seed: int = 0,
    ) -> "Agent":
        """Load an agent; no code in the files is ever run.

        Args:
            path: A run folder, one checkpoint in it, or an exported agent's folder.
            checkpoint: Of a run folder: the one with the best evaluation (on average
                over the members), the latest, or the one of an environment step.
            member: Which agent of a population: its number, or what tells it from all
                others, such as `{"seed": 3, "prior_weight": 0.5}`.
            seed: Of what is random in planning.

        Raises:
            CheckpointError: There is no such checkpoint, or it is damaged or foreign.
            ValueError: The seed is not in [0, 2^32 - 1].
        """
        if path == "":  # it would be the current folder, which nobody means by it
            raise CheckpointError(f"path is ''; it must be {SOURCES}")
        folder = find_checkpoint(Path(path), checkpoint)
        agents, spec, config, hypers, info = load_population(folder)
        index = find_member(info["members"], member, folder)
        info |= {"member": index, **info.pop("members")[index]}
        return cls(_take(agents, index), spec, config, hypers[index], info, seed=seed)

    def reset(self) -> None:
        """Forget the last plan: an episode begins."""
        self._warm_start = self.population.cold_start()
        self._age, self._fresh = 0, True

    def act(
        self, observation: ArrayLike, *, mode: Literal["plan", "policy"] = "plan"
    ) -> np.ndarray:
        """Choose an action, float32 [A] in [−1, 1].

        Args:
            observation: What is seen, [O].
            mode: Plan, or ask the bare policy, which is many times faster.

        Raises:
            ValueError: The observation has another shape or is not finite, or the mode
                is unknown.
            NotFiniteError: The action would be NaN.
        """
        seen = self._check(observation)
        if mode == "policy":
            action = np.asarray(
                self.population.act_without_planning(self.agents, seen)
            )[0, 0]
            self._check_chosen(mode, bool(np.isfinite(action).all()))
            self._age += 1
            return action
        if mode != "plan":
            raise ValueError(f"mode is {mode!r}; it must be 'plan' or 'policy'")
        reset = np.full((1, 1), self._fresh)
        warm = self._warm_start
        if self._age:
            warm = jnp.asarray(aged(warm, self._age))
        # It begins anew where 32 bits end: only draws follow from it.
        step = self._step % 2**31
        decision = self.population.evaluate(self.agents, seen, warm, reset, step)
        action, fault = self.population.fetch(decision)
        self._check_chosen(mode, not fault[0])
        self._warm_start, self._age, self._fresh = decision.warm_start, 0, False
        self._step += 1
        return action[0, 0]

    def _check_chosen(self, mode: str, finite: bool) -> None:
        if not finite:
            raise NotFiniteError(
                f"the {mode} of this agent for {self.spec.name} is NaN or infinite; "
                "its parameters are damaged, or the observation is far from all that "
                "it has learned from"
            )

    def _check(self, observation: ArrayLike) -> np.ndarray:
        seen = np.asarray(observation, np.float32)
        wanted = (self.spec.observation_dim,)
        if seen.shape != wanted:
            raise ValueError(
                f"the observation has shape {seen.shape}; {self.spec.name} needs "
                f"{wanted}"
            )
        if not np.isfinite(seen).all():
            raise ValueError("the observation holds NaN or infinity")
        return seen[None, None]


def _take(agents: AgentState, index: int) -> AgentState:
    return member(agents, index)


def find_member(
    members: Sequence[Mapping[str, float | int]], wanted: MemberChoice, folder: Path
) -> int:
    """Return the number of the member that is meant.

    Raises:
        CheckpointError: There is none, or there are several.
    """
    count = len(members)
    if not isinstance(wanted, Mapping):
        number = _whole(wanted)
        if number is not None and 0 <= number < count:
            return number
        raise CheckpointError(
            f"member is {wanted!r}; {folder} has {count}, so it must be in "
            f"[0, {count - 1}]"
        )
    fits = [i for i, m in enumerate(members) if _fits(m, wanted)]
    if len(fits) == 1:
        return fits[0]
    *texts, asked = (
        ", ".join(f"{name}={sweep.brief(x)}" for name, x in columns.items())
        for columns in (*members, wanted)
    )
    raise CheckpointError(
        f"member is {asked}, which fits {len(fits)} of the {count} in {folder}: "
        f"{'; '.join(f'{i}: {text}' for i, text in enumerate(texts))}"
    )


def _fits(member: Mapping[str, float | int], wanted: Mapping[str, float | int]) -> bool:
    return all(
        name in member and math.isclose(member[name], value)
        for name, value in wanted.items()
    )


def _whole(value: Any) -> int | None:
    """A whole number as Python's, NumPy's included; None if it is something else."""
    return operator.index(value) if hasattr(value, "__index__") else None


def find_checkpoint(path: Path, which: Which = "best") -> Path:
    """Return the checkpoint that is meant by a run folder or a checkpoint.

    Raises:
        CheckpointError: There is none.
    """
    step = _whole(which)
    if step is None and which not in ("best", "latest"):
        raise CheckpointError(
            f"checkpoint is {which!r}; it must be best, latest or a number of env steps"
        )
    if not path.name:  # the current folder, which needs one: files beside it are named
        path = path.resolve()
    if not path.is_dir():
        raise CheckpointError(f"{path} is no folder; it must be a run or a checkpoint")
    if not (path / "checkpoints").is_dir():
        _refuse_folder_of_runs(path)
        if (path / "config.json").exists() and not (path / "meta.json").exists():
            raise CheckpointError(f"{path} has no checkpoint yet")
        if not (path / "meta.json").exists():
            raise CheckpointError(
                f"{path} has no meta.json nor checkpoints; it must be {SOURCES}"
            )
        if step is not None:
            raise CheckpointError(
                f"checkpoint is {step}, but {path} is no run: it holds one agent"
            )
        return path
    checkpoints = Checkpoints(path / "checkpoints")
    if step is not None:
        steps = checkpoints.steps()
        if step not in steps:
            raise CheckpointError(
                f"{path} has no checkpoint at {step} env steps; it has "
                f"{', '.join(map(str, steps)) or 'none'}"
            )
        return checkpoints.path(step)
    found = checkpoints.best() if which == "best" else None
    found = found or checkpoints.latest()
    if found is None:
        raise CheckpointError(f"{path} has no checkpoint yet")
    return found


def _refuse_folder_of_runs(path: Path) -> None:
    """Raise `CheckpointError`, which names them, where a folder holds runs."""
    runs = sorted(x.parent.name for x in path.glob("*/checkpoints"))
    if runs and not (path / "meta.json").exists():
        named = ", ".join(runs[:3]) + ", …" * (len(runs) > 3)
        raise CheckpointError(f"{path} is no run; choose one of those in it: {named}")


def load_population(
    folder: Path,
) -> tuple[AgentState, EnvSpec, Config, list[Hypers], dict[str, Any]]:
    """Load all members of a checkpoint.

    Returns:
        Their states [P], the environment, settings, numbers of each, and `info`.

    Raises:
        CheckpointError: The checkpoint is damaged or foreign.
    """
    if portable.is_agent(folder):
        return _exported(folder)
    info = checkpoint.read_meta(folder)
    info.pop("replay", None)  # which an agent does not need
    try:
        info["members"] = [settings.with_infinities(m) for m in info["members"]]
        if info.get("format") != FORMAT:
            raise ValueError(f"its format is {info.get('format')!r}, not {FORMAT}")
        spec = EnvSpec(**info["spec"])
        config = settings.config_from_json(info["agent"])
        members = [
            settings.hypers_from_json(
                info["hypers"] | {k: v for k, v in m.items() if k != "seed"}
            ).validate(config)
            for m in info["members"]
        ]
        seeds = [_seed(m["seed"]) for m in info["members"]]
        if not seeds:
            raise ValueError("it has no members")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} cannot be used: {checkpoint.printable(str(error))}"
        ) from None
    capacity = config.horizon + 1
    population = Population(spec, config, seeds, members, num_envs=1, capacity=capacity)
    like = {"agents": jax.eval_shape(population.init)}
    agents = checkpoint.load(folder, like)["agents"]
    return agents, spec, config, members, info


def _seed(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"the seed of a member is {value!a:.40}; it must be a number")
    return value


def _exported(
    folder: Path,
) -> tuple[AgentState, EnvSpec, Config, list[Hypers], dict[str, Any]]:
    """An exported agent, as a population of one."""
    agent, actor = exporting.load(folder)
    told = {name: actor.info.get(name) for name in ("seed", "prior_weight")}
    one = {name: x for name, x in told.items() if isinstance(x, int | float)}
    agents = jax.tree.map(lambda x: x[None], agent)
    info = actor.info | {"members": [one]}
    return agents, actor.spec, actor.config, [actor.hypers], info
