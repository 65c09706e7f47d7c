"""When what is due, from the number of decisions and of gradient steps alone."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import NamedTuple


@dataclass
class Counters:
    """Where a training is; saved with every checkpoint.

    Attributes:
        decisions: Decisions of each environment.
        updates: Gradient steps of each member.
        evaluated_at: Environment steps at the last evaluation.
        episodes: Episodes that ended, of all members.
        seconds: Wall time so far.
        frozen: Why a member learns no more, by its index (a word, as in JSON).
    """

    decisions: int = 0
    updates: int = 0
    evaluated_at: int = -1
    episodes: int = 0
    seconds: float = 0.0
    frozen: dict[str, str] = field(default_factory=dict)


@cache
def exact(rate: float) -> Fraction:
    """The rate that was meant: 0.7 is seven tenths, not the float just below.

    5800 times that float is 4059.9999999999995: one gradient step would come late.
    """
    return Fraction(rate).limit_denominator(10**12)


def renews(updates: int, interval: int, at_once: int) -> bool:
    """Whether a reanalysis comes before the next `at_once` gradient steps."""
    return bool(interval) and updates % interval < at_once


class Schedule(NamedTuple):
    """When what is due, as functions of the counters.

    Attributes:
        num_envs: Environments per member.
        repeat: Environment steps per decision.
        seed_decisions: Random decisions before learning starts, over all environments.
        updates_per_step: Gradient steps per decision of one environment.
        reanalysis: Updates between two reanalyses; 0 is never.
        log_every: Environment steps between two lines of losses.
    """

    num_envs: int
    repeat: int
    seed_decisions: int
    updates_per_step: float
    reanalysis: int
    log_every: int = 1

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
        return math.floor(decisions * self._updates_of_all)

    @property
    def _updates_of_all(self) -> Fraction:
        """Gradient steps per decision of all environments."""
        return self.num_envs * exact(self.updates_per_step)

    @property
    def pretraining(self) -> int:
        """Gradient steps before the first planned action."""
        due = self.updates_due(-(-self.seed_decisions // self.num_envs))
        return due - due % self.updates_at_once

    @property
    def updates_at_once(self) -> int:
        """Gradient steps that are one call: at most those between two reanalyses."""
        most = self.reanalysis or math.inf
        return max(1, math.floor(min(self._updates_of_all, most)))

    @property
    def most_calls(self) -> int:
        """Calls that one decision can ask for, with the updates that were left over."""
        left = self.updates_at_once - 1
        return (math.ceil(self._updates_of_all) + left) // self.updates_at_once

    def logs(self, decisions: int) -> bool:
        """Whether losses are logged after that decision."""
        step, before = self.env_steps(decisions), self.env_steps(decisions - 1)
        return step // self.log_every > before // self.log_every

    def is_told(self, decisions: int, updates: int) -> bool:
        """Whether the next call of updates is the last before losses are logged.

        Args:
            decisions: Of those that may log next, the first.
            updates: Gradient steps before that call.
        """
        passed = self.env_steps(decisions - 1) // self.log_every
        logged = -(-(passed + 1) * self.log_every // self.env_steps(1))
        return updates + 2 * self.updates_at_once > self.updates_due(logged)

    def reanalyses(self, updates: int) -> bool:
        """Whether plans are renewed before the next call of updates."""
        planned = updates - self.pretraining
        due = renews(planned, self.reanalysis, self.updates_at_once)
        return due and planned >= 0
