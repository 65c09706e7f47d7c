"""Networks: shapes of the papers, and how they start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.errors import KeyReuseError

from helpers import SMALL, close, method, quick_methods, same, setup
from planprior import agent, mapping, methods, nets, normed
from planprior.config import MOST_DROPOUT, Config
from planprior.spec import EnvSpec
from planprior.world_model import init_world_model

DOG = EnvSpec("dog", 223, 38, 500)
few = settings(max_examples=25, deadline=None, derandomize=True)


def count(*trees) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(trees))


def trained(name: str, size: str) -> int:
    """Parameters that are trained; nothing is allocated."""
    config, hypers = methods.make(name, DOG, size)
    state = jax.eval_shape(
        lambda key: agent.init(DOG, config, hypers, key=key), jax.random.key(0)
    )
    assert count(state.target_heads) == count(state.model.value_heads)
    return count(state.model, state.policy, state.prior)


def test_a_key_that_is_used_twice_is_an_error_here(key):
    """As in all files but those that `conftest.py` names."""
    with pytest.raises(KeyReuseError):
        jax.jit(lambda k: jax.random.normal(k) + jax.random.uniform(k))(key)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("1", 1_339_387),
        ("5", 5_159_082),
        ("19", 18_561_194),
        ("48", 48_081_066),
        ("317", 314_983_449),
    ],
)
def test_sizes_are_those_of_tdmpc2(size, parameters):
    assert trained("tdmpc2", size) == parameters


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("layer", "activation"),
    [
        (normed.normed_mish, jax.nn.mish),
        (
            lambda *layer: normed.normed_simnorm(*layer, 4),
            lambda x: jax.nn.softmax(x.reshape(4, 4)).reshape(16),
        ),
    ],
)
def test_the_gradient_of_a_layer_is_that_of_its_formula(
    layer, activation, wide, key, monkeypatch
):
    """These layers have derivatives of their own; autodiff finds the same."""
    monkeypatch.setattr(normed, "WIDE", 16 if wide else 17)
    x, bias, scale, shift, out = jax.random.normal(key, (5, 5, 16))

    def plain(product, bias, scale, shift):
        x = product + bias
        normal = (x - x.mean()) * jax.lax.rsqrt(x.var() + normed.LAYER_NORM_EPSILON)
        return activation(normal * scale + shift)

    def gradient(function):
        whole = jax.vmap(function, (0, None, None, None))
        return jax.vjp(whole, 3 * x + 1, bias[0], scale[0], shift[0])

    (ours, pull_ours), (theirs, pull_theirs) = map(gradient, (layer, plain))
    close(ours, theirs, rtol=1e-5, atol=1e-6)
    for one, other in zip(pull_ours(out), pull_theirs(out), strict=True):
        close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_a_sum_over_parts_has_the_gradient_of_all_at_once(masked):
    """`mapping.summed` makes its gradient part by part; autodiff finds the same."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    parts, x = (normal(3, 4, 5), normal(3, 5)), normal(6, 4)
    mask = normal(3, 6, 5) if masked else None

    def loss(part, mask, x):
        weight, bias = part
        out = jnp.tanh(x @ weight + bias[None])
        out = out if mask is None else out * mask
        return jnp.sum(out * out), jnp.sum(out, axis=1)

    def by_parts(parts, x):
        value, told = mapping.summed(loss)(parts, mask, x)
        return 3 * value, told

    def at_once(parts, x):
        axes = (0, 0 if masked else None, None)
        values, told = jax.vmap(loss, axes)(parts, mask, x)
        return 3 * jnp.sum(values), told

    ours, theirs = (
        jax.value_and_grad(whole, argnums=(0, 1), has_aux=True)(parts, x)
        for whole in (by_parts, at_once)
    )
    close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", quick_methods("tdmpc2", "bmpc"))
