"""What can be said of an environment before anything is trained in it.

Random actions are played for a while; each finding says what was seen and what to do.
Nothing here imports JAX, so that the command answers at once.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from planprior.envs.base import EnvError, StateError
from planprior.envs.pool import LocalPool, Pool, Step
from planprior.spec import EnvSpec

Level = Literal["good", "advice", "broken"]
ENVS = 2
_SIMULATED = (
    "if it is a simulator, say so: simulated=yes after the name, or state() and "
    "set_state() of a planprior.Env"
)
_TELL = "see that state() tells all that the coming steps depend on"
_AGAIN = 200  # steps that are done twice, to see that the same comes of them


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `good`, `advice` (training works, but look at it) or `broken`.
        topic: What was looked at.
        seen: What was seen.
        todo: What to do about it; empty where there is nothing to do.
    """

    level: Level
    topic: str
    seen: str
    todo: str = ""


class Play(NamedTuple):
    """What random actions met, [T, N].

    Attributes:
        steps: What the pool answered.
        first: The very first observations.
        seconds: Wall time of each step.
    """

    steps: list[Step]
    first: np.ndarray
    seconds: np.ndarray

    def field(self, name: str) -> np.ndarray:
        """One field of all steps, [T, N, ...]."""
        return np.stack([getattr(step, name) for step in self.steps])


class Agent(NamedTuple):
    """What an agent would do with the environment.

    Attributes:
        discount: γ for its episode length.
        horizon: H, decisions that the planner looks ahead.
        symlog_max: Highest bin of rewards and values, in symlog.
        num_bins: How many bins there are.
    """

    discount: float
    horizon: int
    symlog_max: float
    num_bins: int


def play(pool: Pool, steps: int, seed: int) -> Play:
    """Play random actions; the same seed plays the same ones."""
    rng = np.random.default_rng(seed)
    first = pool.reset(seed)
    answers, seconds = [], []
    for _ in range(steps):
        action = rng.uniform(-1, 1, (pool.num_envs, pool.spec.action_dim))
        begun = time.perf_counter()
        answers.append(pool.step(action))
        seconds.append(time.perf_counter() - begun)
    return Play(answers, first, np.array(seconds))


def check(
    make: Callable[[], Pool], agent: Callable[[EnvSpec], Agent], steps: int, seed: int
) -> tuple[EnvSpec | None, list[Finding]]:
    """Look at an environment from all sides.

    Args:
        make: Builds a pool of `ENVS` environments.
        agent: What an agent would do, given the sizes.
        steps: Random decisions to play in each environment.
        seed: Of actions and environments.

    Returns:
        The sizes, if it could be built, and the findings.
    """
    try:
        pool = make()
    except (EnvError, ImportError, ValueError) as error:
        return None, [Finding("broken", "building", str(error), "mend it, then repeat")]
    with pool:
        spec = pool.spec
        findings = [_sizes(pool)]
        try:
            findings += _bounds(pool)
            seen = play(pool, steps, seed)
        except EnvError as error:
            return spec, [*findings, _broken(error)]
        about = agent(spec)
        findings += [
            _episodes(seen, spec, about), _ends(seen, spec), _discount(spec, about),
            _rewards(seen), _returns(seen, about), _observations(seen),
            _resets(pool), _speed(seen, spec),
        ]  # fmt: skip
        try:
            findings.append(_resumes(make, pool, steps, seed))
        except EnvError as error:
            return spec, [*findings, _broken(error)]
    return spec, [*findings, *_repeats(make, seen, steps, seed)]


def _broken(error: Exception) -> Finding:
    return Finding("broken", "stepping", str(error), "mend it, then repeat")


# Actions ------------------------------------------------------------------------------


def _sizes(pool: Pool) -> Finding:
    spec = pool.spec
    seen = f"{spec.observation_dim} observations, {spec.action_dim} actions in [−1, 1]"
    own = _own_bounds(pool)
    if own is not None:
        low, high = own
        seen += f", mapped to bounds from {low.min():g} to {high.max():g}"
    return Finding("good", "sizes", seen)


def _own_bounds(pool: Pool) -> tuple[np.ndarray, np.ndarray] | None:
    """Bounds in the environment's own units, where it is a Gymnasium one."""
    owner: Any = pool.envs[0] if isinstance(pool, LocalPool) else pool
    actions = getattr(owner, "actions", None)
    return None if actions is None else (actions.low, actions.high)


