"""From a run, or a published checkpoint, to an agent folder, and back to an agent."""

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from planprior import portable, runtime, state
from planprior.actor import Actor, CanAct
from planprior.importers.published import Published
from planprior.losses import Scales
from planprior.nets import MLP
from planprior.state import AgentState, moments
from planprior.types import Scalar


class Learner(NamedTuple):
    """What training goes on from, beside the networks.

    Attributes:
        target_heads: Slow copy of the value heads.
        scales: Running scales.
        log_lambda: log λ where λ adapts itself.
    """

    target_heads: MLP
    scales: Scales
    log_lambda: Scalar

    @classmethod
    def of(cls, agent: AgentState) -> "Learner":
        """That part of an agent."""
        return cls(agent.target_heads, agent.scales, agent.log_lambda)


def export(
    agent: CanAct,
    learner: Learner,
    folder: str | Path,
    run: Path | None = None,
    attached: Mapping[str, bytes] | None = None,
) -> None:
    """Write an agent folder.

    Args:
        agent: The agent.
        learner: Its other part.
        folder: Where to.
        run: The run that it comes from, whose evaluation of it is taken along.
        attached: Further files by name, such as those for other runtimes.

    Raises:
        CheckpointError: It cannot be written there.
    """
    keep = ("task", "method", "size", "seed", "prior_weight", "step", "score", "source")
    said = {name: agent.info[name] for name in keep if name in agent.info}
    scores = _scores(run, agent) if run else agent.info.get("scores")
    # A run's checkpoint calls them otherwise than an agent's folder.
    trained_with = agent.info.get("versions") or agent.info.get("trained_with")
    versions = {"trained_with": trained_with, "exported_with": runtime.versions()}
    info = said | {"scores": scores} | versions
    portable.save(folder, agent, learner, info, attached)


def _scores(run: Path, agent: CanAct) -> dict[str, float] | None:
    """The row of a run's `eval.csv` that is of this agent."""
    path = run / "eval.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if _is_of(row, agent):
                return {
                    name: float(row[name])
                    for name in row
                    if name.endswith(("reward", "reward_std")) or name == "episodes"
                }
    return None


def _is_of(row: Mapping[str, str], agent: CanAct) -> bool:
    """Whether a row has the agent's step, its seed, and all numbers it was swept in."""
    known = {name: agent.info[name] or 0 for name in ("step", "seed")}
    known |= dataclasses.asdict(agent.hypers)
    return all(
        math.isclose(float(text or "nan"), float(known[name]), rel_tol=1e-6)
        for name, text in row.items()
        if name in known
    )


def experience(info: dict[str, Any]) -> str:
    """How an agent came to be what it is: by how many env steps, or by import."""
    if not info.get("step") and info.get("source"):
        return "imported"
    return f"at {info.get('step') or 0:,} env steps"


def save_published(published: Published, folder: str | Path, info: dict[str, Any]):
    """Write the folder of an imported agent."""
    one = jnp.ones(())
    learner = Learner(published.target_heads, Scales(one, one, one), jnp.zeros(()))
    weight = {"seed": 0, "prior_weight": float(published.hypers.prior_weight)}
    actor = Actor(
        published.networks,
        published.spec,
        published.config,
        published.hypers,
        info | weight | {"step": 0, "score": None},
    )
    export(actor, learner, folder)


def load(folder: Path) -> tuple[AgentState, Actor]:
    """Load an agent folder whole, with optimisers that have not moved yet.

    Raises:
        CheckpointError: It is damaged, foreign, or of a newer format.
    """
    actor = portable.load(folder)
    like = jax.eval_shape(
        lambda: state.init(
            actor.spec, actor.config, actor.hypers.arrays(), key=jax.random.key(0)
        )
    )
    learner: Learner = portable.load_learner(folder, Learner.of(like))
    networks = actor.state
    return AgentState(
        model=networks.model,
        target_heads=learner.target_heads,
        policy=networks.policy,
        prior=networks.prior,
        scales=learner.scales,
        log_lambda=learner.log_lambda,
        model_adam=moments(networks.model),
        policy_adam=moments(networks.policy),
        prior_adam=moments(networks.prior),
        lambda_adam=moments(learner.log_lambda),
    ), actor
