"""Where a CPU's time goes in a plan and an update of dog-run, operation by operation.

    taskset -c 0 python benchmarks/profile_ops.py --methods tdmpc2 bmpc

JAX's profiler tells how long every operation of the compiled program ran. Those that
hold a matrix product stand together, beside the least time that products can take at
the peak measured here. Pin it to one core: with more of them operations overlap, and a
product that threads share is not told in full. Times are the lower quartile of repeats.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from planprior import benchmark, experiment, runtime
from planprior.envs.registry import task_spec
from planprior.flops import plan_flops, update_flops
from planprior.hlo import parse
from planprior.methods import METHODS, SIZES

# Also where there is a GPU: it is not what is measured.
jax.config.update("jax_platforms", "cpu")

DOG = task_spec("dog-run")
FLOPS = {"plan": plan_flops, "update": update_flops}
RUNS_OTHERS = ("while", "call", "conditional")
REPEATS, ROWS = 8, 25


class Operation(NamedTuple):
    """An operation of a compiled program; of another's, which runs beside it, nothing.

    Attributes:
        size: Bytes of what it makes.
        kinds: Opcodes that it is fused of, or its own.
    """

    size: int = 0
    kinds: frozenset[str] = frozenset()


def described(text: str) -> dict[str, Operation]:
    """Operations of a program's text by name."""
    computations, _ = parse(text)
    found = {}
    for computation in computations.values():
        for one in computation.values():
            fused = one.opcode == "fusion" and computations.get(one.called[0])
            kinds = {part.opcode for part in fused.values()} if fused else {one.opcode}
            found[one.name] = Operation(one.size, frozenset(kinds - {"parameter"}))
    return found


def measured(subject: benchmark.Subject, part: str) -> dict[str, float]:
    """Milliseconds of each operation in one run of the part."""
    for _ in range(3):
        subject.run(part)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(REPEATS):
                subject.run(part)
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
    spent = defaultdict(list)
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name and not str(name).startswith(RUNS_OTHERS):
                    spent[str(name)].append(event.duration_ns)
    return {
        name: float(np.quantile(times, 0.25)) * len(times) / REPEATS / 1e6
        for name, times in spent.items()
    }


def show(
    title: str,
    spent: dict[str, float],
    known: dict[str, Operation],
    floor: float,
) -> None:
    """Print both sums, and the operations without products that take most."""
    known = {name: known.get(name, Operation()) for name in spent}
    products = {name for name, one in known.items() if "dot" in one.kinds}
    others = sorted(spent.keys() - products, key=lambda name: -spent[name])
    print(f"\n{title}: {sum(spent.values()):.1f} ms in {len(spent)} operations")
    print(
        f"  {sum(spent[name] for name in products):8.2f} ms hold products, "
        f"{floor:.2f} ms at the peak"
    )
    print(f"  {sum(spent[name] for name in others):8.2f} ms do not, of which")
    for name in others[:ROWS]:
        one = known[name]
        made_of = " ".join(sorted(one.kinds))
        print(f"  {spent[name]:8.2f} ms {one.size / 2**20:6.2f} MiB  {name}: {made_of}")


def main() -> None:
    """Profile every part of every method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["tdmpc2"])
    parser.add_argument("--size", choices=SIZES, default="5")
    args = parser.parse_args()
    runtime.configure()
    peak = benchmark.matmul_peak()
    print(f"peak at large matrix products: {peak / 1e9:.1f} GFLOP/s")
    for method in args.methods:
        train = experiment.TrainConfig(task=DOG.name, method=method, size=args.size)
        resolved = experiment.resolve(train, DOG, accelerator=False)
        subject = benchmark.Subject(resolved, members=1, updates=1)
        for part, lowered in subject.lower().items():
            known = described(lowered.compile().as_text() or "")
            spent = measured(subject, part)
            floor = FLOPS[part](DOG, resolved.config) / peak * 1e3
            show(f"{method}, {part}", spent, known, floor)


if __name__ == "__main__":
    main()
