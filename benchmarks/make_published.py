"""Make the table of published curves in the package, from full curves in a folder.

    python benchmarks/make_published.py FOLDER

FOLDER holds tidy tables `source,algorithm,benchmark,task,seed,env_steps,return,metric`,
one row per evaluation and seed, and `aggregate_intervals.csv`. What is written is our
summary of them: mean, Student's 95 % interval over seeds and their number, on a grid of
environment steps; and where each source is, its licence, how its numbers were converted
and what to mind when comparing.
"""

import argparse
import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from planprior import published_curves, results
from planprior.results import Curve

DATA = Path(results.__file__).with_name("data")
COLUMNS = ("source", "method", "benchmark", "task", "metric")
POINTS = ("env_steps", "mean", "low", "high", "seeds")
GRID = 1000 * np.array(
    [
        *(0, 10, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 700, 800, 900),
        *(1000, 1250, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 7000, 8000),
        *(10_000, 12_000, 14_000, 16_000, 20_000, 30_000, 40_000, 60_000, 100_000),
    ],
    float,
)

GITHUB = "https://github.com/"
STEPS_ARE_DECISIONS = "no action repeat: one decision per simulator step"


def caveat(text: str, method: str = "*", benchmark: str = "*") -> dict[str, str]:
    """What to mind with curves whose method and benchmark fit these patterns."""
    return {"text": text, "method": method, "benchmark": benchmark}


SOURCES = {
    "tdmpc2": {
        "repository": f"{GITHUB}nicklashansen/tdmpc2",
        "commit": "e9f5932193",
        "files": "results/*/*.csv",
        "licence": "MIT",
        "conversion": "none; its steps include action repeat (its issue 45 says so)",
        "caveats": [
            caveat("action repeat 2", benchmark="dmcontrol*"),
            caveat(
                "action repeat 2 (100 decisions per episode); success is that of the "
                "last step",
                benchmark="metaworld",
            ),
            caveat("success is that of the last step", benchmark="m[ay]*i*"),
            caveat("run by the authors of TD-MPC2", method="[!T]*"),
            caveat("run by the authors of TD-MPC2", method="TD-MPC"),
        ],
    },
    "tdmpc": {
        "repository": f"{GITHUB}nicklashansen/tdmpc",
        "commit": "f4d85eca74",
        "files": "results/*.csv",
        "licence": "MIT",
        "conversion": "none; its steps include action repeat",
        "caveats": [caveat("action repeat differs by task, 2 to 8")],
    },
    "bmpc": {
        "repository": f"{GITHUB}wertyuilife2/bmpc",
        "commit": "d5dabc6cb5",
        "files": "results/data_*.json",
        "licence": "MIT",
        "conversion": (
            "DMControl: only means and intervals of 5 seeds were published; the "
            "intervals used the population's standard deviation and were widened by "
            "√(5/4) to match all others. HumanoidBench: per seed, steps rounded to "
            "multiples of 50,000"
        ),
        "caveats": [
            caveat("action repeat 2", benchmark="dmcontrol"),
            caveat(STEPS_ARE_DECISIONS, benchmark="humanoidbench"),
            caveat("run by the authors of BMPC, not TD-MPC2's own", method="TD-MPC2"),
            caveat("as the authors of BMPC published it", method="DreamerV3"),
        ],
    },
    "simbav2": {
        "repository": f"{GITHUB}DAVIAN-Robotics/SimbaV2",
        "commit": "86899c277c",
        "files": "results/baseline/*.csv",
        "licence": "Apache-2.0",
        "conversion": "none; its steps include action repeat",
        "caveats": [
            caveat("action repeat 2", "SimbaV2*", "dmcontrol"),
            caveat(
                "action repeat 2, which others do not use here: another control "
                "problem",
                "SimbaV2*",
                "humanoidbench",
            ),
            caveat("action repeat 2", "SimbaV2*", "myosuite"),
            caveat(STEPS_ARE_DECISIONS, "BRO*"),
            caveat("success is that of any step of the episode", "BRO*", "m[ey]*"),
        ],
    },
    "simba": {
        "repository": f"{GITHUB}SonyResearch/simba",
        "commit": "7d0358b1f1",
        "files": "results/*.csv",
        "licence": "Apache-2.0",
        "conversion": "none; easy DMControl tasks end at 500,000 steps",
        "caveats": [
            caveat("action repeat 2", "SAC", "[dm]*"),
            caveat("action repeat 2", "SimBa-*", "[dm]*"),
            caveat(
                "action repeat 2, which others do not use here: another control "
                "problem",
                "S*",
                "humanoidbench",
            ),
            caveat("run by the authors of SimBa; action repeat not stated", "[DT]*"),
        ],
    },
    "flashsac": {
        "repository": f"{GITHUB}Holiday-Robot/FlashSAC",
        "commit": "87edc90611",
        "files": "results/stateRL_cpusim",
        "licence": "MIT",
        "conversion": "none",
        "caveats": [
            caveat(f"{STEPS_ARE_DECISIONS}; 50 episodes per evaluation", "FlashSAC"),
            caveat("run by the authors of FlashSAC; action repeat not stated", "[PX]*"),
        ],
    },
    "brc": {
        "repository": f"{GITHUB}naumix/BiggerRegularizedCategorical",
        "commit": "eec512f4e0",
        "files": "results/**/*.npy",
        "licence": "MIT",
        "conversion": (
            "the files have no steps: point i is taken for (i + 1) × 50,000, the "
            "default of its code, which agrees with BRO's curves"
        ),
        "caveats": [
            caveat(f"{STEPS_ARE_DECISIONS}; steps are inferred"),
            caveat("one agent for all tasks at once; steps per task", "*multi-task*"),
        ],
    },
    "dreamerv3": {
        "repository": f"{GITHUB}danijar/dreamerv3",
        "commit": "e3f0224869",
        "files": "scores/dmc_proprio-*.json.gz",
        "licence": "MIT",
        "conversion": "none",
        "caveats": [
            caveat(
                "probably returns of training episodes; action repeat not stated; "
                "DreamerV3 differs much between sources"
            )
        ],
    },
    "humanoidbench": {
        "repository": f"{GITHUB}carlosferrazza/humanoid-bench",
        "commit": "791405f5ea",
        "files": "logs/{hand,hierarchical}_ablation.json",
        "licence": "MIT",
        "conversion": "millions of steps × 10⁶",
        "caveats": [
            caveat(f"{STEPS_ARE_DECISIONS}; curves look smoothed"),
            caveat("an ablation with another setup", "Blocked*"),
            caveat("an ablation with another setup", "Re*"),
        ],
    },
    "fasttd3": {
        "repository": f"{GITHUB}younggyoseo/FastTD3",
        "commit": "229ed59bbf",
        "files": "data/humanoidbench_result.json",
        "licence": "MIT",
        "conversion": "none; only means were published, without a number of seeds",
        "caveats": [
            caveat(
                "128 environments at once, tens of millions of steps: made to be fast "
                "by the clock, not to be compared at equal steps"
            )
        ],
    },
}


