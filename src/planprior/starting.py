"""Begin a training with the networks of another agent, as far as they fit."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from planprior.actor import CanAct
from planprior.config import NetworkConfig
from planprior.state import AgentState

PARTS = ("model", "target_heads", "policy", "prior")
READS_LATENT_FIRST = ("dynamics", "reward_head", "value_heads", "target_heads")
"""Networks whose first layer reads the latent and then the action."""


class Taken(NamedTuple):
    """What became of each tensor of the new agent.

    Attributes:
        whole: Taken as they are.
        partly: Taken as far as they read the latent: the rest reads actions, of which
            there is another number.
        fresh: Left as they were drawn, since their sizes differ or the other has none.
    """

    whole: list[str]
    partly: list[str]
    fresh: list[str]

    def sentence(self) -> str:
        """One sentence about it."""
        text = f"{len(self.whole)} tensors taken"
        if self.partly:
            text += f", {len(self.partly)} as far as they read the latent"
        if self.fresh:
            text += f", {len(self.fresh)} begin afresh ({', '.join(self.fresh)})"
        return text


def take(agents: AgentState, source: CanAct) -> tuple[AgentState, Taken]:
    """Give every agent the networks of `source`, as far as they fit.

    Optimisers and running scales begin afresh.

    Args:
        agents: Fresh ones, with a leading axis.
        source: An agent with all its parts.

    Returns:
        The agents, and a report.
    """
    report, latent = Taken([], [], []), source.config.network.latent_dim
    there = dict(_named(source.state))
    leaves = [
        _leaf(name, leaf, there.get(name), latent, report)
        if _is_network(name)
        else leaf
        for name, leaf in _named(agents)
    ]
    return jax.tree.unflatten(jax.tree.structure(agents), leaves), report


def check_sizes(here: NetworkConfig, there: NetworkConfig, path: str) -> None:
    """Check that latents and layers are of the same sizes.

    Raises:
        ValueError: They are not.
    """
    for field in dataclasses.fields(NetworkConfig):
        ours, theirs = getattr(here, field.name), getattr(there, field.name)
        if field.name != "dropout" and ours != theirs:
            raise ValueError(
                f"init_from is {path!r}, whose network.{field.name} is {theirs}; it is "
                f"{ours} here and must be the same"
            )


def _named(agents: Any) -> list[tuple[str, jax.Array]]:
    leaves, _ = tree_flatten_with_path(agents)
    return [(keystr(keys, simple=True, separator="/"), leaf) for keys, leaf in leaves]


def _is_network(name: str) -> bool:
    return name.partition("/")[0] in PARTS


def _leaf(
    name: str, new: jax.Array, old: jax.Array | None, latent: int, report: Taken
) -> jax.Array:
    shape = new.shape[1:]
    if old is not None and old.shape == shape:
        report.whole.append(name)
        return jnp.broadcast_to(old, new.shape)
    if old is not None and _shares_latent(name, old.shape, shape):
        report.partly.append(name)
        return new.at[..., :latent, :].set(old[..., :latent, :])
    report.fresh.append(name)
    return new


def _shares_latent(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    first = "/0/linear/weight" in name and any(
        net in name for net in READS_LATENT_FIRST
    )
    same = len(old) == len(new) and old[-1] == new[-1] and old[:-2] == new[:-2]
    return first and same
