"""Every setting of an agent by name, as a command line or a dictionary gives it.

Names are those of the fields in `config.py` (`planner.num_samples`) and `hypers.py`
(`learning_rate`). The last part alone is enough where it is not ambiguous, and so are
the names that TD-MPC2 uses.
"""

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from planprior import sweep
from planprior.checked import nearest
from planprior.compatibility import validate
from planprior.config import Config
from planprior.hypers import Hypers
from planprior.priors import DIVERGENCES, PRIORS

Value = int | float | bool | str | tuple[float, ...]

TDMPC2_NAMES = {
    "batch_size": "batch_size",
    "discount_rate": "discount",
    "dropout": "network.dropout",
    "enc_dim": "network.encoder_dim",
    "enc_lr_scale": "encoder_lr_scale",
    "grad_clip_norm": "max_grad_norm",
    "iterations": "planner.iterations",
    "log_std_max": "policy.log_std_max",
    "log_std_min": "policy.log_std_min",
    "lr": "learning_rate",
    "num_elites": "planner.num_elites",
    "num_enc_layers": "network.encoder_layers",
    "num_pi_trajs": "planner.num_policy_trajectories",
    "num_q": "critic.num_heads",
    "num_samples": "planner.num_samples",
    "vmax": "network.symlog_max",
    "vmin": "network.symlog_min",
}
"""TD-MPC2's names (and BMPC's) where they differ from ours or are ambiguous here."""

SHORT_NAMES = {
    "prior": "prior.kind",
    "critic": "critic.kind",
    "policy": "policy.family",
    "reanalysis": "reanalysis.interval",
    "seeds": "planner.seeds",
}
"""A part's name alone sets what matters most in it."""

REGISTRIES: dict[str, Mapping[str, Any]] = {
    "prior.kind": PRIORS,
    "prior.divergence": DIVERGENCES,
}
"""Settings whose words are registered by name, so that there may be more of them."""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: Its full name, e.g. `planner.num_samples`.
        kind: `int`, `float`, `bool`, `str` or the allowed words.
        default: Its value where neither method nor size says otherwise.
        help: What it means.
    """

    name: str
    kind: type | tuple[str, ...]
    default: Value
    help: str

    @property
    def section(self) -> str:
        """The part of `Config` it belongs to; empty at its top and in `Hypers`."""
        return self.name.rpartition(".")[0]

    @property
    def field(self) -> str:
        """Its last part."""
        return self.name.rpartition(".")[2]

    @property
    def can_be_swept(self) -> bool:
        """Whether the agents of a population may differ in it: it is in `Hypers`."""
        return self.name in Hypers.__dataclass_fields__

    def parse(self, text: Value | list[float]) -> Value:
        """Read a value, or several, as a command line gives it.

        Raises:
            ValueError: It is not of the setting's kind, or cannot be several.
        """
        several = text.split(",") if isinstance(text, str) else text
        if not isinstance(several, list | tuple):
            return self._one(several)
        if len(several) == 1:
            return self._one(several[0])
        if not self.can_be_swept:
            raise ValueError(
                f"{self.name} is {text!r}, but all agents of a population share it; it "
                "must be one value"
            )
        values = [float(self._one(x)) for x in several]
        return sweep.one_or_several("Hypers", self.name, values)

    def _one(self, text: int | float | bool | str) -> int | float | bool | str:
        if isinstance(self.kind, tuple):
            return self._word(str(text))
        if self.kind is str:
            return str(text)
        try:
            return _PARSERS[self.kind](text)
        except (ValueError, KeyError, TypeError, OverflowError):
            allowed = {int: "a whole number", float: "a number", bool: "true or false"}
            raise ValueError(
                f"{self.name} is {text!r}; it must be {allowed[self.kind]}"
            ) from None

    def _word(self, text: str) -> str:
        assert isinstance(self.kind, tuple)
        if text in self.kind:
            return text
        options = ", ".join(self.kind)
        raise ValueError(
            f"{self.name} is {text!r}; it must be one of {options}"
            f"{nearest(text, self.kind)}"
        )


def _whole(text: int | float | bool | str) -> int:
    number = float(str(text).replace("_", ""))
    if isinstance(text, bool) or number != int(number):
        raise ValueError
    return int(number)


def _number(text: int | float | bool | str) -> float:
    if isinstance(text, bool):
        raise ValueError
    return float(text)


TRUTHS = {
    **dict.fromkeys(("true", "yes", "1"), True),
    **dict.fromkeys(("false", "no", "0"), False),
}
"""What a command line may say for on and off."""

_PARSERS: dict[type, typing.Callable[[Any], Any]] = {
    int: _whole,
    float: _number,
    bool: lambda text: TRUTHS[str(text).lower()],
}


def table() -> Mapping[str, Setting]:
    """All settings by full name, in the order of `config.py` and `hypers.py`."""
    registered = {
        name: dataclasses.replace(_fixed()[name], kind=tuple(registry))
        for name, registry in REGISTRIES.items()
    }
    return types.MappingProxyType({**_fixed(), **registered})


@functools.cache
def _fixed() -> Mapping[str, Setting]:
    settings = [*_config_settings(), *_hyper_settings()]
    return {s.name: s for s in settings}


def _config_settings() -> Iterable[Setting]:
    for part in dataclasses.fields(Config):
        default = getattr(Config(), part.name)
        if dataclasses.is_dataclass(default):
            yield from _fields(default, f"{part.name}.")
    yield from _fields(Config(), "")


def _fields(owner: Any, prefix: str) -> Iterable[Setting]:
    hints, docs = typing.get_type_hints(type(owner)), attribute_docs(type(owner))
    for field in dataclasses.fields(owner):
        hint, default = hints[field.name], getattr(owner, field.name)
        if dataclasses.is_dataclass(default):
            continue
        words = typing.get_args(hint) if typing.get_origin(hint) is Literal else None
        yield Setting(prefix + field.name, words or hint, default, docs[field.name])


def _hyper_settings() -> Iterable[Setting]:
    docs = attribute_docs(Hypers)
    for field in dataclasses.fields(Hypers):
        # A training has its own field for it, which accepts λ as well.
        if field.name != "prior_weight":
            default = getattr(Hypers(), field.name)
            yield Setting(field.name, float, default, docs[field.name])


def attribute_docs(owner: type) -> dict[str, str]:
    """What a class's docstring says of each attribute."""
    lines = inspect.cleandoc(owner.__doc__ or "").split("\n")
    docs: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("Attributes:") + 1 :]:
        indent = len(line) - len(line.lstrip())
        if indent == 4:
            name, _, text = line.strip().partition(": ")
            docs[name] = text
        elif indent > 4:
            docs[name] += " " + line.strip()
    return docs


