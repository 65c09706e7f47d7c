"""What a training tells: rows for the tables, lines and numbers for the screen."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planprior.envs.pool import Step
from planprior.evaluation import Scores
from planprior.log import RunFolder
from planprior.progress import Progress, Spread
from planprior.schedule import Counters, Schedule
from planprior.sweep import Member

SHOWN_LOSSES = ("consistency_loss", "reward_loss", "value_loss", "policy_loss")
RECENT = 5
"""Episodes of each member whose mean the screen shows."""


class Reporter:
    """Writes and shows what the members do; frozen ones are left out.

    The tables have a row per member, the screen the mean and the range over members.
    """

    def __init__(
        self,
        members: Sequence[Member],
        schedule: Schedule,
        run: RunFolder,
        progress: Progress,
        has_success: bool = False,
    ) -> None:
        """Take what is written to.

        Args:
            members: All of them.
            schedule: Turns decisions into environment steps.
            run: The tables.
            progress: The screen.
            has_success: Whether episodes say if a goal was met.
        """
        self._has_success = has_success
        self._members, self._schedule = members, schedule
        self._run, self._progress = run, progress
        self._recent = [deque(maxlen=RECENT) for _ in members]

    def healthy(self, counters: Counters) -> list[int]:
        """Members that are not frozen."""
        indices = range(len(self._members))
        return [i for i in indices if str(i) not in counters.frozen]

    def episodes(self, outcome: Step, counters: Counters) -> None:
        """Note the episodes that ended in a step."""
        for i in map(int, np.flatnonzero(outcome.ended)):
            member = i // self._schedule.num_envs
            if str(member) in counters.frozen:
                continue
            counters.episodes += 1
            self._recent[member].append(float(outcome.episode_return[i]))
            length = int(outcome.episode_length[i]) * self._schedule.repeat
            row = {
                "episode_reward": float(outcome.episode_return[i]),
                "episode_length": length,
                "terminated": bool(outcome.terminated[i]),
            }
            if self._has_success:
                row["success"] = bool(outcome.success[i])
            self._run.train(self._row(member, "episode", counters) | row)

    def updates(
        self,
        metrics: Mapping[str, np.ndarray],
        shares: Mapping[str, float],
        counters: Counters,
    ) -> None:
        """Log and show the metrics of the last update, [P] each, and the time."""
        told = {
            "updates": counters.updates,
            "seconds": counters.seconds,
            **{f"time_{name}": x for name, x in shares.items()},
        }
        for member in self.healthy(counters) if metrics else ():
            values = {name: float(x[member]) for name, x in metrics.items()}
            # The column of this name is the setting, which tells members apart.
            values["prior_weight_now"] = values.pop("prior_weight", float("nan"))
            row = self._row(member, "update", counters)
            self._run.train(row | values | told)
        self._progress.update(
            self._schedule.env_steps(counters.decisions),
            returns=self._recent_returns(counters),
            losses=self._losses(metrics, counters),
            shares=shares,
        )

    def _recent_returns(self, counters: Counters) -> dict[str, Spread]:
        played = [self._recent[i] for i in self.healthy(counters) if self._recent[i]]
        means = [float(np.mean(returns)) for returns in played]
        return {"last episodes": Spread.of(means)} if means else {}

    def _losses(
        self, metrics: Mapping[str, np.ndarray], counters: Counters
    ) -> dict[str, Spread]:
        healthy = self.healthy(counters)
        return {
            name.removesuffix("_loss"): Spread.of(metrics[name][healthy])
            for name in SHOWN_LOSSES
            if name in metrics and healthy
        }

    def evaluation(self, scores: Mapping[str, Scores], counters: Counters) -> float:
        """Log and show an evaluation.

        Args:
            scores: By mode: of the planner, and of the bare policy.
            counters: Where the training is.

        Returns:
            The planner's mean return over all members, by which checkpoints are ranked.
        """
        healthy = self.healthy(counters)
        for member in healthy:
            self._log_scores(member, scores, counters)
        plan, policy = (scores[mode].returns[healthy] for mode in ("plan", "policy"))
        spreads = [Spread.of(returns.mean(axis=1)) for returns in (plan, policy)]
        episodes = f"{plan.shape[1]} episodes each"
        if len(healthy) > 1:
            episodes = f"mean and range of {len(healthy)} members, {episodes}"
        self._progress.say(
            f"evaluation at {self._schedule.env_steps(counters.decisions)} env steps: "
            f"planner {spreads[0]:.1f}, policy {spreads[1]:.1f} ({episodes})"
        )
        return float(plan.mean())

    def _log_scores(
        self, member: int, scores: Mapping[str, Scores], counters: Counters
    ) -> None:
        plan, policy = (scores[mode].returns[member] for mode in ("plan", "policy"))
        row = self._row(member, "evaluation", counters)
        lists = {"plan_returns": plan.tolist(), "policy_returns": policy.tolist()}
        self._run.train(row | lists)
        del row["event"]
        self._run.evaluation(
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
                "updates": counters.updates,
                "seconds": round(counters.seconds, 1),
            }
        )

    def frozen(self, member: int, why: str, counters: Counters) -> None:
        """Say once that a member is frozen."""
        self._run.train(self._row(member, "frozen", counters) | {"why": why})
        self._progress.say(
            f"member {member} ({self._members[member].describe()}) is frozen: {why}; "
            "the others go on"
        )

    def say(self, text: str) -> None:
        """Print a line."""
        self._progress.say(text)

    def _row(self, member: int, event: str, counters: Counters) -> dict[str, Any]:
        step = self._schedule.env_steps(counters.decisions)
        return {"step": step, "event": event, **self._members[member].columns()}
