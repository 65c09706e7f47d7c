"""The loop: act, learn, step, remember; evaluate, log and save on the way.

Two kinds of steps are counted. A *decision* is one action of every environment of a
member; what a user sees are *environment steps*, decisions × environments × action
repeat. All schedules follow from the number of decisions and of gradient steps alone,
so a training that resumes needs no other memory of them.

All members are at the same step. What is random in one follows from its own seed, never
from its place among the others, so it does what it would do alone.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from planprior import evaluation
from planprior.envs.base import EnvError, StateError
from planprior.envs.pool import Pool
from planprior.envs.process import WorkerError
from planprior.experiment import Experiment
from planprior.log import RunFolder
from planprior.population import Decision, Population, describe_fault
from planprior.programs import ACTION_FAULT
from planprior.progress import Progress
from planprior.replay import Replay
from planprior.reporting import Reporter
from planprior.saving import Saving, Start
from planprior.schedule import Counters, Schedule
from planprior.state import AgentState
from planprior.tensorfile import CheckpointError
from planprior.timing import Shares


class TrainingError(RuntimeError):
    """A training that cannot go on, in one sentence."""


class EvaluationError(EnvError):
    """An environment that evaluates broke; those that collect are well."""


class Tools(NamedTuple):
    """What a training uses and does not own.

    Attributes:
        pool: The environments that collect, P · E of them.
        evaluation_pool: The environments that evaluate.
        run: The tables.
        saving: Where the training is saved.
        progress: The display.
        stop: Whether to end after this step.
    """

    pool: Pool
    evaluation_pool: Pool
    run: RunFolder
    saving: Saving
    progress: Progress
    stop: Callable[[], bool]


class Training:
    """A population that learns in its environments.

    Attributes:
        counters: Where it is.
        agents: All members.
        replay: Their replays.
    """

    def __init__(
        self,
        experiment: Experiment,
        population: Population,
        tools: Tools,
    ) -> None:
        """Prepare a training; nothing runs before `run`.

        Args:
            experiment: What to train.
            population: Its programs.
            tools: What it uses.
        """
        self.experiment, self.population, self.tools = experiment, population, tools
        train, spec = experiment.train, experiment.spec
        self.schedule = Schedule(
            num_envs=train.num_envs,
            repeat=spec.action_repeat,
            seed_decisions=experiment.seed_decisions,
            updates_per_step=train.updates_per_step,
            reanalysis=experiment.config.reanalysis.interval,
            log_every=train.log_every,
        )
        self.total = experiment.decisions
        self.counters = Counters()
        self._start: Start | None = None
        self.agents: AgentState = population.init()
        self.replay: Replay = population.init_replay()
        self._warm_start = population.cold_start()
        self._shares = Shares()
        self._metrics: Mapping[str, Any] = {}
        self._plan_metrics: Mapping[str, Any] = {}
        self._saved = (-1, -1, -1)
        self._fault: Any = population.no_fault()
        self._reporter = Reporter(
            experiment.members,
            self.schedule,
            tools.run,
            tools.progress,
            spec.has_success,
        )

    # --- Saving -----------------------------------------------------------------------

    def save(self, score: float | None = None, *, episodes: bool = True) -> None:
        """Write all that is needed to go on.

        Args:
            score: By which the best checkpoint is chosen.
            episodes: Whether to keep the running episodes too, if the environments can
                tell their state.
        """
        self._note_faults()
        self._count_seconds()
        with self._shares.section("save"):
            self.tools.run.sync()
            self.tools.saving.save(
                self.env_steps,
                self.agents,
                self.replay,
                vars(self.counters),
                metrics=jax.device_get(dict(self._metrics)),
                episodes=self._episodes() if episodes else None,
                score=score,
            )
        self._saved_at, self._saved = time.monotonic(), self._place()

    def _place(self) -> tuple[int, int, int]:
        """Where the training is, as far as there is something to save."""
        counters = self.counters
        return counters.decisions, counters.updates, counters.evaluated_at

    def _episodes(self) -> dict[str, Any] | None:
        """What the running episodes need to be gone on with, if that can be told."""
        pool = self.tools.pool.state()
        if pool is None:
            return None
        reset = np.asarray(self._reset)
        return {"pool": pool, "reset": reset, "warm_start": self._warm_start}

    def restore(self, start: Start) -> None:
        """Go on from a checkpoint; `run` restores its episodes."""
        saving, num_envs = self.tools.saving, self.schedule.num_envs
        self.counters = start.counters
        self.agents = saving.load_agents(start, self.agents)
        most = max(self.experiment.train.buffer_size, self.population.capacity)
        del self.replay  # there may be no room for another one beside it
        self.replay = saving.load_replay(start, most // num_envs, self._empty_replay)
        self._fault = self.population.no_fault()
        self._fault[[int(member) for member in self.counters.frozen]] = 1
        self._metrics = start.metrics
        self._start, self._saved = start, self._place()

    def _empty_replay(self, room: int) -> Replay:
        room *= self.schedule.num_envs
        return self.population.init_replay(max(room, self.population.capacity))

    # --- Running ----------------------------------------------------------------------

    @property
    def env_steps(self) -> int:
        """Environment steps made by each member."""
        return self.schedule.env_steps(self.counters.decisions)

    def run(self) -> bool:
        """Train until the end, or until asked to stop.

        Returns:
            Whether it came to the end.

        Raises:
            EnvError: An environment broke; what was learned until then is saved.
            WorkerError: As above, for a worker process.
            TrainingError: The training diverged.
        """
        self._clock = time.monotonic() - self.counters.seconds
        self._saved_at = time.monotonic()
        try:
            return self._run()
        except EvaluationError:
            raise  # all was saved where it broke
        except (EnvError, WorkerError) as error:
            if isinstance(error, EnvError):
                if self.tools.stop():
                    return self._stop_without_environments(error)
                self._name_member(error, self.tools.pool)
            # A worker's end leaves the episodes that a checkpoint of this step has. An
            # environment that broke would break again, if they were gone on with.
            anew = self.counters.decisions > self._saved[0]
            if self.counters.decisions and (anew or isinstance(error, EnvError)):
                self._save_after(error, episodes=False)
            raise

    def _stop_without_environments(self, error: EnvError) -> bool:
        """Save as at any stop, but for the episodes.

        A signal goes to the whole group, and so to processes that an environment has
        started itself: they may have left before the last step was made.
        """
        self._reporter.say(f"the environments have ended first: {error}")
        if self._place() != self._saved:
            self.save(episodes=False)
        return False

    def _save_after(self, error: EnvError | WorkerError, *, episodes: bool) -> None:
        """Save what was learned before an environment broke, which is what to tell."""
        try:
            self.save(episodes=episodes)
        except (OSError, ValueError, RuntimeError) as failed:
            error.args = (f"{error}; nor could what was learned be saved: {failed}",)

    def _name_member(self, error: EnvError, pool: Pool) -> None:
        """Add to an error whose environment it was, where there are several members."""
        members, place = self.experiment.members, error.environment
        if place is not None and len(members) > 1:
            i = place * len(members) // pool.num_envs
            error.args = (f"{error} (member {i}: {members[i].describe()})",)
            error.environment = None  # it is named now

    def _run(self) -> bool:
        self._begin_episodes()
        if self._evaluation_due():
            self.evaluate()  # that of this step was interrupted
        while self.counters.decisions < self.total and not self.tools.stop():
            self._catch_up()
            if not self.tools.stop():
                self._step()
                self._after_step()
        finished = self.counters.decisions >= self.total and self._finish()
        if not finished and self._place() != self._saved:
            self.save()
        return finished

    def _finish(self) -> bool:
        """Do what belongs to the last decision; return whether it is done."""
        self._catch_up()
        if self._updates_missing(self.schedule.updates_due(self.counters.decisions)):
            return False
        return self.counters.evaluated_at >= self.env_steps or self.evaluate()

    def _begin_episodes(self) -> None:
        """Begin new episodes, or go on with those that were saved."""
        # Other seeds after every resume, or the same first states would come again.
        seeds = self._seeds_for(0)
        observation = self.tools.pool.reset(seeds)
        shape = (self.population.num_members, self.schedule.num_envs)
        self._reset: Any = np.ones(shape, bool)
        saved = self._saved_episodes()
        if saved is not None:
            try:
                observation = self.tools.pool.set_state(saved["pool"])
                self._reset, self._warm_start = saved["reset"], saved["warm_start"]
            except StateError as error:
                self._reporter.say(f"new episodes begin: {error}")
                observation, saved = self.tools.pool.reset(seeds), None
        self._observation: Any = observation.reshape(*shape, -1)
        if saved is None:
            self.replay = self.population.begin(self.replay, self._observation)

    def _saved_episodes(self) -> dict[str, Any] | None:
        like = self._episodes() if self._start else None
        if self._start is None or like is None:
            return None
        try:
            return self.tools.saving.load_episodes(self._start, like)
        except CheckpointError as error:
            # Of another version of the simulator: no reason to lose the training.
            self._reporter.say(f"new episodes begin: {error}")
            return None

    def _seeds_for(self, purpose: int) -> list[int]:
        """A seed for each member, from its own and the number of decisions."""
        return [
            _mix(member.seed, purpose, self.counters.decisions)
            for member in self.experiment.members
        ]

    def _step(self) -> None:
        """Make one decision, and what belongs to it."""
        counters, shares = self.counters, self._shares
        planned_at = counters.updates
        with shares.section("plan"):
            decision = self._decide()
        # Not before: a plan that is in the queue starts as soon as the update is done.
        with shares.section("update"):
            jax.block_until_ready(self._metrics)
        # Before the actions are there: neither needs the other, so a CPU's second core
        # learns meanwhile, and a GPU's host starts one's kernels while the other's run.
        if self.experiment.train.overlap:
            self._learn_beside(counters.decisions + 1)
        with shares.section("plan"):
            action, fault = self.population.fetch(decision)
        self._note_faults(fault)
        with shares.section("env"):
            pool = self.tools.pool
            outcome = pool.step(action.reshape(pool.num_envs, -1))
        seen = self.population.seen(outcome)
        with shares.section("store"):
            self.replay = self.population.add(self.replay, decision, seen, planned_at)
        counters.decisions += 1
        self._observation, self._reset = seen.reset_observation, seen.begun
        self._reporter.episodes(outcome, counters)
        if not self.experiment.train.overlap:
            self._learn_beside(counters.decisions)
        self._add_faults(fault)
        self._count_seconds()
        if self.schedule.logs(counters.decisions):
            self._log(self._take_shares())

    def _catch_up(self) -> None:
        """Make the gradient steps that were missed, unless told to stop."""
        decisions = self.counters.decisions
        due = self.schedule.updates_due(decisions)
        self._learn_until(due, decisions + 1, stop=self.tools.stop)

    def _learn_beside(self, decisions: int) -> None:
        """Make the gradient steps that belong to the decision being carried out.

        Not those that were missed while acting randomly: they have the loop to
        themselves. No step is left half done, so that a training which goes on makes
        every update from the rows from which it would have been made.
        """
        if not self.schedule.is_random(decisions - 1):
            due = self.schedule.updates_due(decisions)
            self._learn_until(due, decisions, stop=lambda: False)

    def _decide(self) -> Decision:
        decisions = self.counters.decisions
        if self.schedule.is_random(decisions):
            return self.population.act_randomly(decisions)
        decision, self._plan_metrics = self.population.act(
            self.agents, self._observation, self._warm_start, self._reset, decisions,
            self._fault,
        )  # fmt: skip
        self._warm_start = decision.warm_start
        return decision

    def _learn_until(self, due: int, logging: int, *, stop: Callable[[], bool]) -> None:
        """Make the gradient steps that are due, in calls of the same length.

        Args:
            due: How many there are to be.
            logging: The first decision after which losses may be logged.
            stop: Whether to leave the rest.
        """
        at_once, counters = self.schedule.updates_at_once, self.counters
        if counters.updates == 0 and self._updates_missing(due):
            self._check_slices()
            self._reporter.say(
                f"learning begins with {due} updates on the {self.env_steps} env steps "
                "so far, as soon as its programs are compiled"
            )
        with self._shares.section("update"):
            while self._updates_missing(due) and not stop():
                self._learn(at_once, self.schedule.is_told(logging, counters.updates))
                self._after_pretraining_call(due)

    def _updates_missing(self, due: int) -> bool:
        return self.counters.updates + self.schedule.updates_at_once <= due

    def _learn(self, num_updates: int, tell: bool) -> None:
        counters, population = self.counters, self.population
        if self.schedule.reanalyses(counters.updates):
            self.replay = population.reanalyse(
                self.agents, self.replay, counters.updates
            )
        pretraining = counters.updates < self.schedule.pretraining
        always = self.experiment.config.policy.learn_in_pretraining
        self.agents, self._metrics = population.update(
            self.agents,
            self.replay,
            counters.updates,
            num_updates=num_updates,
            learn_policy=always or not pretraining,
            fault=self._fault,
            tell=tell,
        )
        self._fault = self._metrics["fault"]
        counters.updates += num_updates

    def _check_slices(self) -> None:
        """Refuse to learn where no episode was long enough for a single slice."""
        if not self.population.can_sample(self.replay):
            horizon = self.experiment.config.horizon
            if self.counters.decisions < horizon:
                least = horizon * self.experiment.steps_per_decision
                raise TrainingError(
                    f"seed_steps is {self.experiment.random_steps}, too few for each "
                    f"environment to make the horizon = {horizon} decisions that it "
                    f"learns from; it must be at least {least}"
                )
            raise TrainingError(
                f"no episode of {self.experiment.spec.name} so far lasted horizon = "
                f"{horizon} decisions, so that there is nothing to learn from; lower "
                "--horizon, or let episodes last longer"
            )

    def _after_pretraining_call(self, due: int) -> None:
        """Show how far the pretraining is, and save in time: it may take long."""
        done, at_once = self.counters.updates, self.schedule.updates_at_once
        if done - at_once >= self.schedule.pretraining:
            return
        jax.block_until_ready(self._metrics)
        self.tools.progress.pretraining(done, self.schedule.pretraining)
        self._save_in_time()

    # --- Members that diverge ---------------------------------------------------------

    def _add_faults(self, fault: np.ndarray) -> None:
        """Take faults of plans beside those of updates."""
        if fault.any():
            self._fault = np.where(fault != 0, fault, self._fault)

    def _note_faults(self, fault: Any = None) -> None:
        """Report members that were frozen since the last call.

        Raises:
            TrainingError: There are no others.
        """
        codes = np.asarray(self._fault if fault is None else fault)
        frozen, members = self.counters.frozen, self.experiment.members
        new = [int(i) for i in np.flatnonzero(codes) if str(i) not in frozen]
        for i in new:
            what = describe_fault(int(codes[i]))
            frozen[str(i)] = f"{what} at {self.env_steps} env steps"
        if len(frozen) == len(members):
            what = "; ".join(dict.fromkeys(frozen.values()))
            checkpoints = self.tools.saving.checkpoints
            before = f"; the checkpoints in {checkpoints.folder} are from before"
            raise TrainingError(
                f"training diverged: {what}{before if checkpoints.steps() else ''}"
            )
        for i in new:
            self._reporter.frozen(i, frozen[str(i)], self.counters)

    # --- Between steps ----------------------------------------------------------------

    def _after_step(self) -> None:
        self.tools.progress.update(self.env_steps)
        if self._evaluation_due():
            self.evaluate()
        else:
            self._save_in_time()

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved_at > 60 * self.experiment.train.save_minutes:
            self.save()

    def _count_seconds(self) -> None:
        self.counters.seconds = time.monotonic() - self._clock

    def _evaluation_due(self) -> bool:
        """Whether the last decision passed a multiple that was not evaluated.

        Not where that was a random one: the agent has learned nothing, or is amid its
        pretraining.
        """
        if self.schedule.is_random(self.counters.decisions - 1):
            return False
        step, every = self.env_steps, self.experiment.eval_every
        before = step - self.experiment.steps_per_decision
        passed = step // every > before // every and self.counters.updates > 0
        return passed and self.counters.evaluated_at < step

    def _take_shares(self) -> dict[str, float]:
        """How time was spent since this was last asked."""
        shares = self._shares.shares()
        self._shares.reset()
        return shares

    def _log(self, shares: Mapping[str, float]) -> None:
        """Log the last update and plan, and how time was spent."""
        self._note_faults()
        metrics = jax.device_get(dict(self._metrics))
        if metrics:
            del metrics["fault"]
            metrics |= jax.device_get(dict(self._plan_metrics))
        self._reporter.updates(metrics, shares, self.counters)

    # --- Evaluating -------------------------------------------------------------------

    def evaluate(self) -> bool:
        """Evaluate with the planner and with the bare policy, log both, and save.

        Returns:
            Whether it was not interrupted.
        """
        self._note_faults()
        scores = {}
        with self._shares.section("eval"):
            for mode in ("plan", "policy"):
                found = self._play(mode)
                if found is None:
                    return False
                scores[mode] = found
                self._add_faults(np.where(found.finite, 0, ACTION_FAULT))
        self._note_faults()
        self._count_seconds()
        self.counters.evaluated_at = self.env_steps
        self.save(self._reporter.evaluation(scores, self.counters))
        return True

    def _play(self, mode: evaluation.Mode) -> evaluation.Scores | None:
        """Evaluation episodes in one mode; None if told to stop."""
        pool = self.tools.evaluation_pool
        try:
            return evaluation.evaluate(
                self.population,
                self.agents,
                pool,
                mode,
                self._seeds_for(1),
                count=_mix(1, self.counters.decisions),
                stop=self.tools.stop,
            )
        except EnvError as error:
            if self.tools.stop():
                return None  # as above: the signal was for its processes, too
            self._name_member(error, pool)
            # It would break at the same step for ever: agents and seeds are the same.
            self.counters.evaluated_at = self.env_steps
            broke = EvaluationError(
                f"the evaluation at {self.env_steps} env steps broke: {error}; the "
                "same command goes on without it"
            )
            self._save_after(broke, episodes=True)
            raise broke from error
        except WorkerError as error:
            self._save_after(error, episodes=True)
            raise


def _mix(*numbers: int) -> int:
    """A seed that follows from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
