"""Plan and update of dog-run on an accelerator: variants side by side, in minutes.

    python benchmarks/gpu_parts.py --seconds 240 --json parts.json

Each variant is a population of so many members, built in one way. What a variant
changes is changed here, from outside: the library itself has one way to do each thing.
Variants come in groups, the most telling first. Those of a group are compiled side by
side and timed in turns, before the next group begins; what is not compiled in time is
named and left behind.

With --errors, precisions are compared with float64 first: how far one plan's values and
one update's gradients are from it. With --profile, kernels are counted by the profiler.
"""

import argparse
import contextlib
import dataclasses
import faulthandler
import functools
import json
import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from planprior import agent, benchmark, experiment, host, nets, programs, runtime
from planprior.flops import plan_flops, update_flops
from planprior.spec import EnvSpec

START = time.perf_counter()
DOG = EnvSpec("dm_control:dog-run", 223, 38, 500, action_repeat=2)
PRECISIONS = (
    *("float32", "tensorfloat32", "bfloat16"),
    *("TF32_TF32_F32_X3", "BF16_BF16_F32_X3", "BF16_BF16_F32_X6"),
)


def say(what: str) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.perf_counter() - START:6.1f} s] {what}", flush=True)


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
    saved = nets.apply_heads, programs.map_members, jax.lax.scan
    # Programs are shared between populations, and remember how they were traced.
    programs._shared.cache_clear()
    nets.apply_heads = HEADS[variant.heads]
    mapping = MAPPINGS[variant.mapping]
    if variant.members > 1:
        programs.map_members = lambda f, num_members: mapping(f)
    if variant.iterations == "unrolled":
        jax.lax.scan = functools.partial(saved[2], unroll=True)
    try:
        yield
    finally:
        nets.apply_heads, programs.map_members, jax.lax.scan = saved


def train_config(variant: Variant, size: str) -> experiment.Experiment:
    """One training of dog-run."""
    train = experiment.TrainConfig(task=DOG.name, method=variant.method, size=size)
    return experiment.resolve(train, DOG, accelerator=True)


TRACING = threading.Lock()
"""What a variant changes while it is traced is changed for everybody."""


def build(variant: Variant, size: str) -> benchmark.Subject:
    """Build a variant, trace it and compile it; several may be built at once."""
    with jax.default_matmul_precision(variant.precision):
        with TRACING, built_as(variant):
            subject = benchmark.Subject(
                train_config(variant, size), variant.members, variant.updates
            )
            lowered = subject.lower()
        say(f"traced {variant}")
        subject.compile(lowered)
    say(f"compiled {variant}")
    return subject


def groups(counts: list[int], precisions: list[str]) -> list[list[Variant]]:
    """What is compared, in groups."""
    most = max((n for n in counts if n <= 8), default=min(counts))
    ends = sorted({1, most})
    exact = "TF32_TF32_F32_X3" if "TF32_TF32_F32_X3" in precisions else "float32"
    first = [Variant(members=n, precision=p) for p in ("float32", exact) for n in ends]
    first += [Variant(members=n, precision="tensorfloat32") for n in ends]
    between = [Variant(members=n, precision=exact) for n in counts if n not in ends]
    others = [
        Variant(members=n, precision=exact, method=method)
        for method in ("bmpc", "pompc")
        for n in ends
    ]
    ways = [
        Variant(members=n, precision=exact, **way)
        for way in (
            {"heads": "batched"},
            {"heads": "loop"},
            {"iterations": "unrolled"},
            {"updates": 8},
        )
        for n in ends
    ]
    ways.append(Variant(members=most, precision=exact, mapping="loop"))
    parts = [first, between, ways, others]
    seen: set[Variant] = set()
    return [[v for v in p if not (v in seen or seen.add(v))] for p in parts]


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


def compile_group(
    wanted: list[Variant], size: str, pool: ThreadPoolExecutor, end: float
) -> dict[Variant, benchmark.Subject]:
    """Build the variants of a group beside one another; what fails is named."""
    pending = {variant: pool.submit(build, variant, size) for variant in wanted}
    built = {}
    for variant, future in pending.items():
        with attempting(str(variant)):
            built[variant] = future.result(max(1.0, end - time.perf_counter()))
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
                found[precision] = benchmark.matmul_peak(seconds=0.4)
        except ValueError as error:
            print(f"{precision}: {error}")
            continue
        say(f"matmul peak {precision}: {found[precision] / 1e12:.2f} TFLOP/s")
    return found


def errors(size: str, precisions: list[str]) -> dict[str, dict[str, float]]:
    """Relative error of a plan's first values and of a model gradient, by precision.

    Against float64 on the same inputs: the value of 256 action sequences as the planner
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
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--profile", type=Path, help="a folder for its traces")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(options.seconds + 20, exit=True)
    runtime.configure(compilation_cache=False)
    end = START + options.seconds
    report: dict = {"machine": runtime.describe(), "rows": []}
    report["peak"] = peaks()
    precisions = list(report["peak"])
    if options.errors:
        report["errors"] = errors(options.size, precisions)
    # Never waited for: a compilation cannot be stopped.
    pool = ThreadPoolExecutor(max(1, host.cores() - 2))
    for group in filter(None, groups(options.members, precisions)):
        if time.perf_counter() > end - 30:
            say(f"out of time before {group[0]}")
            break
        built = compile_group(group, options.size, pool, end)
        say(f"timing {len(built)} variants")
        taken = time_in_turns(built, options.repeats, end)
        for variant, subject in built.items():
            row = row_of(variant, subject, taken[variant])
            report["rows"].append(row)
            show(row)
        report["peak_bytes"] = benchmark.peak_bytes()
        if options.json:
            options.json.write_text(json.dumps(report))
    if options.profile and time.perf_counter() < end:
        for members in (1, 8):
            with attempting(f"profile of P={members}"):
                found = look(members, options.size, options.profile)
                show_profile(f"P={members}", found)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
