"""Parts of an update in several forms, side by side: what they cost a CPU.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/update_parts.py

All forms of a part take turns. Times are those that the process had of a CPU, on one
thread: on a machine that others use as well they say more than the clock does.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from planprior import nets
from planprior.adam import adam_step
from planprior.hypers import Hypers

# Also where there is a GPU: it is not what is measured.
jax.config.update("jax_platforms", "cpu")

MASKS = (3, 256, 5, 512)
"""Steps, batch, heads, width: the dropout of an update of `tdmpc2` at size 5."""
WEIGHTS = {"first": (5, 550, 512), "second": (5, 512, 512)}
"""The value heads' hidden layers, more than half of what `tdmpc2` learns there."""

HYPERS = Hypers().arrays()
RATE, EPS = 3e-4, 1e-8


# --- Dropout --------------------------------------------------------------------------


def mask_by_bits(key: jax.Array) -> jax.Array:
    """Of `jax.random.bits`: a block of 64 bits for each 16."""
    keep = jax.random.bits(key, MASKS, jnp.uint16) >= 655
    return keep * jnp.float32(65536 / (65536 - 655))


def mask(key: jax.Array) -> Any:
    """As it is."""
    return nets.dropout_mask(MASKS, 0.01, key=key)


# --- Adam, and that a member which diverges stays as it was ---------------------------


def adam(parameters: Any, moments: Any, gradient: Any, going: Any) -> Any:
    """Optax's, which goes on whatever happens."""
    norm = optax.tree.norm(gradient)
    clip = jnp.minimum(1.0, HYPERS.max_grad_norm / (norm + 1e-6))
    clipped = jax.tree.map(lambda g: g * clip, gradient)
    steps, moments = optax.scale_by_adam(eps=EPS).update(clipped, moments)
    steps = jax.tree.map(lambda s: -RATE * s, steps)
    return optax.apply_updates(parameters, steps), moments


def adam_then_choose(parameters: Any, moments: Any, gradient: Any, going: Any) -> Any:
    """Optax's, and then all of the old or all of the new."""
    new, old = adam(parameters, moments, gradient, going), (parameters, moments)
    return jax.tree.map(lambda a, b: jnp.where(going, a, b), new, old)


def adam_while_finite(parameters: Any, moments: Any, gradient: Any, going: Any) -> Any:
    """As it is."""
    return adam_step(
        parameters, gradient, moments, RATE, HYPERS, EPS, going
    )[:2]  # fmt: skip


# --- Timing ---------------------------------------------------------------------------


def masks() -> dict[str, Callable[[], Any]]:
    """Forms of drawing the masks."""
    key = jax.random.key(0)
    forms = {"jax.random.bits": jax.jit(mask_by_bits), "as it is": jax.jit(mask)}
    return {
        name: lambda form=form: form(key).block_until_ready()
        for name, form in forms.items()
    }


def steps() -> dict[str, Callable[[], Any]]:
    """Forms of a step; each has parameters of its own, which it uses up."""
    forms = {
        "optax": adam,
        "optax, then a choice": adam_then_choose,
        "as it is": adam_while_finite,
    }
    ones = {name: jnp.ones(shape) for name, shape in WEIGHTS.items()}
    gradient = jax.tree.map(lambda x: 0.01 * x, ones)
    going = jnp.bool_(True)

    def form(program: Callable[..., Any]) -> Callable[[], Any]:
        parameters = jax.tree.map(jnp.copy, ones)
        state = [(parameters, optax.scale_by_adam().init(parameters))]
        compiled = jax.jit(program, donate_argnums=(0, 1))

        def run() -> None:
            state[0] = jax.block_until_ready(compiled(*state[0], gradient, going))

        return run

    return {name: form(program) for name, program in forms.items()}


def time_forms(forms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Milliseconds of CPU, one list per form; the first run of each is not counted."""
    for run in forms.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats):
        for name, run in forms.items():
            start = time.process_time()
            run()
            taken[name].append(1e3 * (time.process_time() - start))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    for part, forms in {"dropout masks": masks(), "Adam": steps()}.items():
        taken = time_forms(forms, options.repeats)
        now = taken["as it is"]
        for name, times in taken.items():
            ratios = min(now) / min(times), np.median(now) / np.median(times)
            print(
                f"{part}, {name}: {min(times):.1f} / {np.median(times):.1f} ms; as it "
                f"is takes {ratios[0]:.2f} / {ratios[1]:.2f} of that"
            )


if __name__ == "__main__":
    main()
