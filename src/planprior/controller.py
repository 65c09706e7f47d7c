"""An agent at a fixed rate: it plans in a thread of its own and never lets one wait.

    tick k          the observation of tick k comes in; the action planned for it,
                    meanwhile, goes out; planning for tick k + 1 begins
    until k + 1     from the state that observation and action lead to (one period of
                    delay, made up for by the world model), iteration by iteration; the
                    best mean so far is always ready
    tick k + 1      what is ready goes out, finished or not

Where nothing is ready, the controller says so and falls back: to the policy's action at
the same predicted state; to the next action of the last plan; to the policy's at what
is seen now; at worst to what it did last. Nothing here learns, remembers or simulates.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from planprior import portable
from planprior.actor import CanAct
from planprior.anytime import Best, Budget, CompiledPlanner, Planner, Times
from planprior.latency import Histogram
from planprior.search import aged

SPARE = 0.1
"""Share of a period that planning leaves free, for the rest of the loop."""

MOST_HZ = 10_000.0


class Source(StrEnum):
    """Where an action came from, the best first."""

    PLAN = "plan"
    REDUCED = "reduced plan"
    FIRST = "policy at the start"
    POLICY = "policy"
    CONTINUED = "last plan continued"
    HELD = "last action held"


MISSED = (Source.POLICY, Source.CONTINUED, Source.HELD)
"""Sources of a tick for which no plan was ready."""


class Decision(NamedTuple):
    """One action, and where it came from.

    Attributes:
        action: What goes out, [A].
        source: Where it came from.
        samples: Samples of the plan; 0 without one.
        iterations: Its iterations.
    """

    action: np.ndarray
    source: Source
    samples: int = 0
    iterations: int = 0


class Ready(NamedTuple):
    """What a job has come to by a moment.

    Attributes:
        at: That moment.
        policy: The policy's action at the predicted state.
        best: The plan's, after an iteration.
        iterations: How many.
        level: At which size.
    """

    at: float
    policy: np.ndarray
    best: Best | None = None
    iterations: int = 0
    level: int = 0


@dataclass
class Job:
    """To plan the action of a tick from the observation of the one before.

    Attributes:
        tick: The tick.
        observation: What is known, [O].
        pending: The action until then, [A].
        warm_start: The mean to start from, [H, A].
        posted: When it was posted.
        deadline: When it must be done.
        ready: What it has come to, oldest first.
    """

    tick: int
    observation: np.ndarray
    pending: np.ndarray
    warm_start: np.ndarray
    posted: float
    deadline: float
    ready: list[Ready] = field(default_factory=list)


@runtime_checkable
class Worker(Protocol):
    """Where jobs are carried out."""

    def post(self, job: Job) -> None:
        """Carry out a job, instead of any that has not begun; return at once."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


