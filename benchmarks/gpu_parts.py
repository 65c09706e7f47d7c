"""Plan and update of dog-run on an accelerator: variants side by side, in minutes.

    python benchmarks/gpu_parts.py --seconds 240 --json parts.json

Each variant is a population of so many members, built in one way. All are compiled
first, then timed in turns. What a variant changes is changed here, from outside: the
library itself has one way to do each thing.

The last part compares precisions with float64: how far one plan's values and one
update's gradients are from it.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from planprior import agent, benchmark, experiment, nets, population, runtime
from planprior.flops import plan_flops, update_flops
from planprior.spec import EnvSpec

DOG = EnvSpec("dm_control:dog-run", 223, 38, 500, action_repeat=2)
PRECISIONS = (
    *("float32", "tensorfloat32", "bfloat16"),
    *("TF32_TF32_F32_X3", "BF16_BF16_F32_X3", "BF16_BF16_F32_X6"),
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to build the programs.

    Attributes:
        members: P.
        updates: Gradient steps per call.
        mapping: `vmap` or `loop` over members.
        precision: Of matrix products.
        heads: `loop` over value heads, or one `batched` product.
        iterations: `scan` over the planner's iterations, or `unrolled`.
    """

    members: int = 1
    updates: int = 1
    mapping: str = "vmap"
    precision: str = "float32"
    heads: str = "library"
    iterations: str = "scan"
    method: str = "tdmpc2"

    def __str__(self) -> str:
        changed = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default and f.name != "members"
        ]
        return f"P={self.members} {' '.join(changed)}".strip()


def batched_heads(heads, *parts, dropout=None):
    """All heads in one batched product per layer."""
    if dropout is None:
        return jax.vmap(lambda head: head(*parts))(heads)
    return jax.vmap(lambda head, mask: head(*parts, dropout=mask))(heads, dropout)


def looped_heads(heads, *parts, dropout=None):
    """One head after the other."""
    count = len(heads.last.bias)
    masks = [None] * count if dropout is None else list(dropout)
    return jnp.stack(
        [nets.take(heads, i)(*parts, dropout=mask) for i, mask in enumerate(masks)]
    )


HEADS = {"batched": batched_heads, "loop": looped_heads, "library": nets.apply_heads}
MAPPINGS = {
    "vmap": jax.vmap,
    "loop": lambda f: lambda *args: jax.lax.map(lambda part: f(*part), args),
}


@contextlib.contextmanager
def built_as(variant: Variant):
    """Change the library for as long as a variant's programs are traced."""
    saved = nets.apply_heads, population.map_members, jax.lax.scan
    nets.apply_heads = HEADS[variant.heads]
    mapping = MAPPINGS[variant.mapping]
    if variant.members > 1:
        population.map_members = lambda f, num_members: mapping(f)
    if variant.iterations == "unrolled":
        jax.lax.scan = functools.partial(saved[2], unroll=True)
    jax.config.update("jax_default_matmul_precision", variant.precision)
    try:
        yield
    finally:
        nets.apply_heads, population.map_members, jax.lax.scan = saved
        jax.config.update("jax_default_matmul_precision", "float32")


def train_config(variant: Variant, size: str) -> experiment.Experiment:
    """One training of dog-run."""
    train = experiment.TrainConfig(task=DOG.name, method=variant.method, size=size)
    return experiment.resolve(train, DOG, accelerator=True)


def build(variant: Variant, size: str) -> benchmark.Subject:
    """Trace a variant's programs, in one thread; compiling may take several."""
    with built_as(variant):
        return benchmark.Subject(
            train_config(variant, size), variant.members, variant.updates
        )


def variants(counts: list[int], precisions: list[str]) -> list[Variant]:
    """What is compared: the most telling first, in case time runs out."""
    most = max(n for n in counts if n <= 8)
    found = [Variant(members=n) for n in counts]
    for precision in precisions[1:]:
        found += [Variant(members=n, precision=precision) for n in sorted({1, most})]
    found += [Variant(members=n, heads="batched") for n in sorted({1, most})]
    found += [Variant(members=n, heads="loop") for n in sorted({1, most})]
    found += [
        Variant(updates=4),
        Variant(updates=16),
        Variant(members=most, updates=4),
        Variant(members=most, mapping="loop"),
        Variant(iterations="unrolled"),
        Variant(members=most, iterations="unrolled"),
        Variant(method="bmpc"),
        Variant(members=most, method="bmpc"),
        Variant(method="pompc"),
        Variant(members=most, method="pompc"),
    ]
    return list(dict.fromkeys(found))


