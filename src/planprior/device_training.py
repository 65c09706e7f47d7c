"""A training in environments on the device, whose host only looks in now and then."""

import time
from typing import Any

import jax
import numpy as np

from planprior.device_loop import (
    MOST,
    STEP_FIELDS,
    Given,
    Loop,
    Place,
    Record,
    timetable,
)
from planprior.envs.device import DevicePool
from planprior.envs.pool import Step
from planprior.experiment import Experiment
from planprior.population import Population
from planprior.training import Tools, Training

SHORT, LONG = 0.5, 2.0
"""Seconds: below the first, the next call makes twice as many decisions; above the
second, half as many. The host's part hardly counts, and Ctrl-C need not wait long."""


class DeviceTraining(Training):
    """A `Training` that makes many decisions in one call of a compiled loop.

    The host comes back for evaluations and at the end, when a while is over, and where
    learning begins, whose first gradient steps (those that were missed while acting
    randomly) it asks for itself. It writes what a `Training` writes, row by row.
    """

    def __init__(
        self, experiment: Experiment, population: Population, tools: Tools
    ) -> None:
        """Prepare a training; see `Training`.

        Args:
            experiment: What to train.
            population: Its programs.
            tools: What it uses; its pool must be a `DevicePool`.
        """
        super().__init__(experiment, population, tools)
        assert isinstance(tools.pool, DevicePool)
        self._pool: Any = tools.pool
        at_once, overlap = self.schedule.updates_at_once, experiment.train.overlap
        self._loop = Loop(tools.pool.env, population.programs, at_once, overlap)
        self._numbers = population.hypers, population.keys
        self._at_once = 1

    def _step(self) -> None:
        """Make decisions until something is due, or a while is over."""
        length, began = self._length(), time.monotonic()
        table = timetable(self.schedule, self.counters, length)
        if self.counters.updates == 0 and table.calls.any():
            self._check_slices()
        with self._shares.section("loop"):
            place = Place(self._pool.envs, self._warm_start, self._reset, self._fault)
            given = Given(*self._numbers, self._pool.keys)
            self.agents, self.replay, place, record = self._loop.run(
                self.agents, self.replay, place, given, table, length, self.counters
            )
            record = jax.device_get(record)
        self._warm_start, self._reset = place.warm_start, place.reset
        self._note(record, table.calls, table.random)
        self._fault = place.fault
        self.counters.updates = int(record.updates[0])
        self._pool.settle(place.envs, record.last)
        self._adapt(time.monotonic() - began)

    def _length(self) -> int:
        """Decisions until the host has something to do, or a while is over."""
        counters, schedule = self.counters, self.schedule
        made, train = counters.decisions, self.experiment
        if schedule.is_random(made):
            due = -(-schedule.seed_decisions // schedule.num_envs)
        elif counters.updates == 0:
            due = made + 1  # there may be nothing to learn from
        else:
            evaluated = (self.env_steps // train.eval_every + 1) * train.eval_every
            due = -(-evaluated // train.steps_per_decision)
        return min(due, self.total, made + self._at_once) - made

    def _adapt(self, seconds: float) -> None:
        """Choose how long the next call may be."""
        if seconds < SHORT:
            self._at_once = min(2 * self._at_once, MOST)
        elif seconds > LONG:
            self._at_once = max(self._at_once // 2, 1)

    def _note(self, record: Record, calls: np.ndarray, random: np.ndarray) -> None:
        """Count and log what was done, decision by decision."""
        counters, shares = self.counters, None
        before, made = counters.seconds, int(record.made[0])
        self._count_seconds()
        each = (counters.seconds - before) / max(made, 1)
        for i in range(made):
            read = self._loop.read(record, i)
            self._note_faults(read.fault)
            counters.decisions += 1
            counters.seconds = before + (i + 1) * each
            self._reporter.episodes(_step_of(record, i), counters)
            if not random[i]:
                self._plan_metrics = read.plan
            if calls[i]:
                counters.updates += int(calls[i]) * self.schedule.updates_at_once
                self._metrics = read.update
                self._fault = read.update["fault"].astype(np.int32)
            self._add_faults(read.fault)
            if self.schedule.logs(counters.decisions):
                shares = self._take_shares() if shares is None else shares
                self._log(shares)


def _step_of(record: Record, i: int) -> Step:
    """What the log asks of the i-th step; nothing is known of the rest."""
    fields: dict[str, Any] = dict.fromkeys(Step._fields)
    fields |= dict(zip(STEP_FIELDS, np.asarray(record.steps[:, i].T), strict=True))
    for name in ("terminated", "truncated", "success"):
        fields[name] = fields[name] != 0
    return Step(**fields)
