"""For how many states to plan at a time on a CPU: milliseconds of a state, by samples.

    python benchmarks/states_at_once.py --size 5 --states 12 --samples 512 1024 2048 0

Plans for many states (reanalysis, several environments, evaluations) are made in parts
of so many samples, 0 for all at once; `planner.SAMPLES_AT_ONCE` is what this found. The
variants run in turns, and each prints its least and median time.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from planprior import agent, experiment, planner, runtime
from planprior.envs.registry import task_spec
from planprior.methods import METHODS, SIZES

# Also where there is a GPU: it is not what is measured.
jax.config.update("jax_platforms", "cpu")

Variant = Callable[[jax.Array], jax.Array]


def built(
    resolved: experiment.Experiment,
    state: agent.AgentState,
    seen: jax.Array,
    at_once: int,
) -> Variant:
    """A program that plans for the states seen, in parts of so many samples."""
    spec, config = resolved.spec, resolved.config
    states = len(seen)
    planner.SAMPLES_AT_ONCE = at_once or states * config.planner.num_samples

    def act(state: agent.AgentState, seen: jax.Array, key: jax.Array) -> jax.Array:
        warm_start = jnp.zeros((states, config.horizon, spec.action_dim))
        return agent.act(
            state, seen, warm_start, jnp.ones(states, bool), resolved.hypers, config,
            key=key, explore=True,
        ).action  # fmt: skip

    program = jax.jit(act).lower(state, seen, jax.random.key(0)).compile()
    return lambda key: program(state, seen, key)


def timed(variants: dict[int, Variant], repeats: int) -> dict[int, list[float]]:
    """Seconds of each variant, in turns; the first run of each does not count."""
    taken: dict[int, list[float]] = {at_once: [] for at_once in variants}
    for repeat in range(repeats + 1):
        for at_once, program in variants.items():
            start = time.perf_counter()
            program(jax.random.key(repeat)).block_until_ready()
            taken[at_once].append(time.perf_counter() - start)
    return {at_once: seconds[1:] for at_once, seconds in taken.items()}


def main() -> None:
    """Time every variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="dog-run")
    parser.add_argument("--method", choices=METHODS, default="bmpc")
    parser.add_argument("--size", choices=SIZES, default="5")
    parser.add_argument("--states", type=int, default=12)
    parser.add_argument("--samples", type=int, nargs="+", default=[512, 2048, 8192, 0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.states < 1 or args.repeats < 1 or min(args.samples) < 0:
        parser.error("states and repeats must be at least 1, samples at least 0")
    try:
        spec = task_spec(args.task)
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    runtime.configure()
    train = experiment.TrainConfig(task=args.task, method=args.method, size=args.size)
    resolved = experiment.resolve(train, spec, accelerator=False)
    config = resolved.config
    state = agent.init(spec, config, resolved.hypers, key=jax.random.key(0))
    seen = jax.random.normal(jax.random.key(1), (args.states, spec.observation_dim))
    variants = {n: built(resolved, state, seen, n) for n in args.samples}
    print(
        f"{args.task}, {args.method}, size {args.size}: {args.states} states of "
        f"{config.planner.num_samples} samples; ms of a state, least / median"
    )
    for at_once, seconds in timed(variants, args.repeats).items():
        least, median = (1e3 * f(seconds) / args.states for f in (min, np.median))
        print(f"{at_once or 'all':>8} samples at once: {least:8.2f} / {median:.2f}")


if __name__ == "__main__":
    main()
