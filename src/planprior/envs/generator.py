"""The state of NumPy's random generators as plain arrays, for `Env.state`."""

import numpy as np

_WORD = 2**64


def generator_state(generator: np.random.Generator) -> np.ndarray:
    """Return the state of a generator as `np.random.default_rng` makes it, uint64 [6].

    Raises:
        TypeError: It is of another kind.
    """
    state = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise TypeError(
            f"the generator is a {state['bit_generator']}; it must be a PCG64, as "
            "np.random.default_rng makes it"
        )
    inner = state["state"]
    words = [part for n in (inner["state"], inner["inc"]) for part in divmod(n, _WORD)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], np.uint64)


def set_generator_state(generator: np.random.Generator, state: np.ndarray) -> None:
    """Let a generator go on from what `generator_state` returned."""
    high, low, inc_high, inc_low, has_uint32, uinteger = map(int, state)
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high * _WORD + low, "inc": inc_high * _WORD + inc_low},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }


def legacy_state(random: np.random.RandomState) -> np.ndarray:
    """Return the state of one of NumPy's older generators, uint32 [628]."""
    _, keys, position, has_gauss, gauss = random.get_state(legacy=True)
    words = np.array([position, has_gauss], np.uint32)
    return np.concatenate([keys, words, np.array([gauss]).view(np.uint32)])


def set_legacy_state(random: np.random.RandomState, state: np.ndarray) -> None:
    """Let an older generator go on from what `legacy_state` returned."""
    keys, (position, has_gauss), gauss = state[:624], state[624:626], state[626:]
    left_over = float(np.ascontiguousarray(gauss).view(np.float64)[0])
    random.set_state(("MT19937", keys, int(position), int(has_gauss), left_over))
