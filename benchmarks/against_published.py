"""Plan and update of dog-run beside the published PyTorch programs, on this CPU.

    python benchmarks/against_published.py --python TORCH_PYTHON \
        --tdmpc2 CHECKOUT/tdmpc2 --bmpc CHECKOUT/bmpc

TORCH_PYTHON is a Python that has torch and tensordict; the folders are those in the
checkouts of nicklashansen/tdmpc2 and wertyuilife2/bmpc that hold `config.yaml`. Each
published program runs in a process of its own, at its own default settings and eager
(torch.compile was never faster here by more than noise), and has random weights and one
random batch: its replay and its environment take no part, nor do ours.

Without the folders ours run alone, each beside the bare agent of `--bare`, which has no
population around it: no members, no replay.

All programs take turns, so that what else the machine does meets all of them; compare
the least times, and only within one run. The peak is measured in turns as well.
"""

import argparse
import ast
import importlib
import importlib.machinery
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OBSERVATION, ACTION, EPISODE = 223, 38, 500
CPU = {
    "cuda:0": "cpu",
    "capturable=True": "capturable=False",
    # It is there already, and later versions of torch refuse the heads' template.
    "WorldModel(cfg).to(self.device)": "WorldModel(cfg)",
}
"""What of the published sources is specific to a GPU, and what it becomes."""


# --- The published programs: runs where torch is -------------------------------------


class OnCpu(importlib.machinery.SourceFileLoader):
    """Reads a source with every `CPU` replacement made."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        """Compile the changed source."""
        text = bytes(data).decode()
        for gpu, cpu in CPU.items():
            text = text.replace(gpu, cpu)
        return super().source_to_code(text.encode(), path)

    def get_code(self, fullname: str) -> Any:
        """Never from a cached file, which would hold the unchanged source."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class Settings(dict):
    """A configuration whose entries are attributes too."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def read_settings(path: Path) -> Settings:
    """Read the plain `name: value` lines of a `config.yaml`."""
    found = Settings()
    for line in path.read_text().splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        if colon and name.isidentifier() and value.strip() not in ("", "???"):
            text = value.strip().removeprefix("+")
            try:
                found[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                found[name] = {"true": True, "false": False}.get(text, text)
    return found


def published(name: str, folder: Path) -> dict[str, Any]:
    """Build a published agent; return its plan and its update as functions."""
    import torch

    def changed(path: str) -> Any:
        if not Path(path).is_relative_to(folder):
            raise ImportError
        return importlib.machinery.FileFinder(path, (OnCpu, [".py"]))

    sys.path_hooks.insert(0, changed)
    sys.path.insert(0, str(folder))
    sys.path_importer_cache.clear()
    cfg = read_settings(folder / "config.yaml")
    cfg |= {
        "multitask": False, "tasks": None, "task_dim": 0, "compile": False,
        "obs_shape": {"state": (OBSERVATION,)}, "action_dim": ACTION,
        "episode_length": EPISODE, "seed_steps": 0,
    }  # fmt: skip
    cfg.bin_size = (cfg.vmax - cfg.vmin) / (cfg.num_bins - 1)
    torch.manual_seed(0)
    agent = getattr(importlib.import_module(name), name.upper())(cfg)
    steps, batch = cfg.horizon, cfg.batch_size
    sees = torch.randn(steps + 1, batch, OBSERVATION)
    acts, rewards = (
        torch.rand(steps, batch, ACTION) * 2 - 1,
        torch.rand(steps, batch, 1),
    )
    plans = torch.cat([acts, torch.full_like(acts, 0.5)], -1)
    last = {"tdmpc2": torch.zeros(steps, batch, 1), "bmpc": plans}[name]
    return {
        "plan": lambda: agent.act(sees[0, 0], t0=False),
        "update": lambda: agent._update(sees, acts, rewards, last),
    }


def serve(name: str, folder: Path) -> None:
    """Answer each line of input, `plan` or `update`, by the seconds it took."""
    answers, sys.stdout = sys.stdout, sys.stderr
    import torch

    parts = published(name, folder)
    print(json.dumps({"torch": torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        parts[line.strip()]()
        print(time.perf_counter() - start, file=answers, flush=True)


class Published:
    """A published program in a process of its own."""

    def __init__(self, python: str, name: str, folder: Path) -> None:
        command = [python, __file__, "--serve", name, "--folder", str(folder)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.version = json.loads(self._answer())["torch"]

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a published program ended; its words are above")
        return line

    def run(self, part: str) -> float:
        """Seconds of one part."""
        assert self.process.stdin is not None
        self.process.stdin.write(part + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)


# --- Ours, and the comparison ---------------------------------------------------------


class Ours:
    """Our program for a method, at the default size."""

    def __init__(self, method: str) -> None:
        from planprior import benchmark, experiment
        from planprior.spec import EnvSpec

        spec = EnvSpec("dog-run", OBSERVATION, ACTION, EPISODE, action_repeat=2)
        train = experiment.TrainConfig(task=spec.name, method=method, size="5")
        self.experiment = experiment.resolve(train, spec, accelerator=False)
        self.subject = benchmark.Subject(self.experiment, members=1, updates=1)
        self.subject.compile()

    def run(self, part: str) -> float:
        """Seconds of one part."""
        start = time.perf_counter()
        self.subject.run(part)
        return time.perf_counter() - start

    def flops(self, part: str) -> int:
        """Operations of one part."""
        from planprior.flops import plan_flops, update_flops

        count = {"plan": plan_flops, "update": update_flops}[part]
        return count(self.experiment.spec, self.experiment.config)

    def close(self) -> None:
        """Nothing to free."""


class Bare(Ours):
    """Our agent without the population around it: no members, no replay."""

    def __init__(self, method: str) -> None:
        import jax
        import jax.numpy as jnp

        from planprior import agent

        super().__init__(method)
        population, config = self.subject.population, self.experiment.config
        hypers = self.experiment.hypers.arrays()
        key = jax.random.key(0)
        batch, _ = population.programs.sample(self.subject.replay, population.keys, 0)
        batch, self.state = jax.tree.map(
            lambda x: jnp.copy(x[0]), (batch, self.subject.agents)
        )
        see, warm = jnp.zeros((1, OBSERVATION)), population.cold_start()[0]
        start = jnp.zeros(1, bool)
        act = jax.jit(
            lambda state, see, warm, hypers, key: agent.act(
                state, see, warm, start, hypers, config, key=key, explore=True
            )
        )
        update = jax.jit(
            lambda state, batch, hypers, key: agent.update(
                state, batch, hypers, config, key=key, tell=False
            ),
            donate_argnums=0,
        )
        self.parts = {
            "plan": lambda: (act(self.state, see, warm, hypers, key), None),
            "update": lambda: update(self.state, batch, hypers, key),
        }

    def run(self, part: str) -> float:
        """Seconds of one part."""
        import jax

        start = time.perf_counter()
        result = jax.block_until_ready(self.parts[part]())
        if part == "update":
            self.state = result[0]
        return time.perf_counter() - start


def compare(programs: dict[str, Any], repeats: int, seconds: float) -> dict[str, Any]:
    """Time plan and update of all programs in turns, and the peak with them."""
    from planprior.benchmark import matmul_peak

    taken: dict[str, dict[str, list[float]]] = {
        name: {"plan": [], "update": []} for name in programs
    }
    peaks, end = [], time.perf_counter() + seconds
    for repeat in range(repeats + 1):
        if repeat > 1 and time.perf_counter() > end:
            break
        peaks.append(matmul_peak(seconds=0.3))
        for name, program in programs.items():
            for part, times in taken[name].items():
                elapsed = program.run(part)
                if repeat:  # the first only warms up
                    times.append(elapsed)
    return {"taken": taken, "peak": max(peaks)}


def bare(name: str) -> str:
    """What a method's agent without a population is called here."""
    return f"{name} without a population"