class ThreadWorker:
    """One thread that always carries out the newest job."""

    def __init__(self, carry_out: Callable[[Job], None]) -> None:
        self._carry_out = carry_out
        self._condition = threading.Condition()
        self._newest: Job | None = None
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name="planprior controller", daemon=True
        )
        self._thread.start()

    def post(self, job: Job) -> None:
        """See `Worker`."""
        with self._condition:
            self._newest = job
            self._condition.notify()

    def close(self) -> None:
        """Stop after the job in hand."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._newest or self._closed)
                if self._closed:
                    return
                job, self._newest = self._newest, None
            assert job is not None
            self._carry_out(job)


class Controller:
    """A receding-horizon loop with a deadline.

    Call `act` once per period with the latest observation; the caller keeps the time,
    for the clock of a robot is the robot's. `act` never waits for the planner.

    Attributes:
        hz: Actions per second.
        last: The last decision.
        error: What stopped the planner, if anything did; the policy then goes on alone.
        latency: From an observation to the plan made from it, per plan.
        calls: What a call of `act` took.

    Example:
        with Controller.load("agent/", hz=50) as controller:
            controller.reset()
            while True:
                robot.apply(controller.act(robot.observe()))  # every 20 ms
    """

    def __init__(
        self,
        agent: CanAct,
        hz: float = 50.0,
        *,
        max_rate: float | None = None,
        compensate: bool = True,
        seed: int = 0,
        planner: Planner | None = None,
        worker: Callable[[Callable[[Job], None]], Worker] = ThreadWorker,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Compile and time the planner's programs, which takes some seconds.

        Args:
            agent: An `Agent`, or the `Actor` that `planprior.portable.load` gives.
            hz: Actions per second.
            max_rate: The most that an entry of the action may change per second; it
                starts from 0. The whole range, −1 to 1, is 2.
            compensate: Plan for the state one period ahead. Without, for that of the
                observation, which is a period old when the action goes out.
            seed: Of what is random in planning.
            planner: The programs, where not the agent's own.
            worker: What carries out jobs, where not a thread.
            clock: Seconds, where not the system's.

        Raises:
            ValueError: The rate, or the greatest change, is not above 0.
        """
        if not 0 < hz <= MOST_HZ:
            raise ValueError(f"hz is {hz}; it must be above 0 and at most {MOST_HZ:g}")
        if max_rate is not None and not max_rate > 0:
            raise ValueError(f"max_rate is {max_rate}; it must be above 0")
        self.hz, self.spec = hz, agent.spec
        self._horizon, self._max_rate, self._clock = (
            agent.config.horizon,
            max_rate,
            clock,
        )
        self._planner = planner or CompiledPlanner(
            agent, compensate=compensate, seed=seed
        )
        self.times: list[Times] = self._planner.measure()
        self._budget = Budget(self._planner.levels, self.times)
        self.latency, self.calls = Histogram(), Histogram()
        self.error: BaseException | None = None
        self.sources: Counter[Source] = Counter()
        self.bad_observations = 0
        self._tick = 0
        self.reset()
        self._worker = worker(self._carry_out)

    @classmethod
    def load(cls, path: str | Path, hz: float = 50.0, **options: Any) -> "Controller":
        """Load an agent folder and control with it; options as for the class.

        Nothing of training is loaded, and no simulator.

        Raises:
            CheckpointError: It is no agent folder, or damaged.
        """
        return cls(portable.load(path), hz, **options)

    def __enter__(self) -> "Controller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread."""
        self._worker.close()

    def reset(self) -> None:
        """Forget plan, action and whatever is being planned: an episode begins."""
        self._job: Job | None = None
        self._mean = np.zeros((self._horizon, self.spec.action_dim), np.float32)
        self._mean_tick: int | None = None
        self._applied = np.zeros(self.spec.action_dim, np.float32)
        # A number that no job of the last episode has.
        self._tick += self._horizon + 2
        self._first = True
        self.last: Decision | None = None

    def act(self, observation: ArrayLike) -> np.ndarray:
        """Give the action of this tick, and begin to plan that of the next.

        Args:
            observation: What is seen now, [O]. Where it is not finite, it is counted,
                nothing is planned from it, and the last plan goes on.

        Returns:
            The action, float32 [A] in [−1, 1]; `last` says where it came from.

        Raises:
            ValueError: The observation has another shape.
        """
        now = self._clock()
        seen = self._check(observation)
        finite = bool(np.isfinite(seen).all())
        decision = self._decide(seen if finite else None, now)
        action = self._limited(decision.action)
        self.last = decision._replace(action=action)
        self.sources[decision.source] += 1
        self._applied, self._first = action, False
        self._tick += 1
        if finite:
            self._post(seen, now)
        else:
            self.bad_observations += 1
        self.calls.add(self._clock() - now)
        return action.copy()

    def report(self) -> dict[str, Any]:
        """What happened so far, as JSON can hold it.

        Returns:
            Latencies of plans and of calls (p50, p95, p99, max, in milliseconds; None
            where there was none), the histogram, actions by source, missed deadlines,
            bad observations, how slow the machine is against an idle one, and what
            stopped the planner.
        """
        error = self.error
        return {
            "hz": self.hz,
            "actions": self.sources.total(),
            "latency_ms": self.latency.summary(),
            "call_ms": self.calls.summary(),
            "histogram": self.latency.to_json(),
            "sources": {source.value: self.sources[source] for source in Source},
            "missed": sum(self.sources[source] for source in MISSED),
            "bad_observations": self.bad_observations,
            "slowness": self._budget.slowness,
            # Some say nothing but their name: that memory is short, for one.
            "error": None if error is None else str(error) or type(error).__name__,
        }

    # --- At a tick --------------------------------------------------------------------

    def _check(self, observation: ArrayLike) -> np.ndarray:
        seen = np.array(observation, np.float32)
        wanted = (self.spec.observation_dim,)
        if seen.shape != wanted:
            raise ValueError(
                f"the observation has shape {seen.shape}; {self.spec.name} needs "
                f"{wanted}"
            )
        return seen

    def _decide(self, seen: np.ndarray | None, now: float) -> Decision:
        """The best that is ready by now."""
        ready = self._ready(now)
        if ready is not None and ready.best is not None:
            self._mean, self._mean_tick = ready.best.mean, self._tick
            level = self._planner.levels[ready.level]
            whole = ready.level == 0 and ready.iterations == level.iterations
            source = Source.PLAN if whole else Source.REDUCED
            return Decision(ready.best.action, source, level.samples, ready.iterations)
        if ready is not None:
            return Decision(ready.policy, Source.POLICY)
        age = self._age()
        if age is not None:
            return Decision(np.clip(self._mean[age], -1, 1), Source.CONTINUED)
        return self._without_plan(seen)

    def _without_plan(self, seen: np.ndarray | None) -> Decision:
        if seen is not None:
            action = self._planner.policy(seen)
            if np.isfinite(action).all():
                return Decision(action, Source.FIRST if self._first else Source.POLICY)
        return Decision(self._applied, Source.HELD)

    def _ready(self, now: float) -> Ready | None:
        job = self._job
        if job is None or job.tick != self._tick:
            return None
        return next((r for r in reversed(job.ready) if r.at <= now), None)

    def _age(self) -> int | None:
        """Which row of the last plan is this tick's."""
        if self._mean_tick is None:
            return None
        age = self._tick - self._mean_tick
        return age if age < self._horizon else None

    def _limited(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float32)
        if self._max_rate is not None:
            change = float(self._max_rate / self.hz)  # NumPy's would make it float64
            action = np.clip(action, self._applied - change, self._applied + change)
        return np.clip(action, -1.0, 1.0)

    def _post(self, seen: np.ndarray, now: float) -> None:
        deadline = now + (1 - SPARE) / self.hz
        warm = self._warm_start()
        self._job = Job(self._tick, seen, self._applied, warm, now, deadline)
        if self.error is None:
            self._worker.post(self._job)

    def _warm_start(self) -> np.ndarray:
        """The last mean; the planner itself shifts it by one tick."""
        if self._mean_tick is None:
            return np.zeros_like(self._mean)
        return aged(self._mean, self._tick - 1 - self._mean_tick)

    # --- Between ticks, in the worker -------------------------------------------------

    def _carry_out(self, job: Job) -> None:
        try:
            self._plan(job)
        except Exception as error:
            # It must not take the loop with it: the policy goes on, `error` says why.
            self.error = error

    def _plan(self, job: Job) -> None:
        budget, began = self._budget, self._clock()
        level = budget.choose(job.deadline - began)
        search, policy = self._planner.begin(
            level, job.observation, job.pending, job.warm_start, job.tick
        )
        now = self._clock()
        budget.observe(now - began, self.times[level].begin)
        if np.isfinite(policy).all():
            job.ready.append(Ready(now, policy))
        for i in range(self._planner.levels[level].iterations):
            # The first is tried whatever the time: late is better than never, since
            # what is learned of the machine's pace helps the next tick.
            if i and (now + budget.step(level) > job.deadline or job is not self._job):
                break
            search, best = self._planner.improve(level, search, i)
            began, now = now, self._clock()
            budget.observe(now - began, self.times[level].step)
            if not np.isfinite(best.mean).all():
                break
            job.ready.append(Ready(now, policy, best, i + 1, level))
        self.latency.add(now - job.posted)
