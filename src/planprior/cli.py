"""The command: train, eval, list.

Every field of `TrainConfig` is an option of `train`. Whatever else looks like one,
`--planner.num-samples 256` or `num_samples=256`, is a setting of the agent.
"""

import dataclasses
import json
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from planprior import settings
from planprior.experiment import TrainConfig

OPTION_NAMES = {"lam": "lambda"}
ALIASES = {"eval_freq": "eval_every", "model_size": "size"}
"""TD-MPC2's names for fields of `TrainConfig`."""


# --- The options of `train` -----------------------------------------------------------


def _option(field: dataclasses.Field, hint: Any, doc: str) -> tuple[str, Any, Any]:
    name = OPTION_NAMES.get(field.name, field.name).replace("_", "-")
    if field.default is dataclasses.MISSING:
        return (
            field.name,
            Positional[Annotated[hint, arg(help=doc)]],
            dataclasses.field(),
        )
    described = Annotated[hint, arg(name=name, help=doc)]
    return field.name, described, dataclasses.field(default=field.default)


def _train_options() -> type:
    """A dataclass like `TrainConfig`, but for the settings, as tyro wants it."""
    docs = settings.attribute_docs(TrainConfig)
    hints = typing.get_type_hints(TrainConfig)
    options = [
        _option(field, hints[field.name], docs[field.name])
        for field in dataclasses.fields(TrainConfig)
        if field.name != "settings"
    ]
    options = dataclasses.make_dataclass("Train", options)
    options.__doc__ = """Train an agent, or go on with the training in the run folder.

    Steps are environment steps everywhere. Any setting of the agent is an option too:
    --horizon 5, --planner.num-samples 256 or num_samples=256; `planprior list settings`
    shows all of them, and TD-MPC2's names are understood.
    """
    return options


Train = _train_options()


@dataclass(frozen=True)
class Eval:
    """Play episodes with a trained agent: mean, 95 % interval, returns; or film one.

    Attributes:
        run: Run folder, or one of its checkpoints.
        mode: Act by planning, or by the bare policy.
        episodes: Episodes to play.
        seed: Of the first states and of what is random in planning.
        checkpoint: best (by evaluation), latest, or the environment steps of one.
        member: Which agent of a population.
        video: Film an episode to this file (.mp4 or .gif) as well.
        json: Print one JSON object and nothing else.
    """

    run: Positional[Path]
    mode: Literal["plan", "policy"] = "plan"
    episodes: int = 10
    seed: int = 0
    checkpoint: str = "best"
    member: int = 0
    video: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class List:
    """Show what there is: tasks, methods, model sizes, settings.

    Attributes:
        what: Which of these.
        like: Only names that contain this.
    """

    what: Positional[Literal["all", "tasks", "methods", "sizes", "settings"]] = "all"
    like: str = ""


def split_settings(
    arguments: Sequence[str],
) -> tuple[list[str], dict[str, settings.Value]]:
    """Take the agent's settings out of the arguments of `train`.

    Returns:
        What is left, for tyro, and the settings by name.

    Raises:
        ValueError: A setting is unknown, given twice or without a value.
    """
    options = {field.name for field in dataclasses.fields(Train)} - {"task"}
    options = (options | {OPTION_NAMES.get(name, name) for name in options}) - {"lam"}
    rest: list[str] = []
    found: dict[str, settings.Value] = {}
    todo = list(arguments)
    while todo:
        word = todo.pop(0)
        dashed = word.startswith("--")
        name, equals, value = word.removeprefix("--").partition("=")
        plain = name.replace("-", "_")
        plain = ALIASES.get(plain, plain)
        if (not dashed and not equals) or plain in ("help", ""):
            rest.append(word)
        elif plain == "task" and equals:
            rest.insert(0, value)
        elif plain in options or plain.removeprefix("no_") in options:
            option = "--" + plain.replace("_", "-")
            rest += [option, value] if equals else [option]
        else:
            full = settings.find(name, others=sorted(options)).name
            if full in found:
                raise ValueError(f"setting {full!r} is given twice")
            found[full] = value if equals else _following(full, todo)
    return rest, found


def _following(name: str, todo: list[str]) -> settings.Value:
    if todo and not todo[0].startswith("--"):
        return todo.pop(0)
    if settings.table()[name].kind is bool:
        return True
    raise ValueError(f"setting {name!r} has no value")


# --- The commands ---------------------------------------------------------------------


def run_train(options: Any, changes: dict[str, settings.Value]) -> int:
    """Train; the exit status is 128 + n where signal n ended it early."""
    from planprior.launch import train

    config = TrainConfig(**vars(options), settings=changes)
    result = train(config)
    if result.finished:
        Console(highlight=False).print(
            f"done; look at it with: planprior eval {result.run_dir}", soft_wrap=True
        )
    return 128 + result.signal if result.signal else 0