def report(programs: dict[str, Any], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Least and median milliseconds, the floor, and what the published program took."""
    import numpy as np

    rows = []
    for name, parts in found["taken"].items():
        for part, times in parts.items():
            row = {"program": name, "part": part, "repeats": len(times)}
            row |= {"ms": 1e3 * min(times), "median_ms": 1e3 * float(np.median(times))}
            program = programs[name]
            if isinstance(program, Ours):
                row["gflop"] = program.flops(part) / 1e9
                row["floor_ms"] = 1e3 * program.flops(part) / found["peak"]
                for to, other in (
                    ("published", f"published {name}"),
                    ("bare", bare(name)),
                ):
                    beside = found["taken"].get(other)
                    if beside:
                        row[f"of_{to}"] = min(times) / min(beside[part])
                        medians = np.median(times) / np.median(beside[part])
                        row[f"of_{to}_median"] = float(medians)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--tdmpc2", type=Path)
    parser.add_argument("--bmpc", type=Path)
    parser.add_argument("--methods", nargs="+", default=["tdmpc2", "bmpc"])
    parser.add_argument("--bare", nargs="*", default=["tdmpc2"], metavar="METHOD")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.folder.resolve())
    # On the CPU also where there is a GPU: there the others run.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from planprior import runtime

    runtime.configure()
    programs: dict[str, Any] = {}
    for name in options.methods:
        programs[name] = Ours(name)
        folder = getattr(options, name, None)
        if folder:
            programs[f"published {name}"] = Published(
                options.python, name, folder.resolve()
            )
    programs |= {bare(name): Bare(name) for name in options.bare}
    found = compare(programs, options.repeats, options.seconds)
    rows = report(programs, found)
    torch = {p.version for p in programs.values() if isinstance(p, Published)}
    print(f"peak {found['peak'] / 1e9:.0f} GFLOP/s; torch {', '.join(torch) or '–'}")
    for row in rows:
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}"
                        for k, v in row.items()))  # fmt: skip
    if options.json:
        result = {"machine": runtime.describe(), "peak": found["peak"], "rows": rows}
        options.json.write_text(json.dumps(result, indent=1))
    for program in programs.values():
        program.close()


if __name__ == "__main__":
    main()
