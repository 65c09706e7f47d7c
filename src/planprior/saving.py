"""Saving a training and going on with it: agents, replay and episodes as one.

The replay is stored apart, in segments that each checkpoint names (`replay_store.py`),
so one rename publishes everything that belongs together. Killed at any moment, a run
goes on from the last checkpoint as if it had just been saved.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from planprior import checkpoint, replay_store
from planprior.checkpoint import Checkpoints
from planprior.experiment import differences
from planprior.replay import Replay
from planprior.replay_store import ReplayStore
from planprior.schedule import Counters
from planprior.state import AgentState
from planprior.tensorfile import CheckpointError, DamagedCheckpointError

KEPT = 3
"""Checkpoints kept beside the best one."""
RESUMABLE = 2
"""How many of the last of them keep their replay."""

IDENTITY = ("format", "task", "method", "size", "spec", "agent", "hypers", "members")
"""Parts of a checkpoint's `meta` that must be those of the training."""


class Start(NamedTuple):
    """Where to go on: the step of a checkpoint, and what it says of itself."""

    step: int
    meta: dict[str, Any]

    @property
    def counters(self) -> Counters:
        """Where the training was.

        Raises:
            CheckpointError: The checkpoint does not say so.
        """
        stored: Any = self.meta.get("counters")
        try:
            counters = Counters(**stored)
        except TypeError:
            counters = None
        if counters is None or not _are_plausible(counters):
            raise CheckpointError(
                f"the checkpoint of step {self.step} does not say where the training "
                f"was: its counters are {stored!a}"
            )
        return counters

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """What the last gradient step told of each member; it may be logged yet.

        Raises:
            CheckpointError: That is damaged.
        """
        stored: Any = self.meta.get("metrics", {})
        members = len(self.meta["members"])
        try:
            found = {
                name: np.array([float(text) for text in texts], np.float32)
                for name, texts in stored.items()
            }
        except (AttributeError, TypeError, ValueError):
            found = None
        if found is None or any(len(values) != members for values in found.values()):
            raise CheckpointError(
                f"the checkpoint of step {self.step} does not say what the last "
                "gradient step told of each member"
            )
        return found


class Saving:
    """What a run folder keeps of a training.

    Attributes:
        checkpoints: The agents', which name their replays.
        replays: The replays' segments.
    """

    def __init__(
        self, folder: Path, meta: Mapping[str, Any], warn: Callable[[str], object]
    ) -> None:
        """Looks at a run folder, which need not hold anything yet.

        Args:
            folder: The run folder.
            meta: What every checkpoint is to say of the agents.
            warn: Called with one sentence per checkpoint that is passed over.
        """
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=KEPT, warn=warn)
        self.replays = ReplayStore(folder / "replay", keep=RESUMABLE)
        self._meta, self._warn = json.loads(json.dumps(dict(meta))), warn

    def save(
        self,
        step: int,
        agents: AgentState,
        replay: Replay,
        counters: Mapping[str, Any],
        *,
        metrics: Mapping[str, Any] = MappingProxyType({}),
        episodes: Mapping[str, Any] | None = None,
        score: float | None = None,
    ) -> None:
        """Write everything, or leave what was there as it was.

        Args:
            step: Environment steps.
            agents: All members.
            replay: Their replays.
            counters: Where the training is, as JSON can hold it.
            metrics: What the last gradient step told, [P] each.
            episodes: A tree of arrays to go on with the running episodes, if the
                environments can.
            score: By which the best checkpoint is chosen.
        """
        stored = self.replays.save(step, replay, counters["updates"])
        groups: dict[str, Any] = {"agents": agents}
        if episodes is not None:
            groups["episodes"] = episodes
        meta = {
            "counters": dict(counters),
            # As texts, since JSON has neither NaN nor infinity.
            "metrics": {name: [str(x) for x in of] for name, of in metrics.items()},
            "replay": stored,
            "episodes": episodes is not None,
        }
        self.checkpoints.save(step, groups, self._meta | meta, score)
        self.replays.prune()

    def latest(self) -> Start | None:
        """The newest checkpoint that is whole, replay included; None if there is none.

        Raises:
            CheckpointError: There are some, but none that can be gone on from.
        """
        steps = self.checkpoints.steps()
        for step in reversed(steps):
            path = self.checkpoints.path(step)
            try:
                checkpoint.verify(path)
                meta = checkpoint.read_meta(path)
                self._check_identity(path, meta)
                self.replays.verify(meta.get("replay"))
            except DamagedCheckpointError as error:
                self._warn(
                    f"{error}; the checkpoint at {step} env steps is passed over"
                )
                continue
            return Start(step, meta)
        if steps:
            raise CheckpointError(
                f"training cannot go on: no checkpoint in {self.checkpoints.folder} "
                f"is whole with its replay in {self.replays.folder}; to begin anew, "
                "choose another --run-dir"
            )
        return None

    def load_agents(self, start: Start, like: AgentState) -> AgentState:
        """The agents of a checkpoint."""
        path = self.checkpoints.path(start.step)
        return checkpoint.load(path, {"agents": like})["agents"]

    def load_replay(
        self, start: Start, most: int, empty: Callable[[int], Replay]
    ) -> Replay:
        """The replay that belongs to a checkpoint.

        Args:
            start: The checkpoint.
            most: Rows per environment that the configuration allows.
            empty: Makes an empty replay with room for so many rows per environment.
        """
        room = replay_store.capacity(start.meta["replay"])
        if room > most:
            raise CheckpointError(
                f"the replay at {start.step} env steps has room for {room} rows per "
                f"environment, but the configuration allows {most}"
            )
        return self.replays.load(start.step, start.meta["replay"], empty(room))

    def load_episodes(self, start: Start, like: Any) -> Any:
        """The running episodes, or None where they were not saved."""
        if not start.meta.get("episodes"):
            return None
        path = self.checkpoints.path(start.step)
        return checkpoint.load(path, {"episodes": like})["episodes"]

    def _check_identity(self, path: Path, meta: Mapping[str, Any]) -> None:
        here, there = ({k: x.get(k) for k in IDENTITY} for x in (meta, self._meta))
        different = differences(here, there)
        # Elsewhere they follow from the rest of what is compared; seeds are not here.
        if here["members"] != there["members"]:
            told = f"members was {here['members']!r} and is {there['members']!r}"
            different.append(told)
        if different:
            raise CheckpointError(
                f"checkpoint {path} belongs to another training ({different[0]})"
            )


def _are_plausible(counters: Counters) -> bool:
    whole = (counters.decisions, counters.updates, counters.episodes)
    return (
        all(isinstance(n, int) and 0 <= n < 2**31 for n in whole)
        and isinstance(counters.evaluated_at, int)
        and isinstance(counters.seconds, int | float)
        and isinstance(counters.frozen, dict)
    )