def _bounds(pool: Pool) -> Iterator[Finding]:
    """Go to the corners, and see whether actions matter at all."""
    corners = np.ones((5, pool.num_envs, pool.spec.action_dim))
    futures = [_future(pool, sign * corners) for sign in (-1.0, 1.0)]
    if not _alike(*futures):
        yield Finding("good", "actions", "both ends of the bounds work and differ")
        return
    # Both may mean the same, to a reward for small actions for one.
    rng = np.random.default_rng(0)
    drawn = rng.uniform(-1, 1, (_AGAIN, pool.num_envs, pool.spec.action_dim))
    if _alike(*(_future(pool, path) for path in (drawn, np.zeros_like(drawn)))):
        yield Finding(
            "broken",
            "actions",
            f"after the same seed, {_AGAIN} steps lead to the same observations and "
            "rewards whatever the actions",
            "see whether step() uses its action",
        )
        return
    yield Finding(
        "good", "actions", "both ends of the bounds work, and come to the same"
    )


def _future(pool: Pool, actions: Iterable[np.ndarray]) -> list[Step]:
    pool.reset(0)
    return [pool.step(action) for action in actions]


def _alike(one: list[Step], other: list[Step]) -> bool:
    """Whether two paths show and pay the same."""
    return all(
        np.array_equal(a.observation, b.observation)
        and np.array_equal(a.reward, b.reward)
        for a, b in zip(one, other, strict=True)
    )


# Episodes -----------------------------------------------------------------------------


def _lengths(seen: Play) -> np.ndarray:
    return seen.field("episode_length")[seen.field("ended")]


def _episodes(seen: Play, spec: EnvSpec, about: Agent) -> Finding:
    lengths = _lengths(seen)
    limit = f"at most {spec.episode_length} decisions"
    if spec.action_repeat > 1:
        limit += f" of {spec.action_repeat} env steps"
    if not len(lengths):
        return Finding("good", "episodes", f"{limit}; none ended while looking")
    shown = f"{len(lengths)} ended after {lengths.min()} to {lengths.max()} decisions"
    short = np.mean(lengths < about.horizon)
    if short > 0.1:
        return Finding(
            "advice",
            "episodes",
            f"{limit}; {shown}, {short:.0%} of them in fewer than the planner's "
            f"horizon of {about.horizon}",
            "let episodes last longer, or lower --horizon",
        )
    return Finding("good", "episodes", f"{limit}; {shown}")


def _ends(seen: Play, spec: EnvSpec) -> Finding:
    terminated = seen.field("terminated")
    count, cut = int(terminated.sum()), int(seen.field("truncated").sum())
    shown = f"{count} terminated, {cut} were cut off by the time limit"
    lengths = seen.field("episode_length")[terminated]
    if count > 1 and not cut and (lengths == spec.episode_length).all():
        return Finding(
            "advice",
            "ends",
            f"all {count} episodes terminated exactly at the time limit",
            "return truncated=True, terminated=False there: a time limit is no state "
            "of the world, and the values after it must be learned",
        )
    if spec.can_terminate:
        return Finding(
            "good",
            "ends",
            f"{shown}; a continue head learns when episodes terminate",
            ""
            if count
            else "if it never terminates, say so: terminates=no after the "
            "name, or can_terminate=False in the EnvSpec",
        )
    return Finding("good", "ends", f"{shown}; it never terminates")


def _discount(spec: EnvSpec, about: Agent) -> Finding:
    length, ahead = spec.episode_length, round(1 / (1 - about.discount))
    shown = (
        f"{about.discount:g} for episodes of {length} decisions: it looks about "
        f"{ahead} decisions ahead"
    )
    if length > 10 * ahead:
        return Finding(
            "advice", "discount", shown,
            "what is paid later than that hardly counts: repeat actions "
            "(action_repeat), or raise --discount",
        )  # fmt: skip
    if length < ahead / 2:
        return Finding(
            "advice", "discount", shown,
            "episodes are shorter than that: consider acting more often",
        )  # fmt: skip
    return Finding("good", "discount", shown)


# Numbers ------------------------------------------------------------------------------


def _rewards(seen: Play) -> Finding:
    rewards = seen.field("reward")
    low, high = float(rewards.min()), float(rewards.max())
    shown = f"from {low:.4g} to {high:.4g}, mean {rewards.mean():.4g}"
    if low == high:
        return Finding(
            "advice", "rewards", f"always {low:.4g}",
            "random actions meet no other reward: shape it, or expect to need long "
            "exploration",
        )  # fmt: skip
    if max(-low, high) < 0.01:
        return Finding(
            "advice", "rewards", shown,
            "they are tiny against the prediction errors near 0: multiply them so that "
            "a step pays about 1 at best",
        )  # fmt: skip
    return Finding("good", "rewards", shown)


