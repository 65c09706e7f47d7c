"""How fast a method runs on this machine: its parts, the whole, and what bounds them.

A *subject* is a population of so many members with a filled replay. Its parts are
timed in turns with those of the others, so that whatever else the machine does disturbs
all of them alike, and the least of the times is reported beside the median.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np

from planprior.envs.base import Env, Outcome
from planprior.envs.pool import LocalPool, Pool
from planprior.experiment import Experiment
from planprior.flops import plan_flops, update_flops
from planprior.hlo import count_kernels
from planprior.mapping import on_accelerator
from planprior.population import Population
from planprior.schedule import exact, renews
from planprior.spec import EnvSpec
from planprior.timing import Shares

PARTS = ("plan", "update", "store", "transfer")
"""Of every decision; where a method plans again, there is `reanalyse` as well."""
ROWS = 64
"""Decisions in the replay; what a gather costs does not depend on it."""


class Timing(NamedTuple):
    """Seconds of many repeats."""

    least: float
    median: float


class Program(NamedTuple):
    """A compiled program.

    Attributes:
        compile_seconds: What compiling took, without tracing.
        kernels: What one call starts, by opcode; see `hlo.count_kernels`.
        memory: Bytes of its arguments, its results and what it needs beside them.
    """

    compile_seconds: float
    kernels: dict[str, int]
    memory: dict[str, int]


def compiled(lowered: jax.stages.Lowered) -> Program:
    """Compile a program."""
    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    sizes = program.memory_analysis()
    memory = {
        kind: int(getattr(sizes, f"{kind}_size_in_bytes", 0))
        for kind in ("argument", "output", "temp")
    }
    return Program(seconds, dict(count_kernels(program.as_text() or "")), memory)


def matmul_peak(sizes: Sequence[int] = (), *, seconds: float = 2.0) -> float:
    """Operations per second of large square float32 products, at JAX's precision now.

    The best of several sizes, a chain of products per call: what the machine can do,
    not what its data sheet says.
    """
    sizes = sizes or ((4096, 8192) if on_accelerator() else (512, 1024))
    return max(_product_rate(n, seconds / len(sizes)) for n in sizes)


def _product_rate(n: int, seconds: float, length: int = 4) -> float:
    # The products are nearly orthogonal matrices, so that numbers stay of one size.
    left, right = (jax.random.normal(jax.random.key(i), (n, n)) for i in (0, 1))
    right = right / np.sqrt(n)

    @jax.jit
    def chain(x: jax.Array) -> jax.Array:
        for _ in range(length):
            x = x @ right
        return x

    chain(left).block_until_ready()
    least, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        chain(left).block_until_ready()
        least = min(least, time.perf_counter() - start)
    return 2 * n**3 * length / least


class Idle(Env):
    """An environment that takes no time: what a training costs without a simulator."""

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec
        rng = np.random.default_rng(0)
        observation = rng.normal(size=spec.observation_dim).astype(np.float32)
        self._outcome = Outcome(observation, 0.5, False, False)
        self._last = self._outcome._replace(truncated=True)
        self._steps = 0

    def reset(self, seed: int | None = None) -> np.ndarray:
        """What it always shows."""
        self._steps = 0
        return self._outcome.observation

    def step(self, action: np.ndarray) -> Outcome:
        """The same answer again, until the time limit."""
        self._steps += 1
        over = self._steps >= self.spec.episode_length
        return self._last if over else self._outcome


def idle_pool(spec: EnvSpec, num_envs: int) -> Pool:
    """Environments that take no time."""
    return LocalPool(lambda seed: Idle(spec), num_envs, 0)


class Subject:
    """A population, its compiled programs, and its parts as things to be timed.

    Attributes:
        population: The population.
        updates: Gradient steps that are one call.
        rate: Gradient steps per step of a member's environments.
        interval: Gradient steps between two reanalyses; 0 is never.
        parts: Names of its parts.
        programs: Its compiled programs.
    """

    def __init__(self, experiment: Experiment, members: int, updates: int) -> None:
        """Build so many members and fill their replay; `compile` has to follow.

        Args:
            experiment: What is trained.
            members: P.
            updates: Gradient steps that are one call.
        """
        train = experiment.train
        self.population = population = Population(
            experiment.spec,
            experiment.config,
            [train.seed + i for i in range(members)],
            members * [experiment.hypers],
            num_envs=train.num_envs,
            capacity=2 * ROWS * train.num_envs,
        )
        self.updates, self._count = updates, 0
        # Gradient steps a decision of all environments; what a call lacks comes later.
        self.rate = train.num_envs * exact(train.updates_per_step)
        self.interval = experiment.config.reanalysis.interval
        self.parts = (*PARTS, *(["reanalyse"] if self.interval else []))
        self._pool = idle_pool(experiment.spec, members * train.num_envs)
        shape = (members, train.num_envs)
        self._observation = self._pool.reset().reshape(*shape, -1)
        still = np.zeros((members * train.num_envs, experiment.spec.action_dim))
        self._answer = self._pool.step(still)
        self._reset = np.zeros(shape, bool)
        self._warm_start = population.cold_start()
        self.agents, self.replay = population.init(), population.init_replay()
        self._fill()
        self.programs: dict[str, Program] = {}

    def lower(self) -> dict[str, jax.stages.Lowered]:
        """Trace the programs."""
        population = self.population
        return {
            "plan": population.lower_act(self.agents, self._observation),
            "update": population.lower_update(self.agents, self.replay, self.updates),
        }

    def compile(self, lowered: dict[str, jax.stages.Lowered] | None = None) -> None:
        """Compile the programs, and trace them unless that is done."""
        lowered = lowered or self.lower()
        self.programs = {name: compiled(program) for name, program in lowered.items()}

    def _fill(self) -> None:
        self.replay = self.population.begin(self.replay, self._observation)
        self._seen = self.population.seen(self._answer)
        for step in range(ROWS):
            self._decision = self.population.act_randomly(step)
            self.run("store")

    def run(self, part: str) -> None:
        """Run one part and wait for it."""
        getattr(self, f"_{part}")()

    def _plan(self) -> None:
        decision, _ = self.population.act(
            self.agents, self._observation, self._warm_start, self._reset, 0
        )
        self._decision = jax.block_until_ready(decision)

    def _update(self) -> None:
        self.agents, metrics = self.population.update(
            self.agents, self.replay, self._count, num_updates=self.updates
        )
        self._count += self.updates
        jax.block_until_ready((self.agents, metrics))

    def _reanalyse(self) -> None:
        self.replay = jax.block_until_ready(
            self.population.reanalyse(self.agents, self.replay, self._count)
        )

    def _store(self) -> None:
        self.replay = self.population.add(
            self.replay, self._decision, self._seen, self._count
        )
        jax.block_until_ready(self.replay)

    def _transfer(self) -> None:
        # A fresh array: the host keeps a copy of one that it has seen.
        np.asarray(self._decision.for_host + 0)
        self._seen = jax.block_until_ready(self.population.seen(self._answer))

    def _learn(self) -> Any:
        """One call of the updates, plans renewed before it where they are due."""
        population = self.population
        if renews(self._count, self.interval, self.updates):
            self.replay = population.reanalyse(self.agents, self.replay, self._count)
        self.agents, metrics = population.update(
            self.agents, self.replay, self._count, num_updates=self.updates
        )
        self._count += self.updates
        return metrics

    def loop(self, pool: Pool, decisions: int, shares: Shares) -> None:
        """Train for some decisions, with the environments beside the updates.

        The order of `training.py`: dispatch the plan, wait for the update before,
        dispatch the next, fetch, step, store.
        """
        population = self.population
        shape = (population.num_members, population.num_envs)
        seen = pool.reset(0).reshape(*shape, -1)
        reset, warm_start = np.ones(shape, bool), population.cold_start()
        metrics: Any = ()
        due = Fraction(0)
        for step in range(decisions):
            with shares.section("plan"):
                decision, _ = population.act(self.agents, seen, warm_start, reset, step)
            with shares.section("update"):
                jax.block_until_ready(metrics)
                due += self.rate
                while due >= self.updates:
                    metrics = self._learn()
                    due -= self.updates
            with shares.section("plan"):
                action, _ = population.fetch(decision)
            with shares.section("env"):
                outcome = pool.step(action.reshape(pool.num_envs, -1))
            with shares.section("transfer"):
                answer = population.seen(outcome)
            with shares.section("store"):
                self.replay = population.add(self.replay, decision, answer, self._count)
            warm_start = decision.warm_start
            seen, reset = answer.reset_observation, answer.begun
        with shares.section("update"):
            jax.block_until_ready((metrics, self.replay))


def time_parts(subjects: Sequence[Subject], repeats: int) -> list[dict[str, Timing]]:
    """Time the parts of all subjects in turns, after one run that does not count.

    Reanalysis, which takes as long as many plans, is timed as seldom as it comes.
    """
    for subject in subjects:
        for part in subject.parts:
            subject.run(part)
    taken: list[dict[str, list[float]]] = [
        {part: [] for part in subject.parts} for subject in subjects
    ]
    for repeat in range(repeats):
        for subject, times in zip(subjects, taken, strict=True):
            for part in times:
                if part == "reanalyse" and repeat % subject.interval:
                    continue
                start = time.perf_counter()
                subject.run(part)
                times[part].append(time.perf_counter() - start)
    return [
        {part: Timing(min(t), float(np.median(t))) for part, t in times.items()}
        for times in taken
    ]


class Whole(NamedTuple):
    """What a training loop reached.

    Attributes:
        env_steps_per_second: Of all members together.
        shares: Share of the time that the loop waited in each part.
    """

    env_steps_per_second: float
    shares: dict[str, float]


def time_whole(subject: Subject, pool: Pool, decisions: int) -> Whole:
    """Run the training loop and tell its speed; the first decisions do not count."""
    subject.loop(pool, 2, Shares())
    shares, start = Shares(), time.perf_counter()
    subject.loop(pool, decisions, shares)
    seconds = time.perf_counter() - start
    steps = decisions * pool.num_envs * pool.spec.action_repeat
    return Whole(steps / seconds, shares.shares())


class Result(NamedTuple):
    """Everything that was measured of one number of members.

    Attributes:
        members: P.
        updates: Gradient steps per call.
        programs: Compiling, kernels, memory.
        seconds: Of each part, for all members together; updates per gradient step.
        reanalysis: States of a member that a reanalysis plans for, and gradient steps
            between two; None where there are none.
        flops: Operations of a call's plan and of one gradient step, all members.
        peak_share: Share of the machine's peak that plan and update reach.
        alone: The loop with environments that take no time.
        simulated: The loop with the real ones, where they are installed.
        peak_bytes: Most memory of the device so far; None where it does not tell.
    """

    members: int
    updates: int
    programs: dict[str, Program]
    seconds: dict[str, Timing]
    reanalysis: tuple[int, int] | None
    flops: dict[str, int]
    peak_share: dict[str, float]
    alone: Whole
    simulated: Whole | None
    peak_bytes: int | None


def peak_bytes() -> int | None:
    """Most bytes that JAX has held on the first device; None where it does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def result(
    subject: Subject,
    seconds: dict[str, Timing],
    peak: float,
    alone: Whole,
    simulated: Whole | None,
) -> Result:
    """Put together what was measured of a subject."""
    population, updates = subject.population, subject.updates
    members, spec = population.num_members, population.spec
    update = seconds["update"]
    per_update = Timing(update.least / updates, update.median / updates)
    seconds = seconds | {"update": per_update}
    flops = {
        "plan": members * population.num_envs * plan_flops(spec, population.config),
        "update": members * update_flops(spec, population.config),
    }
    shares = {part: n / seconds[part].least / peak for part, n in flops.items()}
    states = population.config.horizon * population.config.reanalysis.num_slices
    again = (states, subject.interval) if subject.interval else None
    return Result(
        members, updates, subject.programs, seconds, again, flops, shares, alone,
        simulated, peak_bytes(),
    )  # fmt: skip