def time_in_turns(
    built: dict[Variant, benchmark.Subject], repeats: int, end: float
) -> dict[Variant, dict[str, list[float]]]:
    """Seconds of each part of each variant; fewer repeats where time is short."""
    taken = {v: {part: [] for part in benchmark.PARTS} for v in built}
    for repeat in range(repeats + 1):
        if time.perf_counter() > end and repeat > 3:
            break
        for variant, subject in built.items():
            with jax.default_matmul_precision(variant.precision):
                for part in benchmark.PARTS:
                    start = time.perf_counter()
                    subject.run(part)
                    if repeat:
                        taken[variant][part].append(time.perf_counter() - start)
    return taken


def row_of(
    variant: Variant, subject: benchmark.Subject, taken: dict[str, list[float]]
) -> dict:
    """What was measured of a variant, per gradient step and for all members."""
    config, members = subject.population.config, variant.members
    flops = {
        "plan": members * plan_flops(DOG, config),
        "update": members * update_flops(DOG, config),
    }
    row = dataclasses.asdict(variant) | {"name": str(variant)}
    for part, times in taken.items():
        per = variant.updates if part == "update" else 1
        row[part] = {"ms": 1e3 * min(times) / per}
        row[part]["median_ms"] = 1e3 * float(np.median(times)) / per
        if part not in flops:
            continue
        program = subject.programs[part]
        row[part] |= {
            "compile_seconds": program.compile_seconds,
            "gflop": flops[part] / 1e9,
            "tflops": flops[part] / row[part]["ms"] / 1e9,
            "kernels": sum(program.kernels.values()) / per,
            "kinds": program.kernels,
            "temp_bytes": program.memory["temp"],
        }
    return row


def show(row: dict) -> None:
    plan, update = row["plan"], row["update"]
    print(
        f"{row['name']:44s} plan {plan['ms']:7.2f}/{plan['median_ms']:7.2f} ms "
        f"{plan['tflops']:6.1f} TF {plan['kernels']:5.0f} k | "
        f"update {update['ms']:7.2f}/{update['median_ms']:7.2f} ms "
        f"{update['tflops']:6.1f} TF {update['kernels']:5.0f} k | "
        f"store {row['store']['ms']:.2f} transfer {row['transfer']['ms']:.2f} | "
        f"compile {plan['compile_seconds']:.0f}+{update['compile_seconds']:.0f} s",
        flush=True,
    )


def compile_all(
    wanted: list[Variant], size: str, end: float
) -> dict[Variant, benchmark.Subject]:
    """Trace in turn and compile beside; what fails is named and left out."""
    pending = {}
    with ThreadPoolExecutor(max(1, runtime.cpu_cores() - 2)) as pool:
        for variant in wanted:
            if time.perf_counter() > end - 60:
                print(f"out of time before {variant}")
                break
            with attempting(str(variant)):
                subject = build(variant, size)
                pending[variant] = subject, pool.submit(subject.compile)
    built = {}
    for variant, (subject, future) in pending.items():
        error = future.exception()
        if error is None:
            built[variant] = subject
        else:
            print(f"{variant}: {type(error).__name__}: {str(error)[:200]}")
    return built


# --- What runs, by the profiler -------------------------------------------------------


def profile(subject: benchmark.Subject, folder: Path, repeats: int = 5) -> dict:
    """Kernels that ran on the device per call, and where the time went."""
    report = {}
    for part in ("plan", "update"):
        target = folder / part
        with jax.profiler.trace(str(target)):
            for _ in range(repeats):
                subject.run(part)
        report[part] = _read_trace(next(target.rglob("*.xplane.pb")), repeats)
    return report


def look(members: int, size: str, folder: Path) -> dict:
    """Profile the plain variant with so many members."""
    subject = build(Variant(members=members), size)
    subject.compile()
    for part in benchmark.PARTS:
        subject.run(part)
    return profile(subject, folder / str(members))


