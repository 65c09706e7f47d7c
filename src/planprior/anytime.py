"""A planner that can be stopped: one compiled program per iteration, at several sizes.

`planner.plan` is one program that runs to its end. A controller needs the best mean so
far at any moment, so here each iteration is a call. The sizes, by number of samples,
are compiled ahead of time; `Budget` chooses among them by what time there is.
"""

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from planprior import planner
from planprior.actor import CanAct, Networks, seeders
from planprior.config import PlannerConfig
from planprior.draws import Dims, KeyedDraws
from planprior.hypers import Hypers
from planprior.mapping import float32_products
from planprior.search import Search
from planprior.types import PRNGKey
from planprior.world_model import Latent


class Level(NamedTuple):
    """A size of the planner.

    Attributes:
        samples: Action sequences per iteration.
        iterations: The most iterations.
    """

    samples: int
    iterations: int


class Times(NamedTuple):
    """What a level takes on an idle machine, in seconds.

    Attributes:
        begin: Until the first iteration can start.
        step: An iteration.
    """

    begin: float
    step: float


class Best(NamedTuple):
    """The best so far.

    Attributes:
        action: What to do, [A].
        mean: The whole sequence, [H, A].
    """

    action: np.ndarray
    mean: np.ndarray


@runtime_checkable
class Planner(Protocol):
    """What a controller needs; a test's fake has it too."""

    @property
    def levels(self) -> Sequence[Level]:
        """Sizes, the largest first."""
        ...

    def begin(
        self,
        level: int,
        observation: np.ndarray,
        pending: np.ndarray,
        warm_start: np.ndarray,
        step: int,
    ) -> tuple[Any, np.ndarray]:
        """Start a search; also the policy's action for the same moment."""
        ...

    def improve(self, level: int, search: Any, iteration: int) -> tuple[Any, Best]:
        """Make one iteration."""
        ...

    def policy(self, observation: np.ndarray) -> np.ndarray:
        """The policy's action for an observation, now."""
        ...

    def measure(self) -> list[Times]:
        """Compile everything, and time every level."""
        ...


class Underway(NamedTuple):
    """A search between two iterations, and the two keys of its randomness."""

    z: Latent
    prepared: planner.Prepared
    search: Search
    key: PRNGKey
    heads_key: PRNGKey


class CompiledPlanner:
    """The planner of an agent, as programs of one iteration each.

    Attributes:
        levels: Sizes, the largest first: each has half the samples of the one before.
    """

    def __init__(
        self,
        agent: CanAct,
        *,
        levels: Sequence[int] | None = None,
        compensate: bool = True,
        seed: int = 0,
    ) -> None:
        """Prepare programs; `measure` compiles them.

        Args:
            agent: Whose networks and settings.
            levels: Numbers of samples, descending; its own, a half and a quarter of it
                when left out.
            compensate: Plan for the state that the action under way leads to.
            seed: Of what is random.
        """
        state = agent.state
        self._networks = Networks(state.model, state.policy, state.prior)
        self._hypers, self._config = agent.hypers.arrays(), agent.config
        self._spec, self._compensate = agent.spec, compensate
        self._key = jax.random.key(seed)
        own = agent.config.planner
        counts = levels or _halves(own)
        self._planners = [resized(own, count) for count in counts]
        iterations = own.num_iterations(agent.spec.action_dim)
        self.levels = [Level(p.num_samples, iterations) for p in self._planners]
        begin = float32_products(self._begin_program)
        improve = float32_products(self._improve_program)
        self._begin = jax.jit(begin, static_argnames="planner_config")
        self._improve = jax.jit(improve, static_argnames="planner_config")
        self._policy = jax.jit(float32_products(self._policy_program))

    def begin(
        self,
        level: int,
        observation: np.ndarray,
        pending: np.ndarray,
        warm_start: np.ndarray,
        step: int,
    ) -> tuple[Underway, np.ndarray]:
        """See `Planner`."""
        underway, action = self._begin(
            self._networks, self._hypers, observation, pending, warm_start, self._key,
            np.int32(step % 2**31), planner_config=self._planners[level],
        )  # fmt: skip
        jax.block_until_ready(underway)
        return underway, np.asarray(action)

    def improve(
        self, level: int, search: Underway, iteration: int
    ) -> tuple[Underway, Best]:
        """See `Planner`."""
        found, action = self._improve(
            self._networks, self._hypers, search, np.int32(iteration),
            planner_config=self._planners[level],
        )  # fmt: skip
        best = Best(np.asarray(action), np.asarray(found.mean))
        return search._replace(search=found), best

    def policy(self, observation: np.ndarray) -> np.ndarray:
        """See `Planner`."""
        return np.asarray(self._policy(self._networks, observation))

    def measure(self, repeats: int = 5) -> list[Times]:
        """See `Planner`: the least of a few calls each, after the first."""
        spec, horizon = self._spec, self._config.horizon
        seen = np.zeros(spec.observation_dim, np.float32)
        pending = np.zeros(spec.action_dim, np.float32)
        warm = np.zeros((horizon, spec.action_dim), np.float32)
        self.policy(seen)
        times = []
        for level in range(len(self.levels)):
            begin = functools.partial(self.begin, level, seen, pending, warm, 0)
            search, _ = begin()
            improve = functools.partial(self.improve, level, search, 0)
            times.append(Times(_least(begin, repeats), _least(improve, repeats)))
        return times

    # --- Programs ---------------------------------------------------------------------

    def _begin_program(
        self,
        networks: Networks,
        hypers: Hypers,
        observation: Float[Array, "O"],
        pending: Float[Array, "A"],
        warm_start: Float[Array, "H A"],
        key: PRNGKey,
        step: Int[Array, ""],
        planner_config: PlannerConfig,
    ) -> tuple[Underway, Float[Array, "A"]]:
        model, policy = networks.model, networks.policy
        z = model.encode(observation)
        if self._compensate:
            z = model.next(z, pending)
        key, heads_key = jax.random.split(jax.random.fold_in(key, step))
        noise = self._draws(key, heads_key, planner_config).seeds()
        proposers = seeders(networks, policy, self._config)
        prepared = planner.prepare(model, proposers, z, noise, hypers, planner_config)
        search = planner.start(warm_start, hypers, planner_config)
        underway = Underway(z, prepared, search, key, heads_key)
        return underway, policy.family.mode(policy(z))

    def _improve_program(
        self,
        networks: Networks,
        hypers: Hypers,
        underway: Underway,
        iteration: Int[Array, ""],
        planner_config: PlannerConfig,
    ) -> tuple[Search, Float[Array, "A"]]:
        draws = self._draws(underway.key, underway.heads_key, planner_config)
        found = planner.improve(
            networks.model, networks.policy, underway.z, underway.prepared,
            underway.search, draws.iteration(iteration), draws.heads(iteration),
            hypers, planner_config,
        )  # fmt: skip
        return found, jnp.clip(found.mean[0], -1.0, 1.0)

    def _policy_program(
        self, networks: Networks, observation: Float[Array, "O"]
    ) -> Float[Array, "A"]:
        policy = networks.policy
        return policy.family.mode(policy(networks.model.encode(observation)))

    def _draws(
        self, key: PRNGKey, heads_key: PRNGKey, config: PlannerConfig
    ) -> KeyedDraws:
        heads = len(self._networks.model.value_heads.last.bias)
        dims = Dims(
            self._config.horizon, self._spec.action_dim, config.num_samples,
            config.num_policy_trajectories, heads,
        )  # fmt: skip
        return KeyedDraws(key, heads_key, dims)


