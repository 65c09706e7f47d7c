"""What is not finite never reaches what was learned before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import method, same, setup
from planprior import agent


@pytest.fixture(scope="module")
def learn():
    """An agent, and one compiled update of it that serves every case."""
    s = setup(*method("pompc"))

    @jax.jit
    def update(batch, hypers, going):
        return agent.update_with(s.state, batch, s.noise, hypers, s.config, going=going)

    return s, update


def changed(before, after):
    """Names of the parts that are not what they were."""

    def differ(name):
        old, new = (jax.tree.leaves(getattr(x, name)) for x in (before, after))
        return any((a != b).any() for a, b in zip(old, new, strict=True))

    return {field.name for field in dataclasses.fields(before) if differ(field.name)}


ALL = {
    *("model", "target_heads", "policy", "prior", "scales"),
    *("model_adam", "policy_adam", "prior_adam"),
}


def test_everything_learns_unless_told_not_to(learn):
    s, update = learn
    after, told = update(s.batch, s.hypers, True)
    assert changed(s.state, after) == ALL
    stopped, same_told = update(s.batch, s.hypers, False)
    same(stopped, s.state)
    np.testing.assert_array_equal(told["model_loss"], same_told["model_loss"])


def test_a_loss_that_is_not_finite_changes_nothing(learn):
    s, update = learn
    bad = dataclasses.replace(s.batch, reward=s.batch.reward.at[0, 0].set(jnp.nan))
    after, told = update(bad, s.hypers, True)
    same(after, s.state)
    assert np.isnan(told["reward_loss"]) and told["nan_metrics"] > 0


def test_what_was_learned_before_it_stays(learn):
    """The model's step and the prior's come before the policy's."""
    s, update = learn
    bad = dataclasses.replace(s.hypers, entropy_coef=jnp.float32(jnp.inf))
    after, told = update(s.batch, bad, True)
    assert not np.isfinite(told["policy_loss"])
    stays = {"policy", "policy_adam", "target_heads"}
    assert changed(s.state, after) == ALL - stays
    assert after.scales._replace(prior=s.state.scales.prior) == s.state.scales
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
