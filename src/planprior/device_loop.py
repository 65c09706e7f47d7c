"""The loop as one program, for environments that are JAX programs themselves.

Act, step, remember and learn happen on the device, many decisions in one call, without
a round trip to the host. What is done, and in which order, is what `Training` does with
environments on the host; `timetable` asks the same `Schedule`. How many decisions a
call makes is an argument of the one program, which is compiled once: results do not
depend on how a training is cut into calls.

Axes: D decisions of a call, at most `MOST`; C calls of the learner that belong to one
decision; N = P · E environments, in order of members; T numbers that are told. All
others are those of `programs.py`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from planprior.envs import device
from planprior.envs.device import DeviceEnv, Envs
from planprior.envs.pool import Step
from planprior.hypers import Hypers
from planprior.programs import PLAN_METRICS, Decision, Programs, Purpose, Seen
from planprior.replay import Replay, Slices
from planprior.schedule import Counters, Schedule
from planprior.state import AgentState
from planprior.types import Gaussian

MOST = 256
"""Decisions of a call, at most: as many as the record has room for."""

GONE = -(2**30)
"""A serial number of rows that no replay holds."""

STEP_FIELDS = (
    *("episode_return", "episode_length", "terminated", "truncated", "success"),
)
"""What the record keeps of a step, for the log."""


class Timetable(NamedTuple):
    """What the schedule says of the coming decisions.

    Attributes:
        random: Whether the actions are random.
        calls: How many calls of the learner there are.
        told: Which of them tell how the policy's terms pull, see `agent.update`.
        renewed: Which of them come after a reanalysis.
    """

    random: np.ndarray
    calls: np.ndarray
    told: np.ndarray
    renewed: np.ndarray


def timetable(schedule: Schedule, counters: Counters, length: int) -> Timetable:
    """What is to be done at the next `length` decisions; nothing at those after.

    They are all random, or none is: between them the host makes up for gradient steps.
    """
    random, calls = np.zeros(MOST, bool), np.zeros(MOST, np.int32)
    told, renewed = np.zeros((2, MOST, schedule.most_calls), bool)
    updates, at_once = counters.updates, schedule.updates_at_once
    for i in range(length):
        made = counters.decisions + i
        random[i] = schedule.is_random(made)
        due = 0 if random[i] else schedule.updates_due(made + 1)
        while updates + at_once <= due:
            told[i, calls[i]] = schedule.is_told(made + 1, updates)
            renewed[i, calls[i]] = schedule.reanalyses(updates)
            calls[i] += 1
            updates += at_once
    return Timetable(random, calls, told, renewed)


class Given(NamedTuple):
    """What a call only reads.

    Attributes:
        hypers: Numbers of the members.
        keys: Where the randomness of each starts.
        env_keys: And that of each environment, see `device.begin`.
    """

    hypers: Hypers
    keys: Key[Array, "P"]
    env_keys: Key[Array, "N"]


class Place(NamedTuple):
    """Where members are in their episodes; agents and replays go beside it.

    Attributes:
        envs: The environments.
        warm_start: Means for the next plan.
        reset: Where an episode starts.
        fault: Why members are frozen.
    """

    envs: Envs
    warm_start: Float[Array, "P E H A"]
    reset: Bool[Array, "P E"]
    fault: Int[Array, "P"]


class Record(NamedTuple):
    """What a call has done, for the host.

    Attributes:
        made: Decisions made, fewer than asked for if an environment broke.
        updates: Gradient steps of each member by now.
        steps: `STEP_FIELDS` of every decision.
        told: Of every decision: faults when it was planned, `PLAN_METRICS`, and the
            metrics of its last gradient step, by the names that `Loop.read` knows.
        last: The last step, with all that may have been wrong with it.
    """

    made: Int[Array, "P"]
    updates: Int[Array, "P"]
    steps: Float[Array, "N D 5"]
    told: Float[Array, "P D T"]
    last: Step


class Read(NamedTuple):
    """What one decision told, by name, [P] each.

    Attributes:
        fault: Why members were frozen when it was planned.
        plan: Metrics of the plans.
        update: Metrics of the last gradient step.
    """

    fault: np.ndarray
    plan: dict[str, np.ndarray]
    update: dict[str, np.ndarray]


class _Fixed(NamedTuple):
    """What is the same in all decisions of a call."""

    given: Given
    table: Any
    decisions: Int[Array, ""]


class _Learner(NamedTuple):
    """What gradient steps change, and what the last of them told."""

    agents: AgentState
    replay: Replay
    fault: Int[Array, "P"]
    updates: Int[Array, ""]
    metrics: Float[Array, "P _"]


class _State(NamedTuple):
    """All that a decision changes."""

    i: Int[Array, ""]
    learner: _Learner
    place: Place
    steps: Float[Array, "N D 5"]
    told: Float[Array, "P D T"]
    last: Any
    broken: Bool[Array, ""]


class Loop:
    """The compiled loop of a population in environments on the device."""

    def __init__(
        self, env: DeviceEnv, programs: Programs, at_once: int, overlap: bool
    ) -> None:
        """Prepare; it is compiled when it is first called.

        Args:
            env: What is mapped over the environments.
            programs: Those of the population.
            at_once: Gradient steps of one call of the learner.
            overlap: Whether those that belong to a decision are made before its step is
                remembered, as they are where environments step meanwhile.
        """
        self._env, self._programs = env, programs
        self._at_once, self._overlap = at_once, overlap
        self._compiled = programs.placement.compile(
            self._program, donate=(0, 1), shared=(4,)
        )
        self._metrics: tuple[str, ...] = ()

    # --- For the host -----------------------------------------------------------------

    def run(
        self,
        agents: AgentState,
        replay: Replay,
        place: Place,
        given: Given,
        table: Timetable,
        length: int,
        counters: Counters,
    ) -> tuple[AgentState, Replay, Place, Record]:
        """Make decisions until all are made, or an environment breaks.

        Args:
            agents: All members; donated.
            replay: Their replays; donated.
            place: Where they are in their episodes.
            given: What is only read.
            table: What is to be done.
            length: How many decisions to make.
            counters: Where the training is.
        """
        self._metrics = self._metrics or self._names(agents, replay, place, given)
        place, given = self._programs.placement.put((place, given))
        counts = (length, counters.decisions, counters.updates)
        return self._compiled(
            agents, replay, place, given, table, *map(np.int32, counts)
        )

    def lower(
        self, agents: AgentState, replay: Replay, place: Place, given: Given
    ) -> jax.stages.Lowered:
        """The program, not compiled yet; see `run`."""
        self._metrics = self._metrics or self._names(agents, replay, place, given)
        table = timetable(Schedule(1, 1, 0, 1.0, 0), Counters(), 0)
        counts = map(np.int32, (0, 0, 0))
        return self._compiled.lower(agents, replay, place, given, table, *counts)

    def _names(
        self, agents: AgentState, replay: Replay, place: Place, given: Given
    ) -> tuple[str, ...]:
        """The metrics of an update."""
        numbers = place.fault, given.hypers, given.keys, np.int32(0), np.bool_(0)
        _, metrics = self._programs.update.eval_shape(
            agents, replay, *numbers, num_updates=self._at_once, learn_policy=True,
            may_tell=False,
        )  # fmt: skip
        return tuple(metrics)

    def read(self, record: Record, i: int) -> Read:
        """What the i-th decision of a fetched record told."""
        fault, *columns = np.asarray(record.told[:, i].T)
        names = (*PLAN_METRICS, *self._metrics)
        told = dict(zip(names, columns, strict=True))
        plan = {name: told.pop(name) for name in PLAN_METRICS}
        return Read(fault.astype(np.int32), plan, told)

    # --- The program ------------------------------------------------------------------

    def _program(
        self,
        agents: AgentState,
        replay: Replay,
        place: Place,
        given: Given,
        table: Any,
        length: Int[Array, ""],
        decisions: Int[Array, ""],
        updates: Int[Array, ""],
    ) -> tuple[AgentState, Replay, Place, Record]:
        fixed = _Fixed(given, jax.tree.map(jnp.asarray, table), decisions)
        members = len(place.fault)
        nothing = jnp.zeros((members, len(self._metrics)))
        learner = _Learner(agents, replay, place.fault, updates, nothing)
        width = 1 + len(PLAN_METRICS) + len(self._metrics)
        start = _State(
            i=jnp.zeros((), jnp.int32),
            learner=learner,
            place=place,
            steps=jnp.zeros((len(given.env_keys), MOST, len(STEP_FIELDS))),
            told=jnp.zeros((members, MOST, width)),
            last=_no_step(place.envs),
            broken=jnp.zeros((), bool),
        )
        end = jax.lax.while_loop(
            lambda at: (at.i < length) & ~at.broken,
            lambda at: self._decision(at, fixed),
            start,
        )
        everywhere = jnp.ones(members, jnp.int32)
        made = (end.i - end.broken) * everywhere
        updates = end.learner.updates * everywhere
        record = Record(made, updates, end.steps, end.told, end.last)
        return end.learner.agents, end.learner.replay, end.place, record

    def _decision(self, at: _State, fixed: _Fixed) -> _State:
        """A decision of every environment, and the gradient steps that belong to it."""
        i, learner = at.i, at.learner
        decision, planned = self._decide(at, fixed)
        planned_at = learner.updates
        if self._overlap:
            learner = self._learn(learner, fixed, i, fixed.table.calls[i])
        action = decision.action.reshape(-1, self._programs.spec.action_dim)
        envs, step = device.advance(
            self._env, at.place.envs, action, fixed.given.env_keys
        )
        step = jax.tree.map(lambda x, like: x.astype(like.dtype), step, at.last)
        # All stop at the same decision: their counters are one.
        broken = self._programs.placement.anywhere(self._is_broken(step))
        # The second always holds; but it is known only after the learner has read the
        # replay, or the compiler might write first and let it read from a copy.
        kept = ~broken & (learner.updates >= 0)
        seen = self._seen(step, at.place.reset.shape, kept)
        replay = self._programs.add_program(learner.replay, decision, seen, planned_at)
        learner = learner._replace(replay=replay)
        if not self._overlap:
            learner = self._learn(learner, fixed, i, fixed.table.calls[i] * ~broken)
        fault = jnp.where(decision.fault != 0, decision.fault, learner.fault)
        told = [decision.fault, *(planned[name] for name in PLAN_METRICS)]
        told = jnp.stack([x.astype(jnp.float32) for x in told], axis=1)
        told = jnp.concatenate([told, learner.metrics], axis=1)
        kept = [getattr(step, name).astype(jnp.float32) for name in STEP_FIELDS]
        return _State(
            i=i + 1,
            learner=learner._replace(fault=fault),
            place=Place(envs, decision.warm_start, seen.begun, fault),
            steps=at.steps.at[:, i].set(jnp.stack(kept, axis=1)),
            told=at.told.at[:, i].set(told),
            last=step,
            broken=broken,
        )

    def _decide(
        self, at: _State, fixed: _Fixed
    ) -> tuple[Decision, dict[str, Float[Array, "P"]]]:
        programs, place, given = self._programs, at.place, fixed.given
        count = fixed.decisions + at.i

        def plan() -> tuple[Decision, dict[str, Float[Array, "P"]]]:
            observation = place.envs.observation.reshape(*place.reset.shape, -1)
            return programs.act_program(
                at.learner.agents, observation, place.warm_start, place.reset,
                place.fault, given.hypers, given.keys, jnp.int32(Purpose.ACT), count,
                explore=True,
            )  # fmt: skip

        def randomly() -> tuple[Decision, dict[str, Float[Array, "P"]]]:
            decision = programs.random_program(given.keys, count)
            unplanned = dataclasses.replace(decision, warm_start=place.warm_start)
            return unplanned, dict.fromkeys(PLAN_METRICS, jnp.zeros(len(place.fault)))

        return jax.lax.cond(fixed.table.random[at.i], randomly, plan)

    def _is_broken(self, step: Step) -> Bool[Array, ""]:
        """Whether the step is one that `Pool` refuses."""
        values: tuple[Any, ...] = step.observation, step.reward, step.reset_observation
        finite = jnp.stack([jnp.all(jnp.isfinite(x)) for x in values])
        ended = jnp.any(jnp.asarray(step.terminated)) & (
            not self._programs.spec.can_terminate
        )
        return ~jnp.all(finite) | ended

    def _seen(self, step: Any, shape: tuple[int, ...], kept: Bool[Array, ""]) -> Seen:
        """What the environments answered, by member; nothing unless it is kept."""

        def by_member(x: Array) -> Array:
            return x.reshape(*shape, *x.shape[1:])

        return Seen(
            observation=by_member(step.observation),
            reward=by_member(step.reward),
            terminated=by_member(step.terminated) & kept,
            acted=jnp.broadcast_to(kept, shape),
            begun=by_member(step.begun) & kept,
            reset_observation=by_member(step.reset_observation),
        )

    # --- Learning ---------------------------------------------------------------------

    def _learn(
        self, learner: _Learner, fixed: _Fixed, i: Int[Array, ""], calls: Int[Array, ""]
    ) -> _Learner:
        """The calls of the learner that belong to the i-th decision."""

        def call(c: Int[Array, ""], learner: _Learner) -> _Learner:
            if self._programs.config.reanalysis.interval:
                due = fixed.table.renewed[i, c]
                learner = learner._replace(replay=self._renew(learner, fixed, due))
            return self._update(learner, fixed, fixed.table.told[i, c])

        nothing = jnp.zeros_like(learner.metrics)
        learner = learner._replace(metrics=nothing)
        return jax.lax.fori_loop(0, calls, call, learner)

    def _update(
        self, learner: _Learner, fixed: _Fixed, tell: Bool[Array, ""]
    ) -> _Learner:
        given = fixed.given
        agents, metrics = self._programs.update_program(
            learner.agents, learner.replay, learner.fault, given.hypers, given.keys,
            learner.updates, tell, num_updates=self._at_once, learn_policy=True,
            may_tell=self._programs.may_tell(True),
        )  # fmt: skip
        told = [metrics[name].astype(jnp.float32) for name in self._metrics]
        return _Learner(
            agents=agents,
            replay=learner.replay,
            fault=metrics["fault"],
            updates=learner.updates + self._at_once,
            metrics=jnp.stack(told, axis=1),
        )

    def _renew(self, learner: _Learner, fixed: _Fixed, due: Bool[Array, ""]) -> Replay:
        """Plan again at some replayed states, if that is due."""
        programs, count = self._programs, learner.updates

        def fresh() -> Any:
            return programs.plan_again(
                learner.agents,
                learner.replay,
                fixed.given.hypers,
                fixed.given.keys,
                count,
            )

        slices, plans = jax.lax.cond(due, fresh, lambda: self._no_plans(learner))
        # Written in any case, to rows long gone where nothing is due: a branch that
        # returned the replay would copy it.
        serial = jnp.where(due, slices.serial, GONE)
        slices = dataclasses.replace(slices, serial=serial)
        return programs.write_plans(learner.replay, slices, plans, count)

    def _no_plans(self, learner: _Learner) -> tuple[Slices, Gaussian]:
        """What `Programs.plan_again` returns, of nothing."""
        config, members = self._programs.config, len(learner.fault)
        index = jnp.zeros((members, config.batch_size), jnp.int32)
        shape = (
            config.horizon,
            config.reanalysis.num_slices,
            self._programs.spec.action_dim,
        )
        plan = jnp.zeros((members, *shape))
        return Slices(index, index), Gaussian(plan, plan)


def _no_step(envs: Envs) -> Step:
    """A step of so many environments, of the types that a loop carries."""
    observation = jnp.zeros_like(envs.observation)
    zero, no = jnp.zeros_like(envs.episode_return), jnp.zeros(len(envs.episode), bool)
    fields: dict[str, Any] = {
        "observation": observation,
        "reward": zero,
        "terminated": no,
        "truncated": no,
        "reset_observation": observation,
        "begun": no,
        "episode_return": zero,
        "episode_length": jnp.zeros_like(envs.episode_length),
        "success": no,
    }
    return Step(**fields)
