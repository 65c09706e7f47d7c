"""`planprior eval`: play episodes with a trained agent, and film one."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from planprior.commands import printing
from planprior.tables import as_json


@dataclass(frozen=True)
class Eval:
    """Play episodes with a trained agent: mean, 95 % interval, returns; or film one.

    Attributes:
        run: Run folder, one of its checkpoints, or an agent's folder.
        mode: Act by planning, or by the bare policy.
        episodes: Episodes to play.
        seed: Of the first states and of what is random in planning.
        checkpoint: best (by evaluation), latest, or the environment steps of one.
        member: Which agent of a population: its number, or what tells it from the
            others, such as seed=3,prior_weight=0.5.
        values: Compare the planner's values with the discounted returns that come, over
            as many episodes again; written to values.csv in the folder (of a
            checkpoint's run), from which `planprior plot --kind diagnostics` draws it.
        video: Film an episode to this file (.mp4 or .gif) as well.
        json: Print one JSON object and nothing else.
    """

    run: Annotated[Positional[str], arg(metavar="PATH")]
    mode: Literal["plan", "policy"] = "plan"
    episodes: int = 10
    seed: int = 0
    checkpoint: str = "best"
    member: str = "0"
    values: bool = False
    video: Path | None = None
    json: bool = False


def run(options: Eval) -> int:
    """Evaluate, and film where asked to."""
    from planprior import runtime
    from planprior.acting import Agent, NotFiniteError
    from planprior.envs.registry import make_pool
    from planprior.evaluation import evaluate, summary
    from planprior.exporting import experience

    runtime.configure()
    _check(options)
    which = parse_checkpoint(options.checkpoint)
    agent = Agent.load(
        options.run, checkpoint=which, member=_member(options.member), seed=options.seed
    )
    if not agent.info["task"]:
        raise ValueError(
            f"{options.run}: the agent has no task; import it again with --task"
        )
    if options.values:
        from planprior import places

        places.require_place("values", _table_of_values(options))
    # A film comes first: that nothing draws here is to be known before the evaluation.
    film = {"video": str(_film(agent, options))} if options.video else {}
    with make_pool(agent.info["task"], options.episodes, options.seed) as pool:
        scores = evaluate(
            agent.population, agent.agents, pool, options.mode, options.seed
        )
    assert scores is not None
    if not scores.finite[0]:
        raise NotFiniteError(
            f"the {options.mode} of {options.run} is NaN or infinite in some state: "
            "its parameters are damaged, and its returns would mean nothing"
        )
    told = summary(scores)
    if options.values:
        told |= _values(agent, options)
    told |= film
    shown = ("task", "method", "size", "member", "seed", "prior_weight", "step")
    context = {name: agent.info[name] for name in shown}
    _tell(context | {"mode": options.mode} | told, experience(agent.info), options)
    return 0


def _check(options: Eval) -> None:
    """Refuse what can be seen to be wrong before anything is loaded."""
    from planprior.checked import require_seed
    from planprior.experiment import MOST_ENVS

    require_seed(options.seed)
    if not 1 <= options.episodes <= MOST_ENVS:
        # Each has an environment of its own, and all play at once.
        allowed = "at least 1" if options.episodes < 1 else f"at most {MOST_ENVS}"
        raise ValueError(f"episodes is {options.episodes}; it must be {allowed}")
    if options.values and options.mode != "plan":
        raise ValueError(f"mode is {options.mode!r}; values are those of plan")
    if options.video:
        from planprior import video

        video.check(options.video)


def parse_checkpoint(which: str) -> Any:
    """Read which checkpoint of a run is meant.

    Raises:
        ValueError: It is neither best nor latest nor a number.
    """
    if which.isdecimal():
        return int(which)
    if which not in ("best", "latest"):
        raise ValueError(
            f"checkpoint is {which!r}; it must be best, latest or a number of env steps"
        )
    return which


def _member(text: str) -> int | dict[str, float]:
    if text.isdecimal():
        return int(text)
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.replace("-", "_"): float(value) for name, value in pairs}
    except ValueError:
        raise ValueError(
            f"member is {text!r}; it must be a number, or what tells it from the "
            "others, such as seed=3,prior_weight=0.5"
        ) from None


def _tell(told: dict[str, Any], experience: str, options: Eval) -> None:
    if options.json:
        print(as_json(told))
        return
    console = printing.console()
    over = "1 episode"
    if "low" in told:
        ends = f"95 % interval {told['low']:.1f} to {told['high']:.1f}"
        over = f"{ends}, {told['episodes']} episodes"
    console.print(
        f"{told['task']}, {told['method']}, {experience}, by {options.mode}: "
        f"{told['mean']:.1f} ({over})",
        soft_wrap=True,
    )
    if "success" in told:
        console.print(f"success at the end of an episode: {told['success']:.0%}")
    returns = "  ".join(f"{x:.1f}" for x in told["returns"])
    console.print(f"returns: {returns}", soft_wrap=True)
    if "values" in told:
        console.print(
            f"planner's value: {told['value_predicted']:.4g} predicted, "
            f"{told['value_achieved']:.4g} came "
            f"({told['value_overestimation']:+.4g}); {told['values']}",
            soft_wrap=True,
        )
    if "video" in told:
        console.print(f"film: {told['video']}", soft_wrap=True)


def _values(agent: Any, options: Eval) -> dict[str, Any]:
    from planprior import calibration
    from planprior.envs.registry import make_pool
    from planprior.hypers import Hypers

    with make_pool(agent.info["task"], options.episodes, options.seed) as pool:
        found = calibration.calibrate(agent, pool, options.seed)
    # What tells a member from the others: its seed, its weight, and what is swept.
    numbers = [field.name for field in dataclasses.fields(Hypers)]
    names = [x for x in ("step", "seed", *numbers) if x in agent.info]
    about = {name: agent.info[name] for name in names}
    path = calibration.write(_table_of_values(options), found, about)
    return {"values": str(path)} | calibration.summary(found)


def _table_of_values(options: Eval) -> Path:
    from planprior import calibration, portable

    return calibration.folder_of(Path(options.run)) / portable.VALUES


def _film(agent: Any, options: Eval) -> Path:
    from planprior import video
    from planprior.envs.registry import make_env
    from planprior.envs.rows import close_all

    assert options.video is not None
    env = make_env(agent.info["task"], options.seed)
    try:
        frames = video.episode(env, lambda o: agent.act(o, mode=options.mode))
        return video.write(options.video, frames, fps=video.frame_rate(env))
    finally:
        close_all([env], agent.info["task"])
