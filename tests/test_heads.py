"""Value heads in one product, as on accelerators, are those of the loop on CPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import close
from planprior.nets import MLP, apply_heads, dropout_mask, stack


@pytest.mark.parametrize("drops", [False, True])
def test_batched_heads_are_the_looped_ones(drops, monkeypatch):
    keys = jax.random.split(jax.random.key(0), 3)
    heads = stack([MLP.init(7, [16, 16], 5, key=key) for key in keys])
    rng = np.random.default_rng(1)
    z, a = (jnp.asarray(rng.normal(size=(4, n)), jnp.float32) for n in (4, 3))
    mask = dropout_mask((3, 16), 0.5, key=jax.random.key(2)) if drops else None

    def loss(heads):
        out = jax.vmap(lambda z, a: apply_heads(heads, z, a, dropout=mask))(z, a)
        return jnp.sum(out**2), out

    looped = jax.jit(jax.grad(loss, has_aux=True))(heads)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    batched = jax.jit(jax.grad(loss, has_aux=True))(heads)
    close(batched, looped)
    assert batched[1].shape == (4, 3, 5)
    # Rows differ, so that heads cannot have been mixed up.
    assert len({float(x) for x in batched[1][0, :, 0]}) == 3