def run_eval(options: Eval) -> int:
    """Evaluate, and film where asked to."""
    from planprior.acting import Agent
    from planprior.envs.registry import make_pool
    from planprior.evaluation import evaluate, summary

    if options.episodes < 1:
        raise ValueError(f"episodes is {options.episodes}; it must be at least 1")
    which: Any = options.checkpoint
    if which.isdecimal():
        which = int(which)
    elif which not in ("best", "latest"):
        raise ValueError(
            f"checkpoint is {which!r}; it must be best, latest or a number of env steps"
        )
    if options.video:
        from planprior import video

        video.check(options.video)
    agent = Agent.load(
        options.run, checkpoint=which, member=options.member, seed=options.seed
    )
    with make_pool(agent.info["task"], options.episodes, options.seed) as pool:
        scores = evaluate(
            agent.population, agent.agents, pool, options.mode, options.seed
        )
    assert scores is not None
    told = summary(scores)
    if options.video:
        told["video"] = str(_film(agent, options))
    shown = ("task", "method", "size", "seed", "prior_weight", "step")
    context = {name: agent.info[name] for name in shown}
    _tell(context | {"mode": options.mode} | told, options)
    return 0


def _tell(told: dict[str, Any], options: Eval) -> None:
    if options.json:
        print(json.dumps(told))
        return
    console = Console(highlight=False)
    console.print(
        f"{told['task']}, {told['method']} at {told['step']:,} env steps, by "
        f"{options.mode}: {told['mean']:.1f} "
        f"(95 % interval {told['low']:.1f} to {told['high']:.1f}, "
        f"{told['episodes']} episodes)",
        soft_wrap=True,
    )
    returns = "  ".join(f"{x:.1f}" for x in told["returns"])
    console.print(f"returns: {returns}", soft_wrap=True)
    if "video" in told:
        console.print(f"film: {told['video']}", soft_wrap=True)


def _film(agent: Any, options: Eval) -> Path:
    from planprior import video
    from planprior.envs.registry import make_env

    assert options.video is not None
    env = make_env(agent.info["task"], options.seed)
    try:
        frames = video.episode(env, lambda o: agent.act(o, mode=options.mode))
        return video.write(options.video, frames, fps=video.frame_rate(env))
    finally:
        env.close()


def run_list(options: List) -> int:
    """Print tables of what there is."""
    console = Console(highlight=False)
    tables: dict[str, Callable[[str], Table]] = {
        "tasks": _tasks,
        "methods": _methods,
        "sizes": _sizes,
        "settings": _settings,
    }
    wanted = [options.what] if options.what != "all" else list(tables)[:3]
    for name in wanted:
        console.print(tables[name](options.like))
    if options.what == "all":
        console.print("planprior list settings shows every setting of an agent.")
    return 0


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def _tasks(like: str) -> Table:
    from planprior.envs.registry import list_tasks

    table = _table("task")
    for task in list_tasks():
        if like in task:
            table.add_row(task)
    return table


def _methods(like: str) -> Table:
    from planprior.methods import METHODS

    table = _table("method", "what it is", "source")
    for name, method in METHODS.items():
        if like in name:
            table.add_row(name, method.summary, method.source)
    return table


def _sizes(like: str) -> Table:
    from planprior.methods import SIZES

    table = _table(
        "size", "encoder", "width", "latent", "Q heads", "samples", "iterations"
    )
    for name, size in SIZES.items():
        if like in name:
            net, planner = size.network, size.planner
            numbers = (net.encoder_dim, net.mlp_dim, net.latent_dim, size.num_heads)
            numbers += (planner.num_samples, planner.iterations)
            table.add_row(name, *map(str, numbers))
    return table


def _settings(like: str) -> Table:
    table = _table("setting", "values", "default", "meaning")
    others: dict[str, list[str]] = {}
    for alias, name in settings.TDMPC2_NAMES.items():
        if alias != name.rpartition(".")[2]:
            others.setdefault(name, []).append(alias)
    for name, setting in settings.table().items():
        if like in name:
            kind = setting.kind
            values = ", ".join(kind) if isinstance(kind, tuple) else kind.__name__
            aliases = "".join(f" (TD-MPC2: {alias})" for alias in others.get(name, ()))
            table.add_row(name, values, str(setting.default), setting.help + aliases)
    return table


# --- Start ----------------------------------------------------------------------------

COMMANDS = {"train": Train, "eval": Eval, "list": List}


def run(arguments: Sequence[str]) -> int:
    """Run a command; return its exit status."""
    changes: dict[str, settings.Value] = {}
    arguments = list(arguments)
    if arguments[:1] == ["train"]:
        rest, changes = split_settings(arguments[1:])
        arguments = ["train", *rest]
    options: Any = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="planprior",
        description="Train and run planning agents whose planner is their prior.",
        args=arguments or ["--help"],
    )
    if isinstance(options, Eval):
        return run_eval(options)
    if isinstance(options, List):
        return run_list(options)
    return run_train(options, changes)


def main() -> None:
    """Run the command of this process; every known error is one sentence."""
    from planprior.envs.base import EnvError
    from planprior.envs.process import WorkerError
    from planprior.runtime import RunFolderError

    known = (ValueError, ImportError, OSError, EnvError, WorkerError, RunFolderError)
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    except (*known, RuntimeError) as error:
        if not isinstance(error, known) and not _is_ours(error):
            raise
        print(f"planprior: {error}", file=sys.stderr)
        status = 2 if isinstance(error, ValueError) else 1
    sys.exit(status)


def _is_ours(error: RuntimeError) -> bool:
    return type(error).__module__.startswith("planprior.")
