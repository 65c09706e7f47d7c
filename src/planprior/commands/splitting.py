"""Settings of the agent among the arguments of a command.

`planprior train` has an option for every field of `TrainConfig`; whatever else looks
like one is a setting of the agent, by any name that `settings.find` knows. Several
values, which make a population, come out joined by commas.
"""

from collections.abc import Iterable, Sequence

from planprior import settings
from planprior.sweep import is_value

ALIASES = {"eval_freq": "eval_every", "model_size": "size"}
"""TD-MPC2's names for options of `train`."""

SEVERAL = ("seeds", "prior_weight", "lambda")
"""Options of `train` that may have several values."""


def split_settings(
    arguments: Sequence[str], options: Iterable[str]
) -> tuple[list[str], dict[str, settings.Value]]:
    """Take the agent's settings out of the arguments of a command.

    Args:
        arguments: What follows the command's name.
        options: The command's own options, with underscores.

    Returns:
        What is left, for tyro, and the settings by name.

    Raises:
        ValueError: A setting is unknown, given twice or without a value.
    """
    options = set(options)
    rest: list[str] = []
    found: dict[str, settings.Value] = {}
    todo = list(arguments)
    while todo:
        word = todo.pop(0)
        dashed = word.startswith("--")
        name, equals, value = word.removeprefix("--").partition("=")
        plain = name.replace("-", "_")
        plain = ALIASES.get(plain, plain)
        if (not dashed and not equals) or plain in ("help", ""):
            rest.append(word)
        elif plain == "task" and equals:
            rest.insert(0, value)
        elif plain in options or plain.removeprefix("no_") in options:
            option = "--" + plain.replace("_", "-")
            rest += [option, value] if equals else [option]
            if plain in SEVERAL and todo and not equals:
                rest.append(_values(todo))
        else:
            full = settings.find(name, others=sorted(options)).name
            if full in found:
                raise ValueError(f"setting {full!r} is given twice")
            found[full] = value if equals else _following(full, todo)
    return rest, found


def _following(name: str, todo: list[str]) -> settings.Value:
    if todo and not todo[0].startswith("--"):
        return _values(todo)
    if settings.table()[name].kind is bool:
        return True
    raise ValueError(f"setting {name!r} has no value")


def _values(todo: list[str]) -> str:
    """Take the next word, and with it all values that follow it."""
    words = [todo.pop(0)]
    while is_value(words[0]) and todo and is_value(todo[0]):
        words.append(todo.pop(0))
    return ",".join(words)
