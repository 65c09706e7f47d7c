"""What may follow a task's name: `gym:Hopper-v5,action_repeat=2,episode_length=500`.

For tasks whose simulator leaves it open. Being part of the name, it is stored with the
agent, and evaluations and films are of the same task.
"""

import difflib
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class TaskOptions:
    """Options of a Gymnasium task.

    Attributes:
        action_repeat: Environment steps per action; their rewards are summed.
        episode_length: Environment steps after which an episode is cut off (a
            truncation), at most the environment's own limit, which holds where not
            given. A vector environment keeps its own: there it can only be told.
        terminates: Whether episodes may end by the task's own rule; where not given,
            they may, except in those tasks of Gymnasium that never do. "No" is a
            promise, and an end of that kind an error.
        success: Whether `info` tells at every step, as `success` or `is_success`,
            whether the goal is met.
        simulated: Whether nothing but a simulation moves, so that actions may be done
            again: see `retraced.py`. Where not given, it is known of Gymnasium's own.
    """

    action_repeat: int = 1
    episode_length: int | None = None
    terminates: bool | None = None
    success: bool = False
    simulated: bool | None = None

    def __str__(self) -> str:
        """What `split` reads: empty for the defaults."""
        given = [
            f",{name}={_written(value)}"
            for name, value in vars(self).items()
            if value != getattr(TaskOptions, name)
        ]
        return "".join(given)


NAMES = tuple(field.name for field in fields(TaskOptions))


def split(task: str) -> tuple[str, TaskOptions]:
    """Part a task's name from its options.

    Raises:
        ValueError: An option is unknown, given twice or out of range.
    """
    bare, *parts = task.split(",")
    given: dict[str, Any] = {}
    for part in parts:
        name, _, text = part.strip().partition("=")
        name = name.replace("-", "_")
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"task {task!r} has the option {name!r}; it must be one of "
                f"{', '.join(NAMES)}{hint}"
            )
        if name in given:
            raise ValueError(f"task {task!r} has the option {name!r} twice")
        given[name] = _read(task, name, text)
    return bare, TaskOptions(**given)


_TRUTHS = {"yes": True, "true": True, "no": False, "false": False}


def _read(task: str, name: str, text: str) -> int | bool:
    if name in ("terminates", "success", "simulated"):
        if text.lower() in _TRUTHS:
            return _TRUTHS[text.lower()]
        raise ValueError(f"{name} of task {task!r} is {text!r}; it must be yes or no")
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise ValueError(
        f"{name} of task {task!r} is {text!r}; it must be a whole number of at least 1"
    )


def _written(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
