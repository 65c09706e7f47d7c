"""Collect evaluations of run folders into one tidy table, with how they were made.

    python benchmarks/collect.py runs/* --table results/dmcontrol.csv

Rows of runs that are in the table already are replaced; all others stay.
"""

import argparse
import csv
import json
from pathlib import Path

COLUMNS = (
    *("task", "method", "size", "seed", "prior_weight", "env_steps"),
    *("plan_return", "plan_std", "policy_return", "policy_std", "episodes"),
    *("updates", "seconds", "settings", "date", "device", "cpu", "cores"),
    *("jax", "mujoco", "dm_control", "planprior"),
)
KEYS = COLUMNS[:5]


def rows_of(folder: Path) -> list[dict]:
    """Rows of one run folder."""
    config = json.loads((folder / "config.json").read_text())
    machine, train = config["machine"], config["train"]
    versions = machine["versions"]
    made = {
        "task": config["spec"]["name"].partition(":")[2],
        "method": train["method"],
        "size": config["size"],
        "settings": " ".join(f"{k}={v}" for k, v in train["settings"].items()),
        "date": machine["date"][:10],
        "device": machine["device"],
        "cpu": machine["cpu"],
        "cores": machine["cpu_cores"],
        "jax": versions["jax"],
        "mujoco": versions["mujoco"],
        "dm_control": versions["dm-control"],
        "planprior": versions["planprior"],
    }
    with (folder / "eval.csv").open() as file:
        return [made | scores(row) for row in csv.DictReader(file)]


def scores(row: dict) -> dict:
    """What one line of `eval.csv` says, rounded."""
    return {
        "seed": row["seed"],
        "prior_weight": f"{float(row['prior_weight']):g}",
        "env_steps": row["step"],
        "plan_return": f"{float(row['episode_reward']):.1f}",
        "plan_std": f"{float(row['episode_reward_std']):.1f}",
        "policy_return": f"{float(row['policy_reward']):.1f}",
        "policy_std": f"{float(row['policy_reward_std']):.1f}",
        "episodes": row["episodes"],
        "updates": row["updates"],
        "seconds": row["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--table", type=Path, required=True)
    options = parser.parse_args()
    new = [row for folder in options.runs for row in rows_of(folder)]
    replaced = {tuple(row[key] for key in KEYS) for row in new}
    old = []
    if options.table.exists():
        with options.table.open() as file:
            old = list(csv.DictReader(file))
    kept = [row for row in old if tuple(row[key] for key in KEYS) not in replaced]
    rows = sorted(
        kept + new, key=lambda r: (*(r[k] for k in KEYS), int(r["env_steps"]))
    )
    with options.table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{options.table}: {len(new)} rows of {len(options.runs)} runs")


if __name__ == "__main__":
    main()