def test_wide_layers_learn_as_narrow_ones_do(name, monkeypatch):
    """What saves memory from a width on changes an update by rounding alone."""
    s = setup(*method(name))

    def updated():
        return jax.jit(
            lambda state: agent.update_with(state, s.batch, s.noise, s.hypers, s.config)
        )(s.state)

    narrow = updated()
    monkeypatch.setattr(normed, "WIDE", 1)
    wide = updated()
    close(wide[0], narrow[0], rtol=1e-4, atol=2e-6)
    close(wide[1], narrow[1], rtol=1e-3, atol=1e-5)


def test_other_methods_sizes():
    """BMPC has two V heads, or two Q; a learned prior is one more policy network."""
    assert trained("bmpc", "5") == 3_324_283
    assert trained("bmpc_q", "5") == 5_159_082 - 3 * 598_629
    assert trained("pompc", "5") == 5_159_082 + 566_348


@pytest.mark.parametrize("size", list(methods.SIZES))
def test_only_methods_without_heads_of_their_own_take_the_sizes(size):
    for name, chosen in methods.METHODS.items():
        config, _ = methods.make(name, DOG, size)
        own = name in ("bmpc", "bmpc_q")
        assert chosen.own_heads == (name == "bmpc_q")
        expected = 2 if own else methods.SIZES[size].num_heads
        assert config.critic.num_heads == expected


