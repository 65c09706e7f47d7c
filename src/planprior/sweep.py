"""Several values for one option: a population is the product of all of them.

Seeds, the prior weight (or λ) and every number in `Hypers` can have several values.
After an option they stand apart, `--prior-weight 0 0.5 0.9`; commas do as well, and
are what `temperature=0.5,1.0` needs. Seeds may be ranges: `--seeds 0-4`.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planprior.checked import require
from planprior.hypers import Hypers

Numbers = float | tuple[float, ...]

MOST_MEMBERS = 4096
"""Agents of one program: more are a slip of the keyboard, found before they fill it."""

_SHOWN = 5
"""Values that a folder's name spells out."""


@dataclass(frozen=True)
class Member:
    """One agent of a population.

    Attributes:
        seed: Of everything random in it.
        hypers: Its numbers.
        swept: Names of numbers, beside the prior weight, in which the agents differ.
    """

    seed: int
    hypers: Hypers
    swept: tuple[str, ...] = ()

    def columns(self) -> dict[str, Any]:
        """What tells it apart in tables."""
        names = ("prior_weight", *(n for n in self.swept if n != "prior_weight"))
        numbers = {name: float(getattr(self.hypers, name)) for name in names}
        return {"seed": self.seed, **numbers}

    def describe(self) -> str:
        """What tells it apart, for people."""
        parts = self.columns().items()
        return ", ".join(f"{name.replace('_', ' ')} {brief(x)}" for name, x in parts)


@dataclass(frozen=True)
class Choice:
    """A seed, and a value for each number that is swept."""

    seed: int
    numbers: Mapping[str, float]


def choices(
    seeds: Sequence[int], numbers: Mapping[str, Sequence[float]]
) -> list[Choice]:
    """All combinations; the seeds of one setting stand side by side."""
    return [
        Choice(seed, dict(zip(numbers, values, strict=True)))
        for values in itertools.product(*numbers.values())
        for seed in seeds
    ]


def one_or_several(owner: str, name: str, value: Any) -> Any:
    """A sweep as a tuple; one of a single value as that value.

    Raises:
        ValueError: It is empty, or has a value twice.
    """
    if not isinstance(value, list | tuple):
        return value
    several = list(value)
    require(len(several) > 0, owner, name, tuple(several), "a value, or several")
    distinct = len(set(several)) == len(several)
    require(distinct, owner, name, tuple(several), "values that all differ")
    return tuple(several) if len(several) > 1 else several[0]


def as_tuple(value: Numbers) -> tuple[float, ...]:
    """The values of a sweep, or the only one."""
    return value if isinstance(value, tuple) else (value,)


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """Read `0,0.5,0.9`.

    Raises:
        ValueError: It is something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{name} is {text!r}; it must be a number, or several"
        ) from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `0-4,7`.

    Raises:
        ValueError: It is something else.
    """
    ranges = [_range(part, text) for part in text.split(",")]
    count = sum(map(len, ranges))
    if count > MOST_MEMBERS:
        raise ValueError(
            f"seeds is {text!r}, which are {count:,}; it must be at most {MOST_MEMBERS}"
        )
    return tuple(itertools.chain.from_iterable(ranges))


def _range(part: str, text: str) -> range:
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if last < first:
        raise ValueError(
            f"seeds is {text!r}; it must be whole numbers or ranges of them, such as "
            "0-4 or 0 3 7"
        )
    return range(first, last + 1)


def is_value(word: str) -> bool:
    """Whether a word of a command line goes on with a sweep: numbers or ranges."""
    number = r"[-+]?((\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?|inf|nan)|\d+-\d+"
    return bool(re.fullmatch(rf"({number})(,({number}))*", word, re.IGNORECASE))


def short(values: Sequence[float] | Sequence[int]) -> str:
    """Values as a part of a folder's name."""
    if len(values) > _SHOWN:
        return f"{brief(values[0])}_to_{brief(values[-1])}_x{len(values)}"
    return "_".join(map(brief, values))


def brief(value: int | float) -> str:
    """A number in few digits; a whole one, such as a seed, in all of its own."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def short_seeds(seeds: Sequence[int]) -> str:
    """Seeds as a part of a folder's name."""
    if len(seeds) == 1:
        return f"seed{seeds[0]}"
    if [*seeds] == [*range(seeds[0], seeds[-1] + 1)]:
        return f"seeds{seeds[0]}-{seeds[-1]}"
    return f"seeds{short(seeds)}"
