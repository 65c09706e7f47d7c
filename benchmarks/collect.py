"""Collect evaluations of run folders into one tidy table, with how they were made.

    python benchmarks/collect.py runs/* --table results/dmcontrol.csv

One row per evaluation and member. Rows of runs that are in the table already are
replaced, unless they go further than the new ones; all others stay.
"""

import argparse
import collections
import csv
import json
import os
from pathlib import Path

from planprior import results

COLUMNS = (
    *("task", "method", "size", "seed", "prior_weight", "swept", "env_steps"),
    *("plan_return", "plan_std", "policy_return", "policy_std", "success"),
    *("episodes", "updates", "seconds", "settings", "num_envs", "date", "device"),
    *("cpu", "cores", "jax", "mujoco", "dm_control", "planprior", "commit", "command"),
)
KEYS = (*COLUMNS[:6], "settings", "num_envs")
TOLD = {
    *("step", "episode_reward", "episode_reward_std", "policy_reward", "success"),
    *("policy_reward_std", "episode_length", "episodes", "updates", "seconds"),
    *("seed", "prior_weight"),
}
"""Columns that every `eval.csv` may have; others tell members of a sweep apart."""


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Rows of one run folder; none if it has not been evaluated yet."""
    if not (folder / "eval.csv").exists():
        return []
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with (folder / "eval.csv").open(encoding="utf-8", newline="") as file:
        return [
            how_made(config, machine_of(config, int(row["step"]))) | scores(row)
            for row in csv.DictReader(file)
        ]


def machine_of(config: dict, step: int) -> dict:
    """Where, when and by what command a run made its row of that step.

    A run that was stopped or prolonged has been started several times. One that was
    stopped within an evaluation makes that first: its row is of the later start, though
    not of a later step.
    """
    starts = [{"step": -1, **config.get("machine", {})}, *config.get("resumed", [])]
    return next(
        start
        for start in reversed(starts)
        if start.get("evaluated_at", start["step"]) < step
    )


def how_made(config: dict, machine: dict) -> dict[str, str]:
    """What `config.json` says of a run: settings, machine, versions, command."""
    train = config["train"]
    versions = machine.get("versions", {})
    made = {
        "task": results.plain_task(config["spec"]["name"]),
        "method": train["method"],
        "size": config["size"],
        "settings": results.settings_text(train),
        "num_envs": train.get("num_envs", 1),
        "date": machine.get("date", "")[:10],
        "device": machine.get("device"),
        "cpu": machine.get("cpu"),
        "cores": machine.get("cpu_cores"),
        "jax": versions.get("jax"),
        "mujoco": versions.get("mujoco"),
        "dm_control": versions.get("dm-control"),
        "planprior": versions.get("planprior"),
        "commit": (machine.get("git_commit") or "")[:12],
        "command": command(machine.get("command", "")),
    }
    return {name: "" if x is None else str(x) for name, x in made.items()}


def command(text: str) -> str:
    """A command without the place where Python and planprior were installed."""
    words = text.split()
    at = next((i for i, word in enumerate(words) if word == "train"), None)
    return text if at is None else " ".join(["planprior", *words[at:]])


def scores(row: dict[str, str]) -> dict[str, str]:
    """What one line of `eval.csv` says, rounded."""
    numbers = {
        "plan_return": ("episode_reward", "{:.1f}"),
        "plan_std": ("episode_reward_std", "{:.1f}"),
        "policy_return": ("policy_reward", "{:.1f}"),
        "policy_std": ("policy_reward_std", "{:.1f}"),
        "success": ("success", "{:.3f}"),
        "prior_weight": ("prior_weight", "{:g}"),
    }
    texts = {"seed": "seed", "env_steps": "step"}
    texts |= {name: name for name in ("episodes", "updates", "seconds")}
    swept = [f"{name}={x}" for name, x in row.items() if name not in TOLD]
    return {
        "swept": " ".join(swept),
        **{new: row.get(old, "") for new, old in texts.items()},
        **{
            new: form.format(float(row[old])) if row.get(old) else ""
            for new, (old, form) in numbers.items()
        },
    }


def key(row: dict[str, str]) -> tuple[str, ...]:
    """What identifies a run in the table."""
    return tuple(row.get(name) or "" for name in KEYS)


def furthest(rows: list[dict[str, str]]) -> dict[tuple[str, ...], int]:
    """The last environment steps of every run."""
    last: dict[tuple[str, ...], int] = {}
    for row in rows:
        last[key(row)] = max(int(row["env_steps"]), last.get(key(row), 0))
    return last


def merge(old: list[dict[str, str]], new: list[dict[str, str]]) -> list[dict[str, str]]:
    """Old rows, but those of runs that are among the new ones; sorted.

    Raises:
        ValueError: A run in the table goes further than the one to replace it, or is
            twice among the new ones.
    """
    counts = collections.Counter((key(row), row["env_steps"]) for row in new)
    for (run, _), count in counts.most_common(1):
        if count > 1:
            raise ValueError(
                f"{' '.join(filter(None, run))} is in {count} of the folders: a table "
                "has room for one such run"
            )
    before, replaced = furthest(old), furthest(new)
    for run, steps in replaced.items():
        if steps < before.get(run, 0):
            raise ValueError(
                f"{' '.join(filter(None, run))} is in the table up to {before[run]:,} "
                f"env steps, further than the run to replace it ({steps:,}): let that "
                "go on first, or collect it into another --table"
            )
    kept = [row for row in old if key(row) not in replaced]
    return sorted(kept + new, key=lambda row: (*key(row), int(row["env_steps"])))


def write(table: Path, rows: list[dict[str, str]]) -> None:
    """Write the table aside, and rename it once it is whole."""
    table.parent.mkdir(parents=True, exist_ok=True)
    aside = table.with_name(f".{table.name}.part{os.getpid()}")
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(aside, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--table", type=Path, required=True)
    options = parser.parse_args()
    folders = [path for path in options.runs if (path / "config.json").exists()]
    new = [row for folder in folders for row in rows_of(folder)]
    old = []
    if options.table.exists():
        with options.table.open(encoding="utf-8", newline="") as file:
            old = list(csv.DictReader(file))
    try:
        write(options.table, merge(old, new))
    except ValueError as error:
        parser.error(str(error))
    print(f"{options.table}: {len(new)} rows of {len(folders)} runs")


if __name__ == "__main__":
    main()
