"""The command. Its subcommands are the files of `commands`.

Ctrl-C is answered by `main`. So that it is there from the first moment on, whatever is
slow to import (JAX, tyro, the commands) is imported by the functions that need it.
"""

import contextlib
import functools
import io
import itertools
import os
import re
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

import planprior

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

    @property
    def switches(self) -> frozenset[str]:
        """Names of the options that are on or off."""
        hints = get_type_hints(self.options)
        return frozenset(name for name, hint in hints.items() if hint is bool)


@functools.cache
def commands() -> Mapping[str, Command]:
    """All subcommands by name."""
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

    return {
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
    from planprior.checked import find

    arguments = [*arguments] or ["--help"]
    if arguments == ["--version"]:
        print(f"planprior {planprior.__version__}")
        return 0
    if arguments[0].startswith("-"):
        return parse(arguments)  # --help, which ends here, or a mistake
    command: Command = find(commands(), arguments[0], "command")
    return command.run(_options(command, arguments))


def _options(command: Command, arguments: Sequence[str]) -> Any:
    """The command's options, with the agent's settings where it takes them."""
    import dataclasses

    from planprior.commands.splitting import spell_switches, split_settings

    name, *rest = arguments
    takes_settings = bool(command.names)
    rest = spell_switches(rest, command.switches, undashed=takes_settings)
    if not takes_settings:
        return parse([name, *rest])
    rest, found = split_settings(rest, command.names, command.switches)
    return dataclasses.replace(parse([name, *rest]), settings=found)


def parse(arguments: Sequence[str]) -> Any:
    """The options of a command, an instance of one of the classes of `commands`.

    Raises:
        ValueError: In one sentence, what tyro would tell in a box of several lines.
    """
    import tyro

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.extras.subcommand_cli_from_dict(
                {name: command.options for name, command in commands().items()},
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
    r"Error parsing (\S+): no type matching \{None\}\|INT could .*\[(.*)\]": (
        r"\1 is \2; it must be a whole number"
    ),
    r"Error parsing (\S+): no type matching \{None\}\|FLOAT could .*\[(.*)\]": (
        r"\1 is \2; it must be a number"
    ),
    r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]": (
        r"\1 is \2; it must be whole numbers"
    ),
    r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)": (
        r"\2 is \1; it must be one of \3"
    ),
    # Before 1.0.14 Tyro wrote the name as a tuple.
    r"Missing value for argument '(?:\(')?(.*?)(?:',\))?'\. Expected.*": (
        r"\1 has no value; it must have one"
    ),
    r"Missing from (planprior \S+): (.*)": r"`\1` lacks a word: \2",
}
"""What tyro says of a value, as patterns, and how every other error here says it."""


def _plain(sentence: str) -> str:
    sentence = sentence.replace(" (required)", "").rstrip(".")
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
    try:
        _accept_every_character()
        status = _answered(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # Python flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def _accept_every_character() -> None:
    """Where a stream's encoding lacks λ or a table's lines, they become `?`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _answered(arguments: Sequence[str]) -> int | str | None:
    """The exit status, what is wrong having been said.

    Raises:
        BrokenPipeError: Nobody reads the output to its end, as with `| head`.
    """
    from planprior.envs.base import EnvError
    from planprior.envs.process import WorkerError
    from planprior.runtime import RunFolderError, explaining_memory

    known = (ValueError, ImportError, OSError, EnvError, WorkerError, RunFolderError)
    try:
        with explaining_memory():
            return _run_and_flush(arguments)
    except (*known, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            raise
        if not isinstance(error, known) and not _is_ours(error):
            raise
        print(f"planprior: {_as_options(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


FIELD = r"\b(TrainConfig|Hypers|[A-Z]?[a-z]*Config)\.([a-z_]+)"
"""Where a sentence names a field as Python does: `TrainConfig.num_envs`."""


def _as_options(sentence: str) -> str:
    """Name fields as the command line does: `--num-envs`, `planner.num_samples`."""
    return re.sub(FIELD, _option, sentence)


def _option(field: re.Match) -> str:
    from planprior.commands.train import OPTION_NAMES

    owner, name = field.groups()
    if owner == "TrainConfig" or name == "prior_weight":
        return "--" + OPTION_NAMES.get(name, name).replace("_", "-")
    section = owner.removesuffix("Config").lower()
    return name if section in ("", "hypers") else f"{section}.{name}"


def _run_and_flush(arguments: Sequence[str]) -> int | str | None:
    status: int | str | None
    try:
        status = run(arguments)
    except SystemExit as end:
        status = end.code
    if sys.stdout:  # it is None where the process was started without one
        sys.stdout.flush()
    return status


def _is_unread() -> bool:
    """Whether it is the output's pipe that is broken, and no other."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _is_ours(error: RuntimeError) -> bool:
    return type(error).__module__.startswith("planprior.")
