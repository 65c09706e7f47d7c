"""The command. Its subcommands are the files of `commands`."""

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tyro

from planprior.checked import find
from planprior.commands import (
    bench,
    check_env,
    compare,
    control,
    doctor,
    eval,
    export,
    import_,
    list,
    plot,
    report,
    train,
)
from planprior.commands.splitting import split_settings

DESCRIPTION = "Train and run planning agents whose planner is their prior."


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        options: The class of its options; its docstring is the help.
        run: Carries them out and returns the exit status.
        names: Names of the options of a command that takes the agent's settings as
            well, into its field `settings`.
    """

    options: type
    run: Callable[[Any], int]
    names: frozenset[str] = frozenset()


COMMANDS: Mapping[str, Command] = {
    "train": Command(train.Train, train.run, train.NAMES),
    "eval": Command(eval.Eval, eval.run),
    "control": Command(control.Control, control.run),
    "export": Command(export.Export, export.run),
    "import": Command(import_.Import, import_.run),
    "list": Command(list.List, list.run),
    "check-env": Command(check_env.CheckEnv, check_env.run),
    "doctor": Command(doctor.Doctor, doctor.run),
    "bench": Command(bench.Bench, bench.run, bench.NAMES),
    "compare": Command(compare.Compare, compare.run),
    "plot": Command(plot.Plot, plot.run),
    "report": Command(report.Report, report.run),
}


def run(arguments: Sequence[str]) -> int:
    """Run a command; return its exit status."""
    arguments = [*arguments] or ["--help"]
    if not arguments[0].startswith("-"):
        names = find(COMMANDS, arguments[0], "command").names
    else:
        names = None
    found: dict[str, Any] = {}
    if names:
        rest, found = split_settings(arguments[1:], names)
        arguments = [arguments[0], *rest]
    options = parse(arguments)
    if names:
        options = dataclasses.replace(options, settings=found)
    command = next(c for c in COMMANDS.values() if isinstance(options, c.options))
    return command.run(options)


def parse(arguments: Sequence[str]) -> Any:
    """The options of a command, an instance of one of the classes of `COMMANDS`.

    Raises:
        ValueError: In one sentence, what tyro would tell in a box of several lines.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.extras.subcommand_cli_from_dict(
                {name: command.options for name, command in COMMANDS.items()},
                prog="planprior",
                description=DESCRIPTION,
                args=arguments,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(_plain(_sentence(told.getvalue()))) from None


PLAIN = {
    r"Error parsing (\S+): invalid literal for int.*: (.*)": (
        r"\1 is \2; it must be a whole number"
    ),
    r"Error parsing (\S+): could not convert string to float: (.*)": (
        r"\1 is \2; it must be a number"
    ),
    r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]": (
        r"\1 is \2; it must be whole numbers"
    ),
    r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)": (
        r"\2 is \1; it must be one of \3"
    ),
    r"Missing value for argument '(.*)'\. Expected.*": (
        r"\1 has no value; it must have one"
    ),
}
"""What tyro says of a value, as patterns, and how every other error here says it."""


def _plain(sentence: str) -> str:
    for pattern, ours in PLAIN.items():
        found = re.fullmatch(pattern, sentence)
        if found:
            return found.expand(ours)
    return sentence


def _sentence(box: str) -> str:
    """The first paragraph below an error's title, without what is drawn around it.

    A terminal without box characters gets mere rules.
    """
    drawn = "│─╭╮╰╯- "
    rows = [line.strip("│ ") for line in box.splitlines()[1:]]
    below = itertools.dropwhile(lambda row: not row.strip(drawn), rows)
    paragraph = itertools.takewhile(lambda row: row.strip(drawn), below)
    return " ".join(paragraph).rstrip(". ")


def main() -> None:
    """Run the command of this process; every known error is one sentence."""
    from planprior.envs.base import EnvError
    from planprior.envs.process import WorkerError
    from planprior.runtime import RunFolderError, explaining_memory

    known = (ValueError, ImportError, OSError, EnvError, WorkerError, RunFolderError)
    try:
        with explaining_memory():
            status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    except (*known, RuntimeError) as error:
        if not isinstance(error, known) and not _is_ours(error):
            raise
        print(f"planprior: {error}", file=sys.stderr)
        status = 2 if isinstance(error, ValueError) else 1
    sys.exit(status)


def _is_ours(error: RuntimeError) -> bool:
    return type(error).__module__.startswith("planprior.")
