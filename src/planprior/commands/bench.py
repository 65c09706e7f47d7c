"""`planprior bench`: how fast a method runs here, in parts and as a whole."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from planprior.commands import bench_control, printing
from planprior.commands.train import OPTION_NAMES
from planprior.sweep import MOST_MEMBERS
from planprior.tables import as_json


@dataclass(frozen=True)
class Bench:
    """Measure how fast a method runs on this machine.

    For each number of members: compile time, milliseconds per plan, per update and per
    reanalysis, env steps per second, what the time goes to, the share of the machine's
    measured peak at matrix products, kernels per plan and update, memory. Any setting
    of the agent is an option too, as in `planprior train`.

    Attributes:
        task: Task, for its sizes and for its simulator; without one where sizes are
            given.
        members: Numbers of members (agents in one program).
        method: Method; `planprior list methods` shows all.
        size: Model size; auto is 5 on accelerators and tiny on CPUs.
        prior_weight: w = λ / (1 + λ); the method's own if not given.
        lam: λ itself, an alternative to the prior weight.
        num_envs: Environments per member.
        updates_per_step: Gradient steps per decision of one environment.
        repeats: How often each part is timed; the loop makes as many decisions.
        precision: Of matrix products: float32; on a GPU tensorfloat32_x3 (as exact),
            tensorfloat32 or bfloat16 (coarser) are faster.
        workers: Processes that step the environments: auto, or a number (0 is none).
        pool: envpool steps the environments in C++ threads, as many as `workers` says.
        simulate: Also run the whole with the real environments, where installed.
        observation_dim: Length of the observation, instead of the task's.
        action_dim: Length of the action, instead of the task's.
        episode_length: Decisions of an episode, instead of the task's.
        control: Instead, trained agents (runs or agent folders): print the rates that
            this machine sustains at control for a grid of planner sizes, and the
            return that each keeps.
        control_sizes: Of that grid: further model sizes, of the first agent's task and
            method; untrained, so rates alone.
        control_samples: Of that grid: samples per iteration.
        control_iterations: Of that grid: iterations.
        control_episodes: Of that grid: episodes per row; 0 leaves returns out.
        json: Print one JSON object and nothing else.
    """

    task: Positional[str] = ""
    members: tuple[int, ...] = (1, 2, 4, 8)
    method: str = "pompc"
    size: str = "auto"
    prior_weight: float | None = None
    lam: Annotated[float | None, arg(name="lambda")] = None
    num_envs: int = 1
    updates_per_step: float = 1.0
    repeats: int = 20
    precision: Literal["float32", "tensorfloat32", "tensorfloat32_x3", "bfloat16"] = (
        "float32"
    )
    workers: int | str = "auto"
    pool: Literal["envpool"] | None = None
    simulate: bool = True
    observation_dim: int | None = None
    action_dim: int | None = None
    episode_length: int | None = None
    control: tuple[str, ...] = ()
    control_sizes: tuple[str, ...] = ()
    control_samples: tuple[int, ...] = (64, 128, 256, 512)
    control_iterations: tuple[int, ...] = (1, 2, 3, 6)
    control_episodes: int = 1
    json: bool = False
    settings: tyro.conf.Suppress[Mapping[str, Any]] = field(default_factory=dict)


NAMES = frozenset(
    OPTION_NAMES.get(f.name, f.name)
    for f in dataclasses.fields(Bench)
    if f.name not in ("task", "settings")
)


def run(options: Bench) -> int:
    """Measure, and print a table or JSON."""
    if options.control:
        return bench_control.run(options)
    from planprior import benchmark, experiment, runtime
    from planprior.envs.registry import proposed_settings
    from planprior.mapping import on_accelerator

    _check(options)
    # Compile times would be those of reading a file.
    runtime.configure(precision=options.precision, compilation_cache=False)
    spec = _spec(options)
    train = experiment.TrainConfig(
        task=spec.name,
        method=options.method,
        size=options.size,
        prior_weight=options.prior_weight,
        lam=options.lam,
        num_envs=options.num_envs,
        updates_per_step=options.updates_per_step,
        workers=options.workers,
        pool=options.pool,
        precision=options.precision,
        settings=options.settings,
    )
    proposed = proposed_settings(options.task) if options.task else {}
    resolved = experiment.resolve(
        train, spec, accelerator=on_accelerator(), proposed=proposed
    )
    make_pool, why = _simulator(options, train)
    console = printing.console(stderr=options.json)
    peak, results = benchmark.run(
        resolved, options.members, repeats=options.repeats, make_pool=make_pool
    )
    machine = runtime.describe()
    if options.json:
        print(as_json(_as_json(resolved, machine, peak, results, why)))
    else:
        _show(console, resolved, machine, peak, results, why or _loop(options))
    return 0


def _check(options: Bench) -> None:
    if options.control_sizes:
        raise ValueError("control_sizes is given; it needs --control with an agent")
    if not options.members or not all(0 < n <= MOST_MEMBERS for n in options.members):
        given = " ".join(map(str, options.members)) or "empty"
        raise ValueError(
            f"members is {given}; it must be numbers of at least 1, at most "
            f"{MOST_MEMBERS}"
        )
    if options.repeats < 1:
        raise ValueError(f"repeats is {options.repeats}; it must be at least 1")


def _spec(options: Bench) -> Any:
    """Sizes by the options, and where these are silent by the task."""
    from planprior.envs.registry import task_spec
    from planprior.spec import EnvSpec

    sizes = ("observation_dim", "action_dim", "episode_length")
    given = {n: getattr(options, n) for n in sizes if getattr(options, n) is not None}
    if options.task:
        return dataclasses.replace(task_spec(options.task), **given)
    missing = [f"--{n.replace('_', '-')}" for n in sizes if n not in given]
    if missing:
        raise ValueError(f"task is empty; name one, or give {' and '.join(missing)}")
    return EnvSpec("sizes", **given)


def _simulator(options: Bench, train: Any) -> tuple[Callable[[int], Any] | None, str]:
    """How to build real environments, or why there are none."""
    from planprior.envs.registry import check_pool, is_installed, make_pool, resolve

    changed = options.observation_dim or options.action_dim or not options.task
    if changed:
        return None, "sizes were given, so no simulator was run"
    if not options.simulate:
        return None, "simulate is off, so no simulator was run"
    if options.pool is not None:
        check_pool(options.task, options.pool)
    elif not is_installed(options.task):
        return None, f"the simulator of {resolve(options.task)} is not installed here"
    workers, pool = train.workers, options.pool
    return lambda n: make_pool(options.task, n, 0, workers, pool=pool), ""


def _loop(options: Bench) -> str:
    """Which loop was timed with the simulator, where a training has two of them."""
    from planprior.envs.registry import is_on_device

    if options.pool is not None or not is_on_device(options.task):
        return ""
    return (
        "env steps/s are those of train --loop host, step by step; a training as one "
        "program on the device was not timed"
    )


def _as_json(
    experiment: Any, machine: Any, peak: float, results: Sequence[Any], why: str
) -> dict[str, Any]:
    from planprior import settings

    return {
        "machine": machine,
        "spec": dataclasses.asdict(experiment.spec),
        "method": experiment.train.method,
        "size": experiment.size,
        "num_envs": experiment.train.num_envs,
        "agent": settings.config_to_json(experiment.config),
        "matmul_peak": peak,
        "no_simulator": why or None,
        "results": [_plain(result) for result in results],
    }


def _plain(value: Any) -> Any:
    """Named tuples as dictionaries, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def _show(
    console: Console,
    experiment: Any,
    machine: Any,
    peak: float,
    results: Sequence[Any],
    why: str,
) -> None:
    spec, versions = experiment.spec, machine["versions"]
    lines = [
        f"{spec.name}: {spec.observation_dim} observations, {spec.action_dim} actions; "
        f"{experiment.train.method}, size {experiment.size}, "
        f"{experiment.train.num_envs} environments per member",
        f"{machine['device']} ({machine['platform']}), {machine['cpu_cores']} cores of "
        f"{machine['cpu']}, jax {versions['jax']}, {machine['date'][:10]}",
        f"matrix products in {machine['matmul_precision']}: peak {peak / 1e9:,.0f} "
        "GFLOP/s, measured",
    ]
    for line in lines:
        console.print(line, soft_wrap=True)
    for table in (_times(results), _costs(results), _shares(results)):
        console.print(table)
    console.print(
        "ms: least / median, of all members together, an update's per gradient step"
    )
    if results[0].reanalysis:
        states, interval = results[0].reanalysis
        console.print(
            f"reanalyse: plans for {states} states of a member, every {interval} "
            "gradient steps"
        )
    if why:
        console.print(why, soft_wrap=True)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose headings break where lines are short, and whose numbers do not."""
    table = Table(
        title=title, title_justify="left", box=None, padding=(0, 1, 0, 0),
        header_style="bold",
    )  # fmt: skip
    for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
        table.add_column(column, justify="right", min_width=max(map(len, cells)))
    for row in rows:
        table.add_row(*row)
    return table


def _short(number: float) -> str:
    """At most four characters and the point: a table of 80 columns holds them."""
    return f"{number:.0f}" if number >= 100 else f"{number:.{3 if number >= 1 else 2}g}"


def _ms(timing: Any) -> str:
    return f"{_short(1e3 * timing.least)}/{_short(1e3 * timing.median)}"


def _times(results: Sequence[Any]) -> Table:
    names = [*results[0].seconds]
    columns = [f"{name} ms" for name in names]
    rows = [
        [
            str(r.members),
            *(_ms(r.seconds[name]) for name in names),
            f"{r.alone.env_steps_per_second:,.0f}",
            f"{r.simulated.env_steps_per_second:,.0f}" if r.simulated else "–",
        ]
        for r in results
    ]
    columns = ["members", *columns, "env steps/s, agent alone", "with simulator"]
    return _table("\ntimes", columns, rows)


def _costs(results: Sequence[Any]) -> Table:
    from planprior.runtime import format_bytes

    columns = [
        "members", "compile s", "GFLOP", "share of peak", "kernels",
        "temporaries, MiB", "peak of device",
    ]  # fmt: skip
    rows = []
    for r in results:
        pairs = [(r.programs[p], r.flops[p], r.peak_share[p]) for p in r.programs]
        told = [
            (
                f"{program.compile_seconds:.0f}",
                _short(flops / 1e9),
                f"{share:.0%}",
                str(sum(program.kernels.values())),
                _short(program.memory["temp"] / 2**20),
            )
            for program, flops, share in pairs
        ]
        memory = format_bytes(r.peak_bytes) if r.peak_bytes else "–"
        both = ["+".join(parts) for parts in zip(*told, strict=True)]
        rows.append([str(r.members), *both, memory])
    return _table("\nplan and update", columns, rows)


def _shares(results: Sequence[Any]) -> Table:
    parts = ("plan", "update", "env", "store", "transfer", "other")
    rows = [
        [str(r.members), name, *(f"{whole.shares.get(p, 0.0):.0%}" for p in parts)]
        for r in results
        for name, whole in (("none", r.alone), ("real", r.simulated))
        if whole
    ]
    columns = ["members", "environments", *parts]
    return _table("\nwhere the loop waits", columns, rows)