def _read_trace(path: Path, repeats: int) -> dict:
    data = jax.profiler.ProfileData.from_file(str(path))
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for plane in data.planes:
        if not plane.name.startswith("/device:"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                times[event.name] += event.duration_ns / 1e6 / repeats
                counts[event.name] += 1
    top = [[n, ms, counts[n] / repeats] for n, ms in times.most_common(25)]
    return {
        "events": sum(counts.values()) / repeats,
        "busy_ms": sum(times.values()),
        "top": top,
    }


def show_profile(name: str, report: dict) -> None:
    for part, found in report.items():
        print(f"{name} {part}: {found['events']:.0f} events on the device, busy "
              f"{found['busy_ms']:.2f} ms")  # fmt: skip
        for event, ms, count in found["top"][:14]:
            print(f"    {ms:7.3f} ms  {count:6.1f} x  {event[:100]}")


# --- How exact ------------------------------------------------------------------------


def peaks() -> dict[str, float]:
    """Rate of large matrix products at each precision that this device has."""
    found = {}
    for precision in PRECISIONS:
        try:
            with jax.default_matmul_precision(precision):
                found[precision] = benchmark.matmul_peak(seconds=1.0)
        except ValueError as error:
            print(f"{precision}: {error}")
            continue
        print(f"matmul peak {precision}: {found[precision] / 1e12:.2f} TFLOP/s")
    return found


def errors(size: str, precisions: list[str]) -> dict[str, dict[str, float]]:
    """Relative error of a plan's first values and of a model gradient, by precision.

    Against float64 on the same inputs: the value of 512 action sequences as the planner
    computes it, and the world model's parameters' change under plain gradients.
    """
    exact = _outputs(size, "float32", double=True)
    found = {}
    for precision in precisions:
        got = _outputs(size, precision, double=False)
        found[precision] = {
            name: float(
                np.linalg.norm(got[name] - exact[name]) / np.linalg.norm(exact[name])
            )
            for name in exact
        }
        print(precision, {k: f"{v:.1e}" for k, v in found[precision].items()})
    return found


def _outputs(size: str, precision: str, double: bool) -> dict[str, np.ndarray]:
    from planprior.planner import rollout

    resolved = train_config(Variant(), size)
    config = resolved.config
    rng = np.random.default_rng(0)
    state = agent.init(DOG, config, resolved.hypers.arrays(), key=jax.random.key(0))
    draw = lambda leaf: 0.05 * rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    model = dataclasses.replace(
        state.model,
        reward_head=dataclasses.replace(
            state.model.reward_head,
            last=jax.tree.map(draw, state.model.reward_head.last),
        ),
        value_heads=dataclasses.replace(
            state.model.value_heads,
            last=jax.tree.map(draw, state.model.value_heads.last),
        ),
    )
    see = rng.normal(size=(256, 223)).astype(np.float32)
    actions = rng.uniform(-1, 1, size=(256, 3, 38)).astype(np.float32)
    target = rng.normal(size=(256,)).astype(np.float32)
    kind = np.float64 if double else np.float32
    model, see, actions, target = jax.tree.map(
        lambda x: np.asarray(x, kind), (model, see, actions, target)
    )
    hypers = jax.tree.map(lambda x: np.asarray(x, kind), resolved.hypers.arrays())

    def values(model):
        def one(o, a):
            path = rollout(model, model.encode(o), a, hypers, config.planner)
            return path.reward + jnp.mean(model.values(path.z, a[0]))

        return jax.vmap(one)(see, actions)

    def loss(model):
        return jnp.mean((values(model) - target) ** 2)

    with jax.enable_x64(double), jax.default_matmul_precision(precision):
        value, gradient = jax.jit(lambda m: (values(m), jax.grad(loss)(m)))(model)
        flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradient)])
    return {"values": np.asarray(value, np.float64), "gradient": flat.astype(float)}


@contextlib.contextmanager
def attempting(what: str):
    """Say what failed, and go on: the rest is worth having."""
    try:
        yield
    except Exception as error:
        print(f"{what}: {type(error).__name__}: {str(error)[:300]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--size", default="5")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--trace", type=Path, default=Path("/tmp/planprior-trace"))
    options = parser.parse_args()
    runtime.configure(compilation_cache=False)
    end = time.perf_counter() + options.seconds
    report: dict = {"machine": runtime.describe(), "rows": [], "peak": {}}

    def write() -> None:
        if options.json:
            options.json.write_text(json.dumps(report))

    report["peak"] = peaks()
    precisions = list(report["peak"])
    with attempting("errors"):
        report["errors"] = errors(options.size, precisions)
    for members in sorted({1, max(n for n in options.members if n <= 8)}):
        with attempting(f"profile of P={members}"):
            found = look(members, options.size, options.trace)
            report[f"profile P={members}"] = found
            show_profile(f"P={members}", found)
        write()
    built = compile_all(variants(options.members, precisions), options.size, end)
    taken = time_in_turns(built, options.repeats, end)
    for variant, subject in built.items():
        row = row_of(variant, subject, taken[variant])
        report["rows"].append(row)
        show(row)
    report["peak_bytes"] = benchmark.peak_bytes()
    write()


if __name__ == "__main__":
    main()
