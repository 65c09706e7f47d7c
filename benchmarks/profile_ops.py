"""Where a CPU's time goes in a plan and an update of dog-run, operation by operation.

    taskset -c 0 python benchmarks/profile_ops.py tdmpc2 bmpc

JAX's profiler tells how long every operation of the compiled program ran. Those that
hold a matrix product stand together, beside the least time that products can take at
the peak measured here. Pin it to one core: with more of them operations overlap, and a
product that threads share is not told in full. Times are the lower quartile of repeats.
"""

import argparse
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np

from planprior import benchmark, experiment, runtime
from planprior.flops import plan_flops, update_flops
from planprior.spec import EnvSpec

DOG = EnvSpec("dm_control:dog-run", 223, 38, 500, action_repeat=2)
FLOPS = {"plan": plan_flops, "update": update_flops}
RUNS_OTHERS = ("while", "call", "conditional")

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", re.M | re.S)
_OPERATION = re.compile(r"%?([\w.\-]+) = \(?\w+\[([\d,]*)\].*? ([a-z][a-z\-]*)\(")
_CALLED = re.compile(r"calls=%?([\w.\-]+)")


def described(text: str) -> dict[str, tuple[str, str]]:
    """Of a program's text: the shape of each operation and what it is fused of."""
    bodies = dict(_COMPUTATION.findall(text))
    made_of = {
        name: {kind for _, _, kind in _OPERATION.findall(body)}
        for name, body in bodies.items()
    }
    found = {}
    for line in text.splitlines():
        if operation := _OPERATION.search(line):
            name, shape, kind = operation.groups()
            called = _CALLED.search(line)
            kinds = made_of.get(called[1], set()) if called else {kind}
            found[name] = (f"[{shape}]", " ".join(sorted(kinds - {"parameter"})))
    return found


def measured(subject: benchmark.Subject, part: str, repeats: int) -> dict[str, float]:
    """Milliseconds of each operation in one run of the part."""
    for _ in range(3):
        subject.run(part)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(repeats):
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
        name: float(np.quantile(times, 0.25)) * len(times) / repeats / 1e6
        for name, times in spent.items()
    }


def show(
    title: str,
    spent: dict[str, float],
    known: dict[str, tuple[str, str]],
    floor: float,
    rows: int,
) -> None:
    """Print both sums, and the operations without products that take most."""
    products = {name for name in spent if "dot" in known.get(name, ("", ""))[1].split()}
    others = sorted(spent.keys() - products, key=lambda name: -spent[name])
    print(f"\n{title}: {sum(spent.values()):.1f} ms in {len(spent)} operations")
    print(
        f"  {sum(spent[name] for name in products):8.2f} ms hold products, "
        f"{floor:.2f} ms at the peak"
    )
    print(f"  {sum(spent[name] for name in others):8.2f} ms do not, of which")
    for name in others[:rows]:
        shape, kinds = known.get(name, ("", ""))
        print(f"  {spent[name]:8.2f} ms {name} {shape} {kinds[:70]}")


def main() -> None:
    """Profile every part of every method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=["tdmpc2"])
    parser.add_argument("--size", default="5")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--rows", type=int, default=25)
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
            spent = measured(subject, part, args.repeats)
            floor = FLOPS[part](DOG, resolved.config) / peak * 1e3
            show(f"{method}, {part}", spent, known, floor, args.rows)


if __name__ == "__main__":
    main()