def _halves(own: PlannerConfig) -> list[int]:
    """All samples, a half, a quarter: no fewer than there are elites."""
    counts = [own.num_samples >> shift for shift in range(3)]
    return [n for n in counts if n >= own.num_elites]


def resized(
    own: PlannerConfig, samples: int | None = None, iterations: int | None = None
) -> PlannerConfig:
    """A planner of another size: elites and the policy's share in proportion.

    Args:
        own: The agent's.
        samples: Action sequences per iteration; as many as before when left out.
        iterations: Iterations, exactly; as many as before when left out.

    Raises:
        ValueError: A number makes no sense.
    """
    if samples is not None:
        share = samples / own.num_samples
        own = dataclasses.replace(
            own,
            num_samples=samples,
            num_elites=max(1, round(own.num_elites * share)),
            num_policy_trajectories=round(own.num_policy_trajectories * share),
        )
    if iterations is None:
        return own
    return dataclasses.replace(own, iterations=iterations, extra_iterations=False)


def _least(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest call: what else runs here can only slow one down."""
    call()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


WINDOW = 12
"""How many calls the pace of the machine is judged by: those of a few ticks."""

LONGEST = 10.0
"""The most that a call counts for, as a multiple of what it usually takes: one that was
stopped for long says nothing of the pace thereafter."""


class Budget:
    """Which level, given the time that there is.

    All levels slow down together when the machine is busy: one factor scales what they
    take when it is idle. It is that of the last calls together. (One that rises quickly
    and falls slowly reduced a third of the plans on a machine that had time for all of
    them, since now and then a single call takes 60 times as long as the others.)
    """

    def __init__(self, levels: Sequence[Level], times: Sequence[Times]) -> None:
        self.levels, self.times = list(levels), list(times)
        usual = times[0].step
        self._recent = deque([(usual, usual)] * WINDOW, maxlen=WINDOW)

    @property
    def slowness(self) -> float:
        """That factor; 1 on an idle machine."""
        seconds, usual = zip(*self._recent, strict=True)
        return sum(seconds) / sum(usual)

    def begin(self, level: int) -> float:
        """Seconds until a first iteration can start, by now."""
        return self.slowness * self.times[level].begin

    def step(self, level: int) -> float:
        """Seconds of an iteration, by now."""
        return self.slowness * self.times[level].step

    def choose(self, seconds: float) -> int:
        """The largest level that can make all its iterations, or else the smallest."""
        for index, level in enumerate(self.levels):
            if self.begin(index) + level.iterations * self.step(index) <= seconds:
                return index
        return len(self.levels) - 1

    def observe(self, seconds: float, usual: float) -> None:
        """Learn from what took `seconds` and usually takes `usual`."""
        self._recent.append((min(seconds, LONGEST * usual), usual))
