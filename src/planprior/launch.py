"""From a `TrainConfig` to a running training: devices, folder, environments, resume."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from planprior import experiment as experiments
from planprior import runtime
from planprior.checkpoint import Checkpoints, write_json_atomic
from planprior.envs.pool import Pool
from planprior.envs.process import choose_workers
from planprior.envs.registry import make_pool, proposed_settings, resolve
from planprior.experiment import Experiment, TrainConfig
from planprior.log import RunFolder
from planprior.mapping import on_accelerator
from planprior.progress import Progress, Screen
from planprior.saving import Saving, Start
from planprior.sinks import Sink, TensorBoard, WeightsAndBiases
from planprior.sweep import Member
from planprior.tables import writing

Say = Callable[[str], object]
"""Shows one sentence."""

MOST_TOLD = 5
"""Differences between two configurations that are named one by one."""

PORTABLE = ("format", "spec", "agent", "hypers", "members")
"""Parts of `config.json` that checkpoints hold as well."""


class Result(NamedTuple):
    """What a training came to.

    Attributes:
        run_dir: The run folder.
        finished: Whether it came to its end, or was told to stop before.
        signal: The signal that told it to, if any.
    """

    run_dir: Path
    finished: bool
    signal: int | None


@runtime.explaining_memory()
def train(config: TrainConfig, *, console: Console | None = None) -> Result:
    """Train an agent or a population, or go on with what is in the run folder.

    Args:
        config: What to train.
        console: Where to show progress; standard output if None.

    Raises:
        ValueError: A setting is wrong, or the run folder has another configuration.
        RunFolderError: Another process uses the run folder.
        TrainingError: The training diverged, that of every member.
        OutOfMemoryError: Host or device have too little memory.
    """
    console = console or Screen()
    # As it is: what is in brackets is no markup, and no colons make an emoji.
    say = functools.partial(console.print, soft_wrap=True, markup=False, emoji=False)
    runtime.configure(precision=config.precision)
    with ExitStack() as stack:
        # First of all: an interrupt within a callback of JAX's would be swallowed.
        stop = stack.enter_context(runtime.GracefulStop())
        seeds = [choice.seed for choice in config.choices()]
        with stop.at_once():
            pool = stack.enter_context(_pool(config, config.num_envs, seeds))
        config.loops_on_device(pool.spec.name, pool.on_device)
        experiment = experiments.resolve(
            config,
            pool.spec,
            accelerator=on_accelerator(),
            proposed=proposed_settings(config.task),
        )
        folder = experiment.run_dir
        stack.enter_context(runtime.RunLock(folder))
        stored = _stored(folder, experiment)
        population = _population(experiment)
        need = _need(experiment, population, pool)
        _introduce(experiment, population, need, pool, say)
        _check_memory(population, need)
        saving = Saving(folder, checkpoint_meta(experiment), warn=say)
        start = saving.latest()
        source = _source(config.init_from, population) if start is None else None
        _write_config(folder, stored)
        if start is not None:
            _note_resumption(folder, stored, start)
        others = [seed + 1 for seed in seeds]
        with stop.at_once():
            evaluation_pool = stack.enter_context(
                _pool(config, config.eval_episodes, others)
            )
        with _folder(experiment, start, console, say) as (run, progress):
            _tell_start(start, say)
            tools = pool, evaluation_pool, run, saving, progress, stop
            training = _training(experiment, population, *tools)
            if start is not None:
                training.restore(start)
            elif source is not None:
                _begin_from(source, config.init_from, training, say)
            finished = training.run()
        if not finished:
            _tell_stop(experiment, training.env_steps, say)
        return Result(folder, finished, stop.signal)


def _pool(config: TrainConfig, num_envs: int, seeds: list[int]) -> Pool:
    """Environments of all members, in order of members."""
    count = num_envs * len(seeds)
    return make_pool(config.task, count, seeds, config.workers, pool=config.pool)


def _stored(folder: Path, experiment: Experiment) -> dict[str, Any]:
    """What `config.json` is to hold; what was trained by it already must be the same.

    A command that failed before its first checkpoint may be mended and repeated.
    """
    new = json.loads(json.dumps(experiments.to_json(experiment)))
    trained = Checkpoints(folder / "checkpoints").steps()
    if trained and (folder / "config.json").exists():
        old = experiments.read(folder)
        made = {"machine": old.pop("machine", {}), "resumed": old.pop("resumed", [])}
        different = experiments.differences(old, new)
        if different:
            # What was asked for comes first, then what follows from it.
            different.sort(key=lambda text: not text.startswith("train."))
            shown, more = different[:MOST_TOLD], len(different) - MOST_TOLD
            shown += [f"and {more} more"] if more > 0 else []
            raise ValueError(
                f"run folder {folder} has another configuration; repeat its own, or "
                f"choose another --run-dir ({'; '.join(shown)})"
            )
    else:
        made = {"machine": runtime.describe(), "resumed": []}
    return new | made


def _note_resumption(folder: Path, stored: dict[str, Any], start: Start) -> None:
    """Keep by what command, where and with what versions a run goes on from a step."""
    since = {"step": start.step, "evaluated_at": start.counters.evaluated_at}
    before = stored["resumed"]
    if not isinstance(before, list):
        path = folder / "config.json"
        raise ValueError(f"resumed in {path} is {before!r}; it must be a list")
    resumed = [*before, since | runtime.describe()]
    _write_config(folder, stored | {"resumed": resumed})


def _write_config(folder: Path, stored: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    with writing(path):
        write_json_atomic(path, stored)


@contextmanager
def _folder(
    experiment: Experiment, start: Start | None, console: Console, say: Say
) -> Iterator[tuple[RunFolder, Progress]]:
    """Open tables and display."""
    step = start.step if start else 0
    resumed_at = start.step if start else None
    sinks = _sinks(experiment, resumed_at)
    with (
        RunFolder(
            experiment.run_dir,
            resumed_at=resumed_at,
            evaluated_at=start.counters.evaluated_at if start else None,
            frozen=start.counters.frozen.values() if start else (),
            sinks=sinks,
            warn=say,
        ) as run,
        Progress(
            experiment.last_step,
            start=step,
            learns_from=experiment.random_steps,
            console=console,
        ) as progress,
    ):
        yield run, progress


def _sinks(experiment: Experiment, resumed_at: int | None) -> list[Sink]:
    sinks: list[Sink] = []
    folder, train = experiment.run_dir, experiment.train
    columns = list(experiment.members[0].columns())
    if train.tensorboard:
        path = folder / "tensorboard"
        sinks.append(TensorBoard(path, resumed_at=resumed_at, members=columns))
    if train.wandb:
        sinks.append(
            WeightsAndBiases(
                folder,
                project=train.wandb,
                config=experiments.to_json(experiment),
                began=experiments.read(folder)["machine"]["date"],
                members=columns,
            )
        )
    return sinks


def _population(experiment: Experiment) -> Any:
    """The population that is trained."""
    from planprior.population import Population

    return Population(
        experiment.spec,
        experiment.config,
        [member.seed for member in experiment.members],
        [member.hypers for member in experiment.members],
        num_envs=experiment.train.num_envs,
        capacity=experiment.capacity,
    )


def _training(
    experiment, population, pool, evaluation_pool, run, saving, progress, stop
):
    """Build the training; only from here on is memory taken."""
    from planprior.device_training import DeviceTraining
    from planprior.training import Tools, Training

    tools = Tools(pool, evaluation_pool, run, saving, progress, lambda: stop.requested)
    on_device = _loops_on_device(experiment, pool)
    return (DeviceTraining if on_device else Training)(experiment, population, tools)


def _loops_on_device(experiment: Experiment, pool: Pool) -> bool:
    return experiment.train.loops_on_device(pool.spec.name, pool.on_device)


def checkpoint_meta(experiment: Experiment) -> dict[str, Any]:
    """What a checkpoint says of its agents, so that it can be loaded alone."""
    stored = experiments.to_json(experiment)
    train = experiment.train
    return {
        "task": resolve(train.task),
        "method": train.method,
        "size": experiment.size,
        **{name: stored[name] for name in PORTABLE},
        "versions": runtime.versions(),
    }


def _source(path: str | None, population: Any) -> Any:
    """The agent whose networks a training is to begin with, if there is one."""
    from planprior import starting
    from planprior.acting import Agent

    if path is None:
        return None
    source = Agent.load(path)
    starting.check_sizes(population.config.network, source.config.network, path)
    return source


def _begin_from(source: Any, path: str | None, training: Any, say: Say) -> None:
    """Give a fresh training the networks of another agent, and say how far they fit."""
    from planprior import starting

    agents, taken = starting.take(training.agents, source)
    training.agents = training.population.placement.put(agents)
    say(f"from {path}: {taken.sentence()}")


def _need(experiment: Experiment, population: Any, pool: Pool) -> Any:
    from planprior import memory

    return memory.need(
        population,
        experiment.train.eval_episodes,
        env_bytes=pool.bytes_on_device(),
        loops_on_device=_loops_on_device(experiment, pool),
    )


def _check_memory(population: Any, need: Any) -> None:
    from planprior import memory

    memory.check(need, memory.room(population))


def _introduce(
    experiment: Experiment, population: Any, need: Any, pool: Pool, say: Say
) -> None:
    """Say what is about to happen, and what it costs."""
    train, spec = experiment.train, experiment.spec
    machine = runtime.describe()
    parameters = population.num_parameters()
    members = experiment.members
    where = _describe_loop(train, len(members) * train.num_envs, pool)
    lines = [
        f"{spec.name}: {spec.observation_dim} observations, {spec.action_dim} actions, "
        f"{spec.episode_length} decisions of {spec.action_repeat} env steps an episode",
        f"{train.method}, size {experiment.size}: {parameters:,} parameters, "
        f"{_describe(members)}",
        f"on {machine['device']} ({machine['platform']}, {machine['cpu_cores']} CPU "
        f"cores), products in {train.precision}",
        f"replay of {experiment.capacity:,} rows; memory of {need.describe()}",
        f"environments {where}",
        f"{train.steps:,} env steps, evaluated every {experiment.eval_every:,}; "
        f"run folder {experiment.run_dir}",
    ]
    random = experiment.random_steps
    lines.append(f"random actions for the first {random:,} env steps")
    if train.steps < random:
        lines.append(
            f"nothing will be learned in {train.steps:,} env steps: give more --steps, "
            "or fewer --seed-steps"
        )
    if population.placement.available > 1:
        lines.append(population.placement.describe())
    if experiment.proposed:
        told = ", ".join(f"{k}={v}" for k, v in experiment.proposed.items())
        lines.append(f"as the papers of this suite do: {told}")
    if len(members) > 1:
        lines += [f"member {i}: {m.describe()}" for i, m in enumerate(members)]
    for line in lines:
        say(line)


def _describe_loop(train: TrainConfig, num_envs: int, pool: Pool) -> str:
    """Where environments are stepped, and why there or how."""
    if not pool.on_device:
        return pool.where or choose_workers(num_envs, train.workers)[1]
    if not train.loops_on_device(pool.spec.name, pool.on_device):
        return f"{pool.where}, step by step (--loop host)"
    return f"{pool.where}, where acting, stepping and learning are one program"


def _tell_start(start: Start | None, say: Say) -> None:
    """Say where a training goes on, if it does."""
    if start is None:
        return
    lines = [f"going on from {start.step:,} env steps"]
    frozen = start.counters.frozen.items()
    lines += [f"member {i} stays frozen: {why}" for i, why in frozen]
    for line in lines:
        say(line)


def _tell_stop(experiment: Experiment, made: int, say: Say) -> None:
    """Say where a training was stopped, and what the same command does next."""
    steps = experiment.last_step
    what = "goes on from there" if made < steps else "makes the last evaluation"
    say(
        f"stopped and saved at {made} of {steps} env steps in {experiment.run_dir}; "
        f"the same command {what}"
    )


def _describe(members: Sequence[Member]) -> str:
    if len(members) == 1:
        return members[0].describe()
    return f"each of {len(members)} members"
