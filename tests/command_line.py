"""The command, run within this process."""

import sys

import pytest

from planprior import cli


def run(monkeypatch, capsys, *arguments):
    """Exit status, output and errors of `planprior` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["planprior", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err