@few
@given(
    st.lists(st.floats(-60, 60, width=32), min_size=24, max_size=24),
    st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]),
)
def test_groups_of_a_latent_sum_to_one(values, group):
    """By halves, as wide layers take them, they are the same up to rounding."""
    x = jnp.asarray(values, jnp.float32)
    z = normed.simnorm(x, group)
    close(z.reshape(-1, group).sum(1), np.ones(24 // group))
    assert (z >= 0).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normed, "WIDE", 24)
        close(normed.simnorm(x, group), z, rtol=1e-5, atol=1e-7)


def test_latents_lie_on_simplices():
    s = setup(*method("pompc"))
    z = s.state.model.encode(100 * s.batch.observation[0, 0])
    after = s.state.model.next(z, s.batch.action[0, 0])
    for latent in (z, after):
        close(latent.reshape(-1, 8).sum(1), np.ones(2))


WIDE = Config(network=dataclasses.replace(SMALL, mlp_dim=128, latent_dim=64))


def fresh(config: Config):
    return init_world_model(5, 2, config, key=jax.random.key(3))


@pytest.mark.parametrize("kind", ["q", "v"])
def test_heads_start_as_they_should(kind):
    """Normal of std 0.02, no bias, last layer zero, and no two alike (pitfall P1)."""
    critic = dataclasses.replace(WIDE.critic, kind=kind)
    model = fresh(dataclasses.replace(WIDE, critic=critic))
    heads = model.value_heads
    assert heads.hidden[0].linear.weight.shape == (5, 64 + 2 * (kind == "q"), 128)
    for layer in heads.hidden:
        weight = np.asarray(layer.linear.weight)
        for head in weight:
            assert head.std() == pytest.approx(0.02, rel=0.05)
            assert abs(head.mean()) < 1e-3
        assert len({float(head.sum()) for head in weight}) == 5
        assert not layer.linear.bias.any() and not layer.shift.any()
        assert (layer.scale == 1).all()
    assert not heads.last.weight.any() and not heads.last.bias.any()
    z = model.encode(jnp.ones(5))
    close(model.values(z, jnp.ones(2)), np.zeros(5))
    close(model.reward(z, jnp.ones(2)), 0.0)


def test_published_heads_start_as_they_did():
    """Uniform in ±1/√in, biases too; the last weight zero, so values are not 0."""
    critic = dataclasses.replace(WIDE.critic, init="published")
    model, correct = fresh(dataclasses.replace(WIDE, critic=critic)), fresh(WIDE)
    heads = model.value_heads
    layers = [(heads.hidden[0].linear, 66), (heads.hidden[1].linear, 128)]
    for linear, inputs in [*layers, (heads.last, 128)]:
        bound = inputs**-0.5
        assert 0.9 * bound < np.abs(linear.bias).max() <= bound
    for linear, inputs in layers:
        assert np.abs(linear.weight).max() <= inputs**-0.5
        assert np.std(linear.weight) == pytest.approx((3 * inputs) ** -0.5, rel=0.05)
        assert len({float(head.sum()) for head in linear.weight}) == 5
    assert not heads.last.weight.any()
    values = model.values(model.encode(jnp.ones(5)), jnp.ones(2))
    assert len(set(map(float, values))) == 5
    # Nothing else is drawn differently.
    for part in ("encoder", "dynamics", "reward_head"):
        same(getattr(model, part), getattr(correct, part))


def test_everything_else_starts_normal():
    config = dataclasses.replace(WIDE, terminations="learned")
    s = setup(dataclasses.replace(config, batch_size=4), method("tdmpc2")[1])
    policy, model = s.state.policy, s.state.model
    assert model.termination_head is not None
    linears = [policy.net.hidden[1].linear, model.dynamics.layers[1].linear]
    for linear in [*linears, model.termination_head.hidden[0].linear]:
        assert np.std(linear.weight) == pytest.approx(0.02, rel=0.06)
        assert not linear.bias.any()
    assert policy.net.last.weight.any()
    assert model.termination_head.last.weight.any()


def test_parts_of_an_input_are_its_concatenation():
    layer = nets.Linear.init(5, 3, key=jax.random.key(0))
    x = jnp.arange(5.0)
    close(layer(x[:2], x[2:]), layer(x))


def test_an_input_fills_its_layer():
    """Too short a one met only the first rows of W, and gave a wrong answer."""
    layer = nets.Linear.init(5, 3, key=jax.random.key(0))
    for parts in ((jnp.ones(4),), (jnp.ones(2), jnp.ones(2)), (jnp.ones(6),), ()):
        with pytest.raises(ValueError, match=r"the input has . numbers; .* takes 5"):
            layer(*parts)
    model = fresh(WIDE)
    with pytest.raises(ValueError, match=r"the input has 65 numbers; .* takes 66"):
        model.next(jnp.ones(64), jnp.ones(1))


def test_action_values_need_an_action():
    z = jnp.ones(64)
    with pytest.raises(AssertionError, match="Q heads value an action"):
        fresh(WIDE).value_logits(z, None)
    critic = dataclasses.replace(WIDE.critic, kind="v")
    values = fresh(dataclasses.replace(WIDE, critic=critic)).values(z, None)
    close(values, np.zeros(5))


@pytest.mark.parametrize("rate", [1 - 2.0**-17, 0.999999, 1.0, -0.1])
def test_a_dropout_that_keeps_nothing_is_refused(rate):
    with pytest.raises(ValueError, match=rf"dropout is {rate}; it must be in \[0, 1 −"):
        dataclasses.replace(SMALL, dropout=rate)


def test_the_greatest_dropout_has_a_mask():
    mask = nets.dropout_mask((8,), MOST_DROPOUT, key=jax.random.key(1))
    assert mask is not None and set(np.unique(mask)) <= {0.0, 65536.0}


def test_dropout_masks():
    """Zero or 1/(1 − p), of mean 1, and different for each head."""
    mask = nets.dropout_mask((5, 4000), 0.25, key=jax.random.key(1))
    assert mask is not None
    np.testing.assert_allclose(np.unique(mask), [0.0, 4 / 3], rtol=1e-6)
    assert float(mask.mean()) == pytest.approx(1, abs=0.02)
    assert len({tuple(row) for row in np.asarray(mask).tolist()}) == 5
    assert nets.dropout_mask((3,), 0.0, key=jax.random.key(2)) is None
    # It comes before the LayerNorm, which a common factor does not change.
    net = nets.MLP.init(4, [8], 2, key=jax.random.key(3))
    plain = net(jnp.arange(4.0))
    close(net(jnp.arange(4.0), dropout=jnp.full(8, 4 / 3)), plain, rtol=1e-3)
    half = net(jnp.arange(4.0), dropout=jnp.arange(8.0) % 2)
    assert not np.allclose(half, plain)
