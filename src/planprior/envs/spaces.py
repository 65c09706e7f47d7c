"""Gymnasium's spaces as flat vectors, of one environment or of N at once.

Observations are concatenated in the order in which the space itself lists its parts,
which is what `gymnasium.spaces.flatten` does: a `Dict` is sorted by name unless it was
built from an `OrderedDict`, a `Tuple` keeps its order, and each array is read row by
row. The order in which an observation happens to list its entries does not matter.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from planprior.envs.base import EnvError

_UNBOUNDED = 1e10
"""From here on a bound is none: simulators write large numbers for infinity."""


class Part(NamedTuple):
    """One array of an observation.

    Attributes:
        path: Keys that lead to it.
        shape: Its shape.
    """

    path: tuple[str | int, ...]
    shape: tuple[int, ...]


class Observations:
    """How observations of a space become float32 vectors.

    Attributes:
        parts: The arrays, in order.
        size: Length of the vector.
    """

    def __init__(self, space: Any, task: str) -> None:
        """Read a space.

        Raises:
            EnvError: It holds something else than numbers.
        """
        self.parts = [*_parts(space, (), task)]
        self.size = sum(math.prod(part.shape) for part in self.parts)
        if self.size == 0:
            raise EnvError(f"{task} has an empty observation space: {space}")

    def flatten(self, observation: Any) -> np.ndarray:
        """Return one observation as a vector, float32 [O].

        Raises:
            EnvError: It does not belong to the space.
        """
        return self.flatten_all(observation, ())

    def flatten_all(self, observations: Any, lead: tuple[int, ...]) -> np.ndarray:
        """Return observations with leading axes `lead`, float32 [*lead, O]."""
        rows = [_array(observations, part, lead) for part in self.parts]
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=-1)


def _array(observation: Any, part: Part, lead: tuple[int, ...]) -> np.ndarray:
    try:
        for key in part.path:
            observation = observation[key]
    except (KeyError, IndexError, TypeError):
        raise EnvError(f"an observation has no entry {_name(part)}") from None
    array = np.asarray(observation, np.float32)
    if array.shape != (*lead, *part.shape):
        raise EnvError(
            f"an observation{_where(part)} has shape {array.shape}; its space says "
            f"{(*lead, *part.shape)}"
        )
    return array.reshape(*lead, -1)


def _name(part: Part) -> str:
    return "/".join(map(str, part.path))


def _where(part: Part) -> str:
    return f"'s entry {_name(part)}" if part.path else ""


def _parts(space: Any, path: tuple[str | int, ...], task: str) -> Iterator[Part]:
    kind = type(space).__name__
    if kind in ("Dict", "Tuple"):
        spaces = space.spaces
        inner = spaces.items() if kind == "Dict" else enumerate(spaces)
        for key, part in inner:
            yield from _parts(part, (*path, key), task)
        return
    part = Part(path, getattr(space, "shape", None) or ())
    if kind != "Box":
        raise EnvError(
            f"{task} has observations{_where(part)} of kind {kind}; they must be Box, "
            "or Dict or Tuple of Box"
        )
    if space.dtype == np.uint8 and len(part.shape) >= 2:
        raise EnvError(
            f"{task} has pictures of shape {part.shape} as observations"
            f"{_where(part)}; pixels are not supported yet, only vectors of the state"
        )
    yield part


class Actions:
    """How vectors in [−1, 1] become actions of a bounded space.

    Attributes:
        size: Length of the vector.
        low: Lower bounds, [A].
        high: Upper bounds, [A].
    """

    def __init__(self, space: Any, task: str) -> None:
        """Read a space.

        Raises:
            EnvError: It is not a box of finite bounds.
        """
        kind = type(space).__name__
        if kind != "Box" or not np.issubdtype(space.dtype, np.floating):
            what = kind if kind != "Box" else f"Box of {space.dtype}"
            raise EnvError(
                f"{task} has actions of kind {what}; they must be continuous: a Box "
                "of floats with finite bounds"
            )
        self._shape, self._dtype = space.shape, space.dtype
        self.low = np.ravel(space.low).astype(np.float64)
        self.high = np.ravel(space.high).astype(np.float64)
        self.size = self.low.size
        self._check(task)
        self._centre = (self.high + self.low) / 2
        self._half_range = (self.high - self.low) / 2
        # Rounding must not leave the space.
        self._least, self._most = np.ravel(space.low), np.ravel(space.high)

    def _check(self, task: str) -> None:
        if self.size == 0:
            raise EnvError(f"{task} has no actions: its action space is empty")
        bounded = (self.low > -_UNBOUNDED) & (self.high < _UNBOUNDED)
        if not bounded.all():
            i = int(bounded.argmin())
            raise EnvError(
                f"action {i} of {task} lies in [{self.low[i]:g}, {self.high[i]:g}]; "
                "bounds must be finite: give it an action_space of finite bounds, for "
                "instance by gymnasium.wrappers.TransformAction"
            )
        if not (self.low < self.high).all():
            i = int((self.low < self.high).argmin())
            raise EnvError(
                f"action {i} of {task} lies in [{self.low[i]:g}, {self.high[i]:g}], "
                "which leaves nothing to choose; leave it out of the action space"
            )

    def scale(self, action: np.ndarray) -> np.ndarray:
        """Return the action of the space for one in [−1, 1], [..., A]."""
        scaled = self._centre + self._half_range * action.astype(np.float64)
        scaled = np.clip(scaled.astype(self._dtype), self._least, self._most)
        return scaled.reshape((*action.shape[:-1], *self._shape))