def find(name: str, others: Iterable[str] = ()) -> Setting:
    """Look a setting up by any of its names; `-` and `_` are the same.

    Args:
        name: The full name, an unambiguous last part, or TD-MPC2's name.
        others: Further names, for the hint where there is none like it.

    Raises:
        ValueError: There is none, or several; the nearest are named.
    """
    settings, plain = table(), name.replace("-", "_")
    plain = (SHORT_NAMES | TDMPC2_NAMES).get(plain, plain)
    if plain in settings:
        return settings[plain]
    matches = [s for s in settings.values() if s.field == plain]
    if len(matches) == 1:
        return matches[0]
    if matches:
        options = " or ".join(s.name for s in matches)
        raise ValueError(f"setting {name!r} is ambiguous; it must be {options}")
    known = [*settings, *(s.field for s in settings.values()), *TDMPC2_NAMES, *others]
    hint = _of_another_section(plain) or nearest(plain, known)
    raise ValueError(f"setting {name!r} is unknown{hint}")


def _of_another_section(name: str) -> str:
    """A hint at the settings whose last part is right: `planner.horizon`."""
    section, _, last = name.rpartition(".")
    field = (SHORT_NAMES | TDMPC2_NAMES).get(last, last)
    alike = [s.name for s in table().values() if field in (s.name, s.field)]
    if not section or not alike:
        return ""
    return f"; did you mean {' or '.join(map(repr, alike))}?"


def parse(given: Mapping[str, Value | list[float]]) -> dict[str, Value]:
    """Full names and values of the right kind; several are a tuple.

    Raises:
        ValueError: A name is unknown or given twice, or a value is of another kind.
    """
    parsed: dict[str, Value] = {}
    for name, value in given.items():
        setting = find(name)
        if setting.name in parsed:
            raise ValueError(f"setting {setting.name!r} is given twice")
        parsed[setting.name] = setting.parse(value)
    return dict(sorted(parsed.items()))


def apply(
    config: Config, hypers: Hypers, changes: Mapping[str, Value]
) -> tuple[Config, Hypers]:
    """Settings with some of them changed, checked as a whole.

    Args:
        config: Static settings.
        hypers: Traced ones.
        changes: Full names and single values, as `parse` returns them.

    Raises:
        ValueError: The result makes no sense.
    """
    parts: dict[str, dict[str, Value]] = {}
    numbers = {field.name for field in dataclasses.fields(Hypers)}
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        section = "hypers" if field in numbers and not section else section
        parts.setdefault(section, {})[field] = value
    hypers = dataclasses.replace(hypers, **parts.pop("hypers", {}))
    top: dict[str, Any] = dict(parts.pop("", {}))
    for section, values in parts.items():
        top[section] = dataclasses.replace(getattr(config, section), **values)
    config = validate(dataclasses.replace(config, **top))
    return config, hypers.validate(config)


def config_to_json(config: Config) -> dict[str, Any]:
    """A `Config` as JSON can hold it."""
    return dataclasses.asdict(config)


def config_from_json(values: Mapping[str, Any]) -> Config:
    """Inverse of `config_to_json`.

    Raises:
        ValueError: A field is missing, unknown or out of range.
    """
    parts: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        if field.name not in values:
            raise ValueError(f"the stored configuration has no {field.name!r}")
        default, value = getattr(Config(), field.name), values[field.name]
        is_part = dataclasses.is_dataclass(default)
        parts[field.name] = _rebuild(type(default), value) if is_part else value
    return validate(_rebuild(Config, {**values, **parts}))


def _rebuild(owner: type, values: Mapping[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(owner)}
    if names != set(values):
        odd = ", ".join(sorted(names ^ set(values)))
        raise ValueError(f"the stored {owner.__name__} has other fields: {odd}")
    return owner(**values)


def without_infinities(value: Any) -> Any:
    """A tree as JSON can hold it: with texts, `inf`, for numbers that it lacks."""
    if isinstance(value, Mapping):
        return {name: without_infinities(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(without_infinities, value))
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def with_infinities(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers by name, of which `without_infinities` may have made texts."""
    found = {name: float(x) for name, x in values.items() if x in ("inf", "-inf")}
    return {**values, **found}


def hypers_from_json(values: Mapping[str, float | str]) -> Hypers:
    """A `Hypers` from its fields, of which some may be texts for infinity.

    Raises:
        ValueError: A field is missing or unknown.
    """
    return _rebuild(Hypers, with_infinities(values))
