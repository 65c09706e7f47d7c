"""Whole trainings of dog-run on a GPU, by members, precision and XLA flags.

    python benchmarks/gpu_flags.py --seconds 460 --json flags.json

Each case is a process of its own. The cases of a wave compile side by side, until all
have done so or the wave's time is up; then they are timed one after the other, first in
parts and then as a whole with the real environments where these are installed. Every
case that is done prints a line at once.
"""

import argparse
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

START = time.perf_counter()
CUBLAS = "--xla_gpu_enable_triton_gemm=false"
GRAPHS = (
    "--xla_gpu_graph_min_graph_size=1 --xla_gpu_enable_command_buffer="
    "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,WHILE,CONDITIONAL"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """What one process measures.

    Attributes:
        members: P.
        precision: A name in `runtime.PRECISIONS`.
        flags: XLA's.
        method: The method.
        num_envs: Environments per member, and updates per call.
    """

    members: int
    precision: str = "tensorfloat32"
    flags: str = ""
    method: str = "tdmpc2"
    num_envs: int = 1

    def __str__(self) -> str:
        flags = {CUBLAS: "cublas", GRAPHS: "graphs", f"{CUBLAS} {GRAPHS}": "both"}
        words = [f"P={self.members}", self.method, self.precision]
        words += [f"envs={self.num_envs}"] * (self.num_envs > 1)
        return " ".join([*words, flags.get(self.flags, self.flags) or "defaults"])


BOTH = f"{CUBLAS} {GRAPHS}"
WAVES = (
    [Case(n, flags=flags) for flags in ("", CUBLAS, BOTH) for n in (1, 8)],
    [
        *(Case(n, flags=CUBLAS) for n in (2, 4, 16, 32)),
        Case(1, flags=CUBLAS, num_envs=4),
        *(Case(n, "tensorfloat32_x3", CUBLAS) for n in (1, 8)),
        *(Case(n, "float32", CUBLAS) for n in (1, 8)),
        *(Case(n, method="bmpc", flags=CUBLAS) for n in (1, 8)),
        *(Case(n, method="pompc", flags=CUBLAS) for n in (1, 8)),
        Case(1, flags="--xla_gpu_autotune_level=0"),
    ],
)


def say(what: str) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.perf_counter() - START:6.1f} s] {what}", flush=True)


# --- In a case's own process ----------------------------------------------------------


def measure(case: Case, decisions: int, size: str) -> None:
    """Compile, say so, wait for a line of input, time, and print the result."""
    from planprior import benchmark, experiment, runtime
    from planprior.envs.registry import is_installed, make_pool, task_spec
    from planprior.mapping import on_accelerator

    runtime.configure(precision=case.precision, compilation_cache=False)
    if not on_accelerator():
        raise SystemExit("this measures a GPU, and JAX finds none")
    spec = task_spec("dog-run")
    train = experiment.TrainConfig(
        task="dog-run", method=case.method, size=size, num_envs=case.num_envs
    )
    resolved = experiment.resolve(train, spec, accelerator=True)
    subject = benchmark.Subject(resolved, case.members, case.num_envs)
    subject.compile()
    for part in benchmark.PARTS:
        subject.run(part)
    print("ready", flush=True)
    sys.stdin.readline()
    seconds = benchmark.time_parts([subject], 30)[0]
    count = case.members * case.num_envs
    alone = benchmark.time_whole(subject, benchmark.idle_pool(spec, count), decisions)
    whole = None
    if is_installed("dog-run"):
        pool = make_pool("dog-run", count, 0)
        whole = benchmark.time_whole(subject, pool, decisions)
        pool.close()
    row = dataclasses.asdict(case) | {"name": str(case)}
    for part, timing in seconds.items():
        per = case.num_envs if part == "update" else 1
        row[part] = {k: 1e3 * t / per for k, t in timing._asdict().items()}
    for part, program in subject.programs.items():
        row[part] |= {"compile_seconds": program.compile_seconds}
        row[part] |= {"kernels": sum(program.kernels.values())}
    row["alone"] = alone._asdict()
    row["whole"] = whole and whole._asdict()
    row["peak_bytes"] = benchmark.peak_bytes()
    print(json.dumps(row), flush=True)


# --- The parent -----------------------------------------------------------------------


class Child:
    """A case in its process."""

    def __init__(self, case: Case, options: argparse.Namespace) -> None:
        self.case = case
        asked = json.dumps(dataclasses.asdict(case))
        command = [sys.executable, __file__, "--case", asked]
        command += ["--decisions", str(options.decisions), "--size", options.size]
        flags = f"{os.environ.get('XLA_FLAGS', '')} {case.flags}".strip()
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True,
            env=os.environ | {"XLA_FLAGS": flags},
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())
        self._lines.put("")

    def wait(self, end: float) -> str:
        """The next line; nothing once it is too late, or the process is over."""
        try:
            return self._lines.get(timeout=max(0.0, end - time.perf_counter()))
        except queue.Empty:
            return ""

    def go(self) -> None:
        """Let it time itself."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()


def run_wave(
    cases: list[Case], options: argparse.Namespace, compiled_by: float, end: float
) -> list[dict]:
    """Compile a wave's cases side by side, then time one after the other."""
    children = [Child(case, options) for case in cases]
    ready = []
    try:
        for child in children:
            if child.wait(compiled_by) == "ready":
                say(f"compiled {child.case}")
                ready.append(child)
            else:
                say(f"not compiled in time: {child.case}")
                child.process.kill()
        rows = []
        for child in ready:
            child.go()
            line = child.wait(end)
            if line.startswith("{"):
                rows.append(json.loads(line))
                show(rows[-1])
        return rows
    finally:
        for child in children:
            child.process.kill()
            child.process.wait()


def show(row: dict) -> None:
    """One line."""
    rates = [row[k]["env_steps_per_second"] for k in ("alone", "whole") if row[k]]
    shares = (row["whole"] or row["alone"])["shares"]
    parts = " | ".join(
        f"{p} {row[p]['least']:.2f}/{row[p]['median']:.2f} ms {row[p]['kernels']} k "
        f"{row[p]['compile_seconds']:.0f} s"
        for p in ("plan", "update")
    )
    small = " ".join(f"{p} {row[p]['median']:.2f}" for p in ("store", "transfer"))
    waits = " ".join(f"{k} {v:.0%}" for k, v in shares.items())
    steps = ", ".join(f"{rate:.0f}" for rate in rates)
    say(f"{row['name']:42s} {parts} | {small} | env steps/s {steps} | {waits}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=460.0)
    parser.add_argument("--compile-seconds", type=float, default=130.0)
    parser.add_argument("--decisions", type=int, default=100)
    parser.add_argument("--size", default="5")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        return measure(
            Case(**json.loads(options.case)), options.decisions, options.size
        )
    end, rows = START + options.seconds, []
    for wave in WAVES:
        now = time.perf_counter()
        left = end - now
        if left < 60:
            break
        by = now + min(options.compile_seconds, 0.6 * left)
        rows += run_wave(wave, options, by, end)
        if options.json:
            options.json.write_text(json.dumps(rows))
        options.compile_seconds *= 1.5


if __name__ == "__main__":
    main()
