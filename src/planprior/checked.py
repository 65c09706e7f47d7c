"""Settings that check themselves, and say what is wrong in one sentence."""

import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean X?" for the nearest allowed name, or nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def find(table: Mapping[str, Any], name: str, what: str) -> Any:
    """Look a name up.

    Raises:
        ValueError: There is none of that name; the nearest is named.
    """
    if name not in table:
        options = ", ".join(table)
        raise ValueError(
            f"{what} is {name!r}; it must be one of {options}{nearest(name, table)}"
        )
    return table[name]


def _check_choice(owner: str, name: str, value: object, annotation: object) -> None:
    if typing.get_origin(annotation) is not Literal:
        return
    allowed = typing.get_args(annotation)
    if value not in allowed:
        options = ", ".join(map(repr, allowed))
        hint = nearest(str(value), allowed)
        raise ValueError(
            f"{owner}.{name} is {value!r}; it must be one of {options}{hint}"
        )


def require(holds: bool, owner: str, name: str, value: object, allowed: str) -> None:
    """Unless it holds, raise one sentence: field, value and what is allowed."""
    if not holds:
        raise ValueError(f"{owner}.{name} is {value!r}; it must be {allowed}")


def is_seed(value: object) -> bool:
    """Whether it is a seed; JAX's keys forget what is beyond 32 bits."""
    return is_whole(value) and 0 <= value < 2**32


def require_seed(value: object, name: str = "seed") -> None:
    """Unless it is a seed, raise one sentence: field, value and what is allowed."""
    if not is_seed(value):
        raise ValueError(f"{name} is {value!r}; it must be in [0, 2^32 - 1]")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number; Python's truth values are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Whether it is a number, which `True` is not, nor one that no float reaches."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


KINDS: dict[object, tuple[Callable[[object], bool], str]] = {
    int: (is_whole, "a whole number"),
    float: (is_real, "a number"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    str: (lambda value: isinstance(value, str), "a text"),
}
"""By annotation: what a value must satisfy, and how that is called."""


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """What a value must be if it is not None, and whether it may be that."""
    parts = typing.get_args(annotation)
    others = [part for part in parts if part is not type(None)]
    if len(parts) == 2 and len(others) == 1:
        return others[0], True
    return annotation, False


@dataclass(frozen=True)
class Checked:
    """Checks every `Literal` field, and that numbers, switches and texts are such.

    Where None is allowed, it may be that instead.
    """

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name, annotation in typing.get_type_hints(type(self)).items():
            value, (hint, optional) = getattr(self, name), _without_none(annotation)
            if optional and value is None:
                continue
            _check_choice(owner, name, value, hint)
            if hint in KINDS:
                is_one, allowed = KINDS[hint]
                require(is_one(value), owner, name, value, allowed)

    def at_least(self, least: int, *names: str) -> None:
        """Check that the named fields are not below `least`."""
        for name in names:
            value = getattr(self, name)
            allowed = f"at least {least}"
            require(value >= least, type(self).__name__, name, value, allowed)

    def at_most(self, most: int, *names: str) -> None:
        """Check that the named fields are not above `most`."""
        for name in names:
            value = getattr(self, name)
            allowed = f"at most {most}"
            require(value <= most, type(self).__name__, name, value, allowed)

    def within(self, most: float, *names: str) -> None:
        """Check that the named fields are in [−most, most]."""
        for name in names:
            value = getattr(self, name)
            allowed = f"in [{-most:g}, {most:g}]"
            require(-most <= value <= most, type(self).__name__, name, value, allowed)

    def in_order(self, lower: str, upper: str) -> None:
        """Check that one field is below another."""
        low, high = getattr(self, lower), getattr(self, upper)
        allowed = f"above {lower} = {low}"
        require(high > low, type(self).__name__, upper, high, allowed)