def grid_of(first: float, last: float) -> np.ndarray:
    """The grid between two steps, both included."""
    inside = GRID[(GRID > first) & (GRID < last)]
    return np.concatenate([[first], inside, [last]])


def summaries(folder: Path) -> Iterator[Curve]:
    """All curves of a folder, on the grid."""
    runs: dict[tuple, list[results.Run]] = {}
    for table in sorted(folder.glob("*.csv")):
        if table.stem != published_curves.INTERVALS:
            for run in results.read_table(table):
                runs.setdefault(results.group_key(run), []).append(run)
    intervals = results.published_intervals(folder)
    for group in runs.values():
        first = max(run.env_steps[0] for run in group)
        last = min(run.env_steps[-1] for run in group)
        # A seed that ended far too early would cut off all others.
        last = max(last, 0.9 * max(run.env_steps[-1] for run in group))
        curve = results.summarise(group, grid_of(first, last))
        if group[0].seed == "mean":
            whole = intervals.get(results.published_key(curve))
            curve = _with_intervals(curve, whole)
        yield curve


def _with_intervals(curve: Curve, whole: Curve | None) -> Curve:
    if whole is None:
        return replace(curve, seeds=np.zeros(len(curve.seeds), int))
    points = {s: p for s in curve.env_steps if (p := whole.at(float(s))) is not None}
    mean, low, high, seeds = np.array(list(points.values())).T
    steps = np.array(list(points))
    return replace(
        curve, env_steps=steps, mean=mean, low=low, high=high, seeds=seeds.astype(int)
    )


def rows_of(curve: Curve) -> Iterator[dict]:
    """Rows of the table, in the precision of the sources."""
    digits = 3 if curve.metric == "success" else 1
    for i, step in enumerate(curve.env_steps):
        numbers = {k: getattr(curve, k)[i] for k in ("mean", "low", "high")}
        yield {
            **{k: getattr(curve, k) for k in COLUMNS},
            "env_steps": f"{step:.0f}",
            **{k: _short(x, digits) for k, x in numbers.items()},
            "seeds": int(curve.seeds[i]),
        }


def _short(x: float, digits: int) -> str:
    if not np.isfinite(x):
        return ""
    text = f"{x:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def write(curves: list[Curve]) -> None:
    """Write table and sources; the same data make the same bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *POINTS], lineterminator="\n")
    writer.writeheader()
    order = sorted(curves, key=lambda c: (c.source, c.method, c.benchmark, c.task))
    writer.writerows(row for curve in order for row in rows_of(curve))
    DATA.mkdir(exist_ok=True)
    packed = gzip.compress(text.getvalue().encode(), mtime=0)
    (DATA / "published.csv.gz").write_bytes(packed)
    facts = json.dumps(SOURCES, indent=1, ensure_ascii=False)
    (DATA / "published.json").write_text(facts + "\n", encoding="utf-8")
    lines = text.getvalue().count("\n") - 1
    print(f"{len(curves)} curves, {lines} points, {len(packed) / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    curves = list(summaries(parser.parse_args().folder))
    unknown = {curve.source for curve in curves} - set(SOURCES)
    if unknown:
        raise SystemExit(f"SOURCES says nothing of {', '.join(sorted(unknown))}")
    write(curves)


if __name__ == "__main__":
    main()
