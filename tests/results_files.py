"""Files as trainings and other programs leave them, for tests of what shows results."""

import json
from collections.abc import Mapping
from pathlib import Path

SIZES = {"tiny": 0.0, "5": 900.0}


def write_run(
    folder, seeds=(0,), weights=(0.5,), gain=1.0, steps=(0, 100, 200), **train
):
    """A run folder as training leaves it, with one row per evaluation and member."""
    folder.mkdir(parents=True)
    resumed = train.pop("resumed", [])
    train = {"task": "dog-run", "method": "pompc", "settings": {}} | train
    config = {
        "format": 1,
        "train": train,
        "size": "tiny",
        "spec": {"name": f"dm_control:{train['task']}", "action_repeat": 2},
        "machine": {
            "date": "2026-11-26T10:00:00+00:00",
            "command": "planprior train dog-run",
            "git_commit": "0123abc",
            "device": "cpu",
            "cpu": "some CPU",
            "cpu_cores": 2,
            "versions": {"jax": "0.10", "planprior": "0.1", "mujoco": None},
        },
        "resumed": resumed,
    }
    (folder / "config.json").write_text(json.dumps(config))
    members = [(seed, weight) for seed in seeds for weight in weights]
    columns = "step,episode_reward,episode_reward_std,policy_reward,policy_reward_std"
    lines = [f"{columns},episodes,seed,prior_weight,updates,seconds"]
    lines += [
        f"{step},{gain * step + seed},1,{step / 2},1,10,{seed},{weight},{step},"
        f"{step / 10}"
        for step in steps
        for seed, weight in members
    ]
    (folder / "eval.csv").write_text("\n".join(lines) + "\n")
    log = [
        {"step": step, "event": "update", "seed": seed, "prior_weight": weight}
        | {"prior_weight_now": weight, "kl_policy_prior": 1 + seed + step}
        | {"policy_entropy": 0.5, "value": None, "effective_lambda": 2.0}
        for step in steps
        for seed, weight in members
    ]
    text = "".join(json.dumps(row) + "\n" for row in log)
    (folder / "train.jsonl").write_text(text + '{"step": 999, "event": "upd')
    return folder


def begin_run(folder):
    """A run folder as training leaves it until its first evaluation."""
    write_run(folder, seeds=(7,))
    (folder / "eval.csv").write_bytes(b"")
    return folder


def write_values(folder, text):
    """What `planprior eval --values` writes beside a run, or what became of it."""
    (folder / "values.csv").write_text(text)
    return folder


def write_table(path: Path, returns: dict[int, list[float]], **columns) -> Path:
    """A table of another program: returns of seeds 0, 1, … at each step."""
    names = ",".join(["step", "episode_reward", "seed", *columns])
    rows = [
        ",".join(map(str, [step, value, seed, *columns.values()]))
        for step, values in returns.items()
        for seed, value in enumerate(values)
    ]
    path.write_text("\n".join([names, *rows]) + "\n")
    return path


def write_sweeps(path: Path, gains: Mapping[str, float] = SIZES) -> Path:
    """A table of sweeps at one seed, one per size: of 0, 50 and 100 beyond its gain."""
    rows = [
        f"dog-run,pompc,{size},0,{weight},100,{gain + 100 * weight:g}"
        for size, gain in gains.items()
        for weight in (0, 0.5, 1)
    ]
    head = "task,method,size,seed,prior_weight,env_steps,plan_return"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path
