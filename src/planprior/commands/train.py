"""`planprior train`: every field of `TrainConfig` is an option.

Whatever else looks like one, `--planner.num-samples 256` or `num_samples=256`, is a
setting of the agent; `splitting.py` takes it out before.
"""

import dataclasses
import typing
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from planprior import settings, sweep
from planprior.commands import printing
from planprior.experiment import TrainConfig

OPTION_NAMES = {"lam": "lambda"}
"""Fields of `TrainConfig` whose name is a word of Python."""

METAVARS = {"seeds": "N-M", "prior_weight": "W ...", "lam": "L ..."}
"""Fields that may have several values, as `splitting` joins them, and how they look."""


def _option(field: dataclasses.Field, hint: Any, doc: str) -> tuple[str, Any, Any]:
    if field.name == "settings":
        # Filled by `splitting`, so that settings are options like all others.
        default = dataclasses.field(default_factory=dict)
        return field.name, tyro.conf.Suppress[dict], default
    name = OPTION_NAMES.get(field.name, field.name).replace("_", "-")
    if field.default is dataclasses.MISSING:
        return (
            field.name,
            Positional[Annotated[hint, arg(help=doc)]],
            dataclasses.field(),
        )
    if field.name in METAVARS:
        described = arg(name=name, help=doc, metavar=METAVARS[field.name])
        return (
            field.name,
            Annotated[str | None, described],
            dataclasses.field(default=None),
        )
    described = Annotated[hint, arg(name=name, help=doc)]
    return field.name, described, dataclasses.field(default=field.default)


def _train_options() -> type:
    """A dataclass like `TrainConfig`, but for the settings, as tyro wants it."""
    docs = settings.attribute_docs(TrainConfig)
    hints = typing.get_type_hints(TrainConfig)
    options = [
        _option(field, hints[field.name], docs[field.name])
        for field in dataclasses.fields(TrainConfig)
    ]
    options = dataclasses.make_dataclass("Train", options)
    priors = settings.table()["prior.kind"].kind
    assert isinstance(priors, tuple)
    options.__doc__ = f"""Train an agent, or go on with the training in the run folder.

    Steps are environment steps everywhere. Several seeds, prior weights, or numbers of
    any other setting train a population: all combinations, side by side in one program.

        --seeds 0-4 --prior-weight 0 0.5 0.9 --entropy-coef 0 1e-4

    Any setting of the agent is an option too:
    --horizon 5, --planner.num-samples 256 or num_samples=256; --prior is one of
    {", ".join(priors)}. `planprior list settings` shows all settings, and TD-MPC2's
    names are understood.
    """
    return options


Train = _train_options()
NAMES = frozenset(
    OPTION_NAMES.get(field.name, field.name)
    for field in dataclasses.fields(Train)
    if field.name not in ("task", "settings")
)


def run(options: Any) -> int:
    """Train; the exit status is 128 + n where signal n ended it early."""
    from planprior.launch import train

    given = {name: x for name, x in vars(options).items() if x is not None}
    for name in METAVARS.keys() & given.keys():
        given[name] = _several(OPTION_NAMES.get(name, name), given[name])
    result = train(TrainConfig(**given))
    if result.finished:
        printing.console().print(
            f"done; look at it with: planprior eval {result.run_dir}", soft_wrap=True
        )
    return 128 + result.signal if result.signal and not result.finished else 0


def _several(name: str, text: str) -> tuple[Any, ...]:
    if name == "seeds":
        return sweep.parse_seeds(text)
    return sweep.parse_numbers(name, text)
