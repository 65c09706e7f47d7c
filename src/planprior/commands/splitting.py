"""Settings of the agent among the arguments of a command.

`planprior train` has an option for every field of `TrainConfig`; whatever else looks
like one is a setting of the agent, by any name that `settings.find` knows. Several
values, which make a population, come out joined by commas.
"""

from collections.abc import Collection, Iterable, Sequence

from planprior import settings
from planprior.sweep import is_value

ALIASES = {"eval_freq": "eval_every", "model_size": "size"}
"""TD-MPC2's names for options of `train`."""

ELSEWHERE = {
    **dict.fromkeys(("exp_name", "work_dir", "logdir"), "--run-dir FOLDER"),
    **dict.fromkeys(("total_timesteps", "num_timesteps"), "--steps (env steps)"),
    **dict.fromkeys(("env", "env_id", "env_name"), "the first word, the task"),
    **dict.fromkeys(("enable_wandb", "wandb_project", "track"), "--wandb PROJECT"),
    "checkpoint": "--init-from FOLDER",
    "mpc": "planprior eval --mode policy, to act without planning",
    "save_video": "planprior eval --video FILE",
}
"""What options of TD-MPC2, CleanRL, Brax and others are here, where no value fits."""

SEVERAL = ("seeds", "prior_weight", "lambda")
"""Options of `train` that may have several values."""


def spell_switches(
    arguments: Sequence[str], switches: Collection[str], *, undashed: bool
) -> list[str]:
    """Write `overlap=False`, as Hydra has it, as tyro wants it: `--no-overlap`.

    Args:
        arguments: What follows the command's name.
        switches: The command's options that are on or off, with underscores.
        undashed: Whether the command takes options without dashes.

    Raises:
        ValueError: A switch has a value that is neither true nor false.
    """
    written: list[str] = []
    todo = list(arguments)
    while todo:
        word = todo.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        plain = name.replace("-", "_")
        is_option = word.startswith("--") or (undashed and equals)
        if is_option and plain.removeprefix("no_") in switches:
            if not equals and todo and todo[0].lower() in ("true", "false"):
                value = todo.pop(0)
            word = _switch(plain, value) if value or equals else word
        written.append(word)
    return written


def _switch(name: str, value: str) -> str:
    option = name.removeprefix("no_").replace("_", "-")
    if value.lower() not in settings.TRUTHS:
        raise ValueError(
            f"{name} is {value!r}; it is a switch: --{option} or --no-{option}"
        )
    is_on = settings.TRUTHS[value.lower()] != name.startswith("no_")
    return f"--{option}" if is_on else f"--no-{option}"


def split_settings(
    arguments: Sequence[str], options: Iterable[str], switches: Collection[str] = ()
) -> tuple[list[str], dict[str, settings.Value]]:
    """Take the agent's settings out of the arguments of a command.

    Args:
        arguments: What follows the command's name.
        options: The command's own options, with underscores.
        switches: Those of them that have no value.

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
        name, equals, value = word.removeprefix("--").partition("=")
        plain = name.replace("-", "_")
        plain = ALIASES.get(plain, plain)
        if _is_task(word) or plain in ("help", ""):
            rest.append(word)
        elif plain == "task":
            rest.insert(0, value if equals else _task(todo))
        elif plain in options or plain.removeprefix("no_") in options:
            option = "--" + plain.replace("_", "-")
            rest += [option, value] if equals else [option]
            if not equals and _is_value_next(todo):
                if plain in SEVERAL:
                    rest.append(_values(todo))
                elif plain.removeprefix("no_") not in switches:
                    rest.append(todo.pop(0))  # as it is: `--run-dir runs/lr=3e-4`
        elif plain in ELSEWHERE:
            raise ValueError(f"{plain} is no option here; it is {ELSEWHERE[plain]}")
        else:
            full = settings.find(name, others=sorted(options)).name
            if full in found:
                raise ValueError(f"setting {full!r} is given twice")
            found[full] = value if equals else _following(full, todo)
    return rest, found


def _is_task(word: str) -> bool:
    """Whether it is no option: a task, with options such as `gym:X,action_repeat=2`."""
    name, equals, _ = word.partition("=")
    return not word.startswith("--") and (not equals or ":" in name or "," in name)


def _is_value_next(todo: Sequence[str]) -> bool:
    return bool(todo) and not todo[0].startswith("--")


def _task(todo: list[str]) -> str:
    if not _is_value_next(todo):
        raise ValueError("task has no value; it is the first word, or --task NAME")
    return todo.pop(0)


def _following(name: str, todo: list[str]) -> settings.Value:
    if _is_value_next(todo):
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
