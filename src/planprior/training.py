"""The loop: act, learn, step, remember; evaluate, log and save on the way.

Two kinds of steps are counted. A *decision* is one action of every environment of a
member; what a user sees are *environment steps*, decisions × environments × action
repeat. All schedules follow from the number of decisions and of gradient steps alone,
so a training that resumes needs no other memory of them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from planprior import checkpoint, evaluation
from planprior.checkpoint import Checkpoints
from planprior.envs.base import EnvError, Pool, Step
from planprior.envs.process import WorkerError
from planprior.experiment import Experiment
from planprior.log import Progress, RunFolder, Shares
from planprior.population import Decision, Population
from planprior.replay import Replay
from planprior.state import AgentState

SHOWN_LOSSES = ("consistency_loss", "reward_loss", "value_loss", "policy_loss")


class TrainingError(RuntimeError):
    """A training that cannot go on, in one sentence."""


@dataclass
class Counters:
    """Where a training is; saved with every checkpoint.

    Attributes:
        decisions: Decisions of each environment.
        updates: Gradient steps of each member.
        evaluated_at: Environment steps at the last evaluation.
        episodes: Episodes that ended, of all members.
        seconds: Wall time so far.
    """

    decisions: int = 0
    updates: int = 0
    evaluated_at: int = -1
    episodes: int = 0
    seconds: float = 0.0


class Schedule(NamedTuple):
    """When what is due, as functions of the counters.

    Attributes:
        num_envs: Environments per member.
        repeat: Environment steps per decision.
        seed_decisions: Random decisions before learning starts, over all environments.
        updates_per_step: Gradient steps per decision of one environment.
        reanalysis: Updates between two reanalyses; 0 is never.
    """

    num_envs: int
    repeat: int
    seed_decisions: int
    updates_per_step: float
    reanalysis: int

    def env_steps(self, decisions: int) -> int:
        """Environment steps after so many decisions."""
        return decisions * self.num_envs * self.repeat

    def is_random(self, decisions: int) -> bool:
        """Whether the next action is a random one."""
        return decisions * self.num_envs < self.seed_decisions

    def updates_due(self, decisions: int) -> int:
        """Gradient steps to have been made: none while acting randomly.

        Those missed until then are made up for at once, which is the pretraining of
        TD-MPC2.
        """
        if self.is_random(decisions):
            return 0
        return int(decisions * self.num_envs * self.updates_per_step)

    @property
    def pretraining(self) -> int:
        """Gradient steps before the first planned action."""
        first = -(-self.seed_decisions // self.num_envs)
        return self.updates_due(first)

    @property
    def updates_at_once(self) -> int:
        """Gradient steps that are one call."""
        return max(1, int(self.num_envs * self.updates_per_step))

    def reanalyses(self, updates: int) -> bool:
        """Whether plans are renewed before the next call of updates."""
        planned = updates - self.pretraining
        if not self.reanalysis or planned < 0:
            return False
        return planned % self.reanalysis < min(self.updates_at_once, self.reanalysis)


class Tools(NamedTuple):
    """What a training uses and does not own.

    Attributes:
        pool: The environments that collect, P · E of them.
        evaluation_pool: The environments that evaluate.
        run: The tables.
        checkpoints: The agents' checkpoints.
        replays: The replays', of which only the last are kept.
        progress: The display.
        stop: Whether to end after this step.
    """

    pool: Pool
    evaluation_pool: Pool
    run: RunFolder
    checkpoints: Checkpoints
    replays: Checkpoints
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
        meta: dict[str, Any],
    ) -> None:
        """Prepare a training; nothing runs before `run`.

        Args:
            experiment: What to train.
            population: Its programs.
            tools: What it uses.
            meta: What every checkpoint is to say of the agents.
        """
        self.experiment, self.population, self.tools = experiment, population, tools
        self._meta = meta
        train, spec = experiment.train, experiment.spec
        self.schedule = Schedule(
            num_envs=train.num_envs,
            repeat=spec.action_repeat,
            seed_decisions=experiment.seed_decisions,
            updates_per_step=train.updates_per_step,
            reanalysis=experiment.config.reanalysis.interval,
        )
        self.total = -(-train.steps // experiment.steps_per_decision)
        self.counters = Counters()
        self.agents: AgentState = population.init()
        self.replay: Replay = population.init_replay()
        self._warm_start = population.cold_start()
        self._shares = Shares()
        self._metrics: dict[str, jax.Array] = {}
        self._plan_metrics: dict[str, jax.Array] = {}
        self._nans: Any = np.zeros(population.num_members)
        self._returns: list[float] = []

    # --- Saving -----------------------------------------------------------------------

    def save(self, score: float | None = None) -> None:
        """Write agents, replay and counters.

        The replay first, so that agents that can be resumed never lack theirs.
        """
        with self._shares.section("save"):
            self.tools.run.sync()
            step, counters = self.env_steps, dict(vars(self.counters))
            replay = {"replay": self.replay}
            self.tools.replays.save(step, replay, {"capacity": self._capacity()})
            self.tools.checkpoints.save(
                step,
                {"agents": self.agents},
                {**self._meta, "counters": counters},
                score,
            )
        self._saved_at = time.monotonic()

    def _capacity(self) -> int:
        num_envs, share = self.replay.starts.shape[1:]
        return num_envs * share

    def restore(self, step: int, counters: dict[str, Any]) -> None:
        """Go on from the checkpoint of a step."""
        checkpoints, replays = self.tools.checkpoints, self.tools.replays
        loaded = checkpoint.load(checkpoints.path(step), {"agents": self.agents})
        self.agents = loaded["agents"]
        capacity = checkpoint.read_meta(replays.path(step))["capacity"]
        like = jax.eval_shape(lambda: self.population.init_replay(capacity))
        loaded = checkpoint.load(replays.path(step), {"replay": like})
        self.replay = self.population.grow_replay(loaded["replay"])
        self.counters = Counters(**counters)

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
        begun_at = self.counters.decisions
        try:
            return self._run()
        except (EnvError, WorkerError):
            if self.counters.decisions > begun_at:
                self.save()
            raise

    def _run(self) -> bool:
        self._begin_episodes()
        while self.counters.decisions < self.total and not self.tools.stop():
            self._learn_until(self.schedule.updates_due(self.counters.decisions))
            if not self.tools.stop():
                self._step()
                self._after_step()
        finished = self.counters.decisions >= self.total
        if finished:
            self._learn_until(self.schedule.updates_due(self.counters.decisions))
            finished = not self.tools.stop()
        if finished and self.counters.evaluated_at < self.env_steps:
            finished = self.evaluate()
        if not finished:
            self.save()
        return finished

    def _begin_episodes(self) -> None:
        # Another seed after every resume, or the same first states would come again.
        seed = self._seed_for(0, self.counters.decisions)
        observation = self.tools.pool.reset(seed)
        shape = (self.population.num_members, self.schedule.num_envs)
        self._observation: Any = observation.reshape(*shape, -1)
        self._reset: Any = np.ones(shape, bool)
        self.replay = self.population.begin(self.replay, self._observation)

    def _seed_for(self, purpose: int, count: int) -> int:
        entropy = [self.experiment.train.seed, purpose, count]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _step(self) -> None:
        counters, shares = self.counters, self._shares
        planned_at = counters.updates
        with shares.section("plan"):
            decision = self._decide()
            action = np.asarray(decision.action)
        if not np.isfinite(action).all():
            raise self._diverged("an action is NaN")
        if self.experiment.train.overlap:
            self._learn_beside(counters.decisions + 1)
        with shares.section("env"):
            pool = self.tools.pool
            pool.send(action.reshape(pool.num_envs, -1))
            outcome = pool.recv()
        seen = self.population.seen(outcome)
        with shares.section("store"):
            self.replay = self.population.add(self.replay, decision, seen, planned_at)
        counters.decisions += 1
        self._observation, self._reset = seen.reset_observation, seen.begun
        self._note_episodes(outcome)
        if not self.experiment.train.overlap:
            self._learn_beside(counters.decisions)
        with shares.section("update"):
            jax.block_until_ready(self._metrics)

    def _learn_beside(self, decisions: int) -> None:
        """Make the gradient steps that belong to the decision being carried out.

        Not those that were missed while acting randomly: they have the loop to
        themselves.
        """
        if not self.schedule.is_random(decisions - 1):
            self._learn_until(self.schedule.updates_due(decisions))

    def _decide(self) -> Decision:
        decisions = self.counters.decisions
        if self.schedule.is_random(decisions):
            return self.population.act_randomly(decisions)
        decision, self._plan_metrics = self.population.act(
            self.agents, self._observation, self._warm_start, self._reset, decisions
        )
        self._warm_start = decision.warm_start
        return decision

    def _learn_until(self, due: int) -> None:
        """Make the gradient steps that are due, in calls of the same length."""
        at_once = self.schedule.updates_at_once
        with self._shares.section("update"):
            while self.counters.updates + at_once <= due and not self.tools.stop():
                self._learn(at_once)
                self._show_pretraining(due)

    def _learn(self, num_updates: int) -> None:
        counters, population = self.counters, self.population
        if counters.updates == 0:
            self._check_slices()
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
        )
        self._nans = self._nans + self._metrics["nan_metrics"]
        counters.updates += num_updates

    def _check_slices(self) -> None:
        """Refuse to learn where no episode was long enough for a single slice."""
        if not self.population.can_sample(self.replay):
            horizon = self.experiment.config.horizon
            raise TrainingError(
                f"no episode of {self.experiment.spec.name} so far lasted horizon = "
                f"{horizon} decisions, so that there is nothing to learn from; lower "
                "--horizon, or let episodes last longer"
            )

    def _show_pretraining(self, due: int) -> None:
        if self.counters.updates > self.schedule.pretraining:
            return
        if self.counters.updates == self.schedule.updates_at_once:
            self.tools.progress.say(
                f"pretraining: {due} updates on the {self.env_steps} env steps of "
                "random actions"
            )
        jax.block_until_ready(self._metrics)

    # --- Between steps ----------------------------------------------------------------

    def _after_step(self) -> None:
        train, step = self.experiment.train, self.env_steps
        before = step - self.experiment.steps_per_decision
        self.counters.seconds = time.monotonic() - self._clock
        self.tools.progress.update(step)
        if step // train.log_every > before // train.log_every:
            self._log()
        every = self.experiment.eval_every
        if step // every > before // every and self.counters.updates:
            self.evaluate()
        elif time.monotonic() - self._saved_at > 60 * train.save_minutes:
            self.save()

    def _note_episodes(self, outcome: Step) -> None:
        for i in map(int, np.flatnonzero(outcome.ended)):
            self.counters.episodes += 1
            self._returns.append(float(outcome.episode_return[i]))
            member = i // self.schedule.num_envs
            length = int(outcome.episode_length[i]) * self.schedule.repeat
            self.tools.run.train(
                self._row(member, "episode")
                | {
                    "episode_reward": self._returns[-1],
                    "episode_length": length,
                    "terminated": bool(outcome.terminated[i]),
                }
                | self._success(outcome, i)
            )

    def _success(self, outcome: Step, i: int) -> dict[str, bool]:
        known = self.experiment.spec.has_success
        return {"success": bool(outcome.success[i])} if known else {}

    def _row(self, member: int, event: str) -> dict[str, Any]:
        return {
            "step": self.env_steps,
            "event": event,
            "seed": self.experiment.train.seed,
            "prior_weight": float(
                np.asarray(self.population.hypers.prior_weight)[member]
            ),
        }

    def _log(self) -> None:
        shares = self._shares.shares()
        self._shares.reset()
        returns = (
            {"last episodes": np.mean(self._returns[-5:])} if self._returns else {}
        )
        self.tools.progress.update(
            self.env_steps, returns=returns, losses=self._shown(), shares=shares
        )
        if not self._metrics:
            return
        self._check_finite()
        metrics = jax.device_get(self._metrics | self._plan_metrics)
        for member in range(self.population.num_members):
            values = {name: float(x[member]) for name, x in metrics.items()}
            values |= {"updates": self.counters.updates}
            values |= {"seconds": self.counters.seconds}
            values |= {f"time_{name}": x for name, x in shares.items()}
            self.tools.run.train(self._row(member, "update") | values)

    def _shown(self) -> dict[str, float]:
        shown = {k: self._metrics[k] for k in SHOWN_LOSSES if k in self._metrics}
        return {
            name.removesuffix("_loss"): float(np.mean(x)) for name, x in shown.items()
        }

    def _check_finite(self) -> None:
        bad = int(np.sum(self._nans))
        if bad:
            raise self._diverged(f"{bad} metrics were NaN")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"training diverged: {what} before {self.env_steps} env steps; the "
            f"checkpoints in {self.tools.checkpoints.folder} are from before"
        )

    # --- Evaluating -------------------------------------------------------------------

    def evaluate(self) -> bool:
        """Evaluate with the planner and with the bare policy, log both, and save.

        Returns:
            Whether it was not interrupted.
        """
        self._check_finite()
        seed = self._seed_for(1, self.counters.decisions)
        scores = {}
        with self._shares.section("eval"):
            for mode in ("plan", "policy"):
                scores[mode] = evaluation.evaluate(
                    self.population,
                    self.agents,
                    self.tools.evaluation_pool,
                    mode,
                    seed,
                    stop=self.tools.stop,
                )
                if scores[mode] is None:
                    return False
        self.counters.seconds = time.monotonic() - self._clock
        self.counters.evaluated_at = self.env_steps
        for member in range(self.population.num_members):
            self._log_scores(member, scores)
        plan = scores["plan"].returns
        self.tools.progress.say(
            f"evaluation at {self.env_steps} env steps: planner {plan.mean():.1f}, "
            f"policy {scores['policy'].returns.mean():.1f} "
            f"({plan.shape[1]} episodes each)"
        )
        self.save(float(plan.mean()))
        return True

    def _log_scores(self, member: int, scores: dict[str, Any]) -> None:
        plan, policy = (scores[mode].returns[member] for mode in ("plan", "policy"))
        row = self._row(member, "evaluation")
        lists = {"plan_returns": plan.tolist(), "policy_returns": policy.tolist()}
        self.tools.run.train(row | lists)
        del row["event"]
        self.tools.run.evaluation(
            {
                "step": row.pop("step"),
                "episode_reward": float(plan.mean()),
                "episode_reward_std": float(plan.std()),
                "policy_reward": float(policy.mean()),
                "policy_reward_std": float(policy.std()),
                "episode_length": float(scores["plan"].lengths[member].mean()),
                "episodes": len(plan),
                **scores["plan"].success_rate(member),
                **row,
                "updates": self.counters.updates,
                "seconds": round(self.counters.seconds, 1),
            }
        )