@contextmanager
def closing(pool: Pool | None) -> Iterator[Pool | None]:
    """Close a pool, if there is one."""
    try:
        yield pool
    finally:
        if pool is not None:
            pool.close()


def run(
    experiment: Experiment,
    members: Sequence[int],
    *,
    repeats: int,
    make_pool: Callable[[int], Pool] | None,
) -> tuple[float, list[Result]]:
    """Measure a method for several numbers of members.

    Args:
        experiment: The task, its sizes and the method.
        members: Numbers of members.
        repeats: How often each part is timed; the loop makes as many decisions.
        make_pool: Builds so many real environments, where there are any.

    Returns:
        The machine's peak in operations per second, and one result per number.
    """
    peak = matmul_peak()
    train = experiment.train
    updates = max(1, math.floor(train.num_envs * exact(train.updates_per_step)))
    subjects = [Subject(experiment, count, updates) for count in members]
    for subject in subjects:
        subject.compile()
    seconds = time_parts(subjects, repeats)
    results = []
    for subject, times in zip(subjects, seconds, strict=True):
        count = subject.population.num_members * train.num_envs
        alone = time_whole(subject, idle_pool(experiment.spec, count), repeats)
        with closing(make_pool(count) if make_pool else None) as pool:
            simulated = pool and time_whole(subject, pool, repeats)
        results.append(result(subject, times, peak, alone, simulated))
    return peak, results
