"""World models whose dynamics, rewards and values are known in closed form."""

import jax.numpy as jnp
import numpy as np

from planprior.config import Config
from planprior.hypers import Hypers
from planprior.world_model import WorldModel, init_world_model

A = np.array([[0.9, 0.2], [-0.1, 0.8]])
B = np.array([[0.3, 0.0], [0.1, 0.4]])
COST = 0.1


def riccati(discount: float) -> tuple[np.ndarray, np.ndarray]:
    """P and K of the best value −zᵀPz and action −Kz, by iterating Riccati's equation.

    Of z' = Az + Ba with reward −zᵀz − COST · aᵀa.
    """
    p, k = np.eye(2), np.zeros((2, 2))
    for _ in range(500):
        right = COST * np.eye(2) + discount * B.T @ p @ B
        k = discount * np.linalg.solve(right, B.T @ p @ A)
        p = np.eye(2) + discount * A.T @ p @ (A - B @ k)
    return p, k


P, K = riccati(0.9)


class LinearQuadratic(WorldModel):
    """The first two numbers of a latent obey a linear law; each head knows its value.

    A head's last bias, its first entry, is added to its value: heads can be told apart.
    """

    def next(self, z, a):
        moved = jnp.asarray(A, z.dtype) @ z[:2] + jnp.asarray(B, z.dtype) @ a
        return jnp.concatenate([moved, z[2:]])

    def reward(self, z, a):
        return -jnp.sum(z[:2] ** 2) - COST * jnp.sum(a**2)

    def rewards(self, zs, actions):
        return jnp.stack([self.reward(*step) for step in zip(zs, actions, strict=True)])

    def values(self, z, a, heads=None, dropout=None):
        heads = self.value_heads if heads is None else heads
        value = -z[:2] @ jnp.asarray(P, z.dtype) @ z[:2]
        return value + heads.last.bias[:, 0]


class Ending(LinearQuadratic):
    """The episode has ended where the first number is above 1; every reward is 1."""

    def reward(self, z, a):
        return jnp.ones(())

    def values(self, z, a, heads=None, dropout=None):
        return jnp.full(2, 10.0)

    def end_logit(self, z):
        return 2.0 * (z[0] - 1.0)


class Broken(LinearQuadratic):
    """NaN for half of all actions."""

    def reward(self, z, a):
        return jnp.where(a[0] > 0, jnp.nan, super().reward(z, a))


def make(kind: type[WorldModel], config: Config, *, key) -> WorldModel:
    """Such a model, with the fields that a real one has."""
    real = init_world_model(5, 2, config, key=key)
    return kind(**{name: getattr(real, name) for name in real.__dataclass_fields__})


HYPERS = Hypers(discount=0.9, temperature=30.0, min_std=0.01)
"""Values here are small, and told apart by a high temperature."""
