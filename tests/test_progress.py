import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from clocks import Clock
from planprior.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_every_few_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(
        10_000, start=1000, console=Console(file=stream), clock=clock, every=5.0
    ) as progress:
        for step in range(1100, 2300, 100):
            clock.now += 1
            progress.update(step, losses={"model": 1.23456}, shares={"env": 0.4})
        progress.say("saved [bold] at 2200")
    assert stream.getvalue().splitlines() == [
        "step 1500 of 10000 (15%) | speed 100.0 env steps/s | left 1 min 25 s"
        " | loss model 1.23 | time env 40%",
        "step 2000 of 10000 (20%) | speed 100.0 env steps/s | left 1 min 20 s"
        " | loss model 1.23 | time env 40%",
        "saved [bold] at 2200",
        "step 2200 of 10000 (22%) | speed 100.0 env steps/s | left 1 min 18 s"
        " | loss model 1.23 | time env 40%",
    ]


def test_pretraining_is_shown_while_it_lasts() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(
        100, start=50, console=Console(file=stream), clock=clock, every=5.0
    ) as progress:
        for done in (10, 20, 30, 40):
            clock.now += 4
            progress.pretraining(done, 40)
        for step in (55, 60):
            clock.now += 4
            progress.update(step)
    # Neither the pretraining nor the first step, which compiles, counts for the speed.
    assert stream.getvalue().splitlines() == [
        "step 50 of 100 (50%) | pretraining 20 of 40 updates (50%), left 8 s",
        "step 55 of 100 (55%)",
        "step 60 of 100 (60%) | speed 1.2 env steps/s | left 32 s",
    ]


def test_a_training_outlives_whoever_read_its_display() -> None:
    program = (
        "import sys; from planprior.progress import Progress\n"
        "with Progress(100, every=0.0) as progress:\n"
        "    for step in range(100): progress.update(step)\n"
        "print('done', file=sys.stderr)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    made = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (made.returncode, made.stderr) == (0, b"done\n")


def test_random_steps_tell_nothing_of_how_long_the_others_take() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(
        1000, learns_from=100, console=Console(file=stream), clock=clock, every=1.0
    ) as progress:
        for step, seconds in ((50, 1), (100, 1), (110, 30), (120, 5)):
            clock.now += seconds
            progress.update(step)
    assert stream.getvalue().splitlines() == [
        "step 50 of 1000 (5%)",
        "step 100 of 1000 (10%) | speed 50.0 env steps/s",
        "step 110 of 1000 (11%)",
        "step 120 of 1000 (12%) | speed 2.0 env steps/s | left 7 min 20 s",
    ]


def test_an_evaluation_is_shown_at_once() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(100, console=Console(file=stream), clock=clock) as progress:
        progress.update(0, returns={"planner": 812.34, "policy": 7.0})
    assert (
        stream.getvalue() == "step 0 of 100 (0%) | return planner 812.3, policy 7.0\n"
    )


def test_speed_forgets_the_slow_start() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(
        10**6, console=Console(file=stream), clock=clock, every=1e9
    ) as progress:
        clock.now += 300  # compiling
        progress.update(0)
        for step in range(1, 101):
            clock.now += 1
            progress.update(step * 10)
    assert "speed 10.0 env steps/s | left 1 day" not in stream.getvalue()
    assert "speed 10.0 env steps/s | left 27 h 45 min" in stream.getvalue()


def test_a_terminal_gets_a_live_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    clock, stream = Clock(), Terminal()
    with Progress(100, console=Console(file=stream), clock=clock) as progress:
        for step in range(5):
            clock.now += 0.2
            progress.update(step, returns={"planner": 1.0})
        progress.say("saved")
    shown = stream.getvalue()
    assert "planner 1.0" in shown and "saved" in shown and "4 of 100" in shown
    assert "\x1b[?25l" in shown and shown.rindex("\x1b[?25h") > shown.rindex(
        "\x1b[?25l"
    )