def _returns(seen: Play, about: Agent) -> Finding:
    most = float(np.abs(seen.field("reward")).max()) / (1 - about.discount)
    top = float(np.expm1(about.symlog_max))
    width = 2 * about.symlog_max / (about.num_bins - 1)
    shown = (
        f"at the greatest reward seen, for ever, a value is {most:.4g}; bins reach "
        f"{top:.4g} and are {width:.0%} of a value wide"
    )
    if most > top:
        return Finding(
            "broken", "values", shown,
            f"divide rewards by {most / top * 10:.0f}, or raise --symlog-max and lower "
            "--symlog-min",
        )  # fmt: skip
    if most > top / 10:
        return Finding(
            "advice", "values", shown, "a trained agent may exceed them: scale down"
        )
    return Finding("good", "values", shown)


def _observations(seen: Play) -> Finding:
    rows = seen.field("observation").reshape(-1, seen.first.shape[1])
    size, spread = np.abs(rows).max(axis=0), rows.std(axis=0)
    largest, still = int(size.argmax()), int((spread == 0).sum())
    shown = f"entries reach {size[largest]:.4g} (entry {largest})"
    if still:
        shown += f"; {still} of {len(spread)} never changed"
    if size[largest] > 100:
        return Finding(
            "advice", "observations", shown,
            "nothing normalises them: scale such entries to about [−10, 10]",
        )  # fmt: skip
    if size[largest] < 0.01:
        return Finding(
            "advice", "observations", shown, "scale them up to about [−1, 1]"
        )
    if still == len(spread):
        return Finding(
            "broken", "observations", shown, "see whether step() returns the new state"
        )
    return Finding("good", "observations", shown)


# Running ------------------------------------------------------------------------------


def _resets(pool: Pool) -> Finding:
    mode = getattr(pool, "mode", None)
    if mode is None:
        return Finding("good", "resets", "planprior begins each episode by reset()")
    return Finding("good", "resets", f"a vector environment of autoreset mode {mode!r}")


def _speed(seen: Play, spec: EnvSpec) -> Finding:
    per_env = float(np.median(seen.seconds)) / seen.first.shape[0]
    shown = (
        f"{1e3 * per_env:.3g} ms a decision, {spec.action_repeat / per_env:,.0f} env "
        "steps per second on one core"
    )
    if per_env > 0.02:
        return Finding(
            "advice", "speed", shown,
            "the environment will set the pace: use --num-envs with workers on a "
            "machine of more cores, or make it faster",
        )  # fmt: skip
    return Finding("good", "speed", shown)


def _resumes(make: Callable[[], Pool], pool: Pool, steps: int, seed: int) -> Finding:
    """Go on from the pool's state in a new one, as a training that is resumed does."""
    state = pool.state()
    if state is None:
        return Finding(
            "good", "resume",
            "it does not tell its state: a training that goes on begins new episodes",
            _SIMULATED if hasattr(pool, "envs") else "",
        )  # fmt: skip
    actions = np.random.default_rng(seed).uniform(
        -1, 1, (min(steps, _AGAIN), pool.num_envs, pool.spec.action_dim)
    )
    expected = [pool.step(action) for action in actions]
    with make() as other:
        other.reset(seed + 1)
        try:
            other.set_state(state)
            found = [other.step(action) for action in actions]
        except StateError as error:
            return Finding(
                "advice", "resume", f"a training that goes on begins anew: {error}",
                "draw everything random from self.np_random, and let no episode depend "
                "on the one before",
            )  # fmt: skip
        except EnvError as error:
            return Finding(
                "advice", "resume", f"going on from its state it broke: {error}", _TELL
            )
    if all(map(_equal, found, expected)):
        return Finding("good", "resume", "a training goes on within its episodes")
    shown = "from the same state and actions it goes on otherwise"
    return Finding("advice", "resume", shown, _TELL)


def _equal(one: Iterable[np.ndarray], other: Iterable[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _repeats(
    make: Callable[[], Pool], seen: Play, steps: int, seed: int
) -> Iterator[Finding]:
    """Play the same again, in a new pool of the same seed."""
    steps = min(steps, _AGAIN)
    with make() as pool:
        try:
            again = play(pool, steps, seed)
            different = play(pool, 1, seed + 1)
        except EnvError as error:
            yield _broken(error)
            return
    for t, (one, other) in enumerate(zip(seen.steps, again.steps, strict=False)):
        if not _equal((*one, seen.first), (*other, again.first)):
            yield Finding(
                "advice", "seeds", f"the same seed and actions differ from step {t} on",
                "draw everything random from what reset(seed) seeds, or results cannot "
                "be repeated",
            )  # fmt: skip
            return
    shown = f"{steps} steps of the same seed and actions are the same"
    if np.array_equal(different.first, seen.first):
        shown += "; every seed begins in the same state"
    yield Finding("good", "seeds", shown)
