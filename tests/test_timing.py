import pytest

from clocks import Clock
from planprior.timing import Shares


def test_nested_sections_count_once() -> None:
    clock = Clock()
    shares = Shares(clock)
    with shares.section("update"):
        clock.now += 2
        with shares.section("env"):
            clock.now += 5
        clock.now += 1
    clock.now += 2
    assert shares.seconds() == {"other": 2, "update": 3, "env": 5}
    assert shares.shares() == {"other": 0.2, "update": 0.3, "env": 0.5}


def test_an_error_ends_its_section() -> None:
    clock = Clock()
    shares = Shares(clock)
    with pytest.raises(KeyError), shares.section("env"):
        clock.now += 1
        raise KeyError
    clock.now += 1
    assert shares.seconds() == {"other": 1, "env": 1}


def test_reset_starts_at_zero_also_within_a_section() -> None:
    clock = Clock()
    shares = Shares(clock)
    with shares.section("env"):
        clock.now += 1
        shares.reset()
        assert shares.shares() == {"other": 0, "env": 0}
        clock.now += 3
    assert shares.seconds() == {"other": 0, "env": 3}
