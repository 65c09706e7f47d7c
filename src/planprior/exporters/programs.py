"""What is exported: the policy, and one plan, as functions of arrays with names."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

from planprior import planner
from planprior.actor import CanAct, Networks, seeders
from planprior.anytime import resized
from planprior.draws import Dims, KeyedDraws
from planprior.mapping import float32_products


class Port(NamedTuple):
    """An input or an output.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Its type, as NumPy calls it.
        meaning: What it holds.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str


class Program(NamedTuple):
    """A pure function with an agent's weights in it.

    Attributes:
        call: Takes the inputs by position and returns a tuple of the outputs.
        inputs: In order.
        outputs: In order.
    """

    call: Callable[..., tuple[Array, ...]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """What JAX must know of the inputs."""
        return [jax.ShapeDtypeStruct(port.shape, port.dtype) for port in self.inputs]

    def example(self) -> dict[str, np.ndarray]:
        """Inputs with which a user can check what was loaded, by name."""
        rng = np.random.default_rng(0)
        return {
            port.name: np.zeros((), port.dtype)
            if port.dtype == "uint32"
            else np.tanh(rng.standard_normal(port.shape)).astype(port.dtype)
            for port in self.inputs
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for some inputs, by name."""
        found = jax.jit(float32_products(self.call))(*inputs.values())
        names = [port.name for port in self.outputs]
        return dict(zip(names, map(np.asarray, found), strict=True))


class Effort(NamedTuple):
    """How much a plan takes.

    Attributes:
        samples: Action sequences per iteration.
        iterations: Iterations.
        horizon: Steps that it looks ahead.
    """

    samples: int
    iterations: int
    horizon: int


def policy_program(agent: CanAct) -> Program:
    """The policy's action without noise, which takes microseconds."""
    model, policy = agent.state.model, agent.state.policy

    def act(observation: Float[Array, "O"]) -> tuple[Float[Array, "A"]]:
        return (policy.family.mode(policy(model.encode(observation))),)

    return Program(act, (_observation(agent),), (_action(agent),))


def plan_program(
    agent: CanAct,
    *,
    samples: int | None = None,
    iterations: int | None = None,
    ahead: bool = False,
) -> tuple[Program, Effort]:
    """One plan: the same as a `Controller` of seed 0 makes at that step.

    Args:
        agent: The agent.
        samples: Action sequences per iteration; its own number when left out. Elites
            and the policy's share follow in proportion.
        iterations: Iterations; its own number when left out.
        ahead: Plan for the state that the action under way leads to, one more input,
            rather than for that of the observation.

    Returns:
        The program, and what a call of it does.

    Raises:
        ValueError: A number makes no sense.
    """
    networks = Networks(agent.state.model, agent.state.policy, agent.state.prior)
    model, policy, config = networks.model, networks.policy, agent.config
    sized, hypers = resized(config.planner, samples, iterations), agent.hypers.arrays()
    dims = Dims(
        config.horizon, agent.spec.action_dim, sized.num_samples,
        sized.num_policy_trajectories, len(model.value_heads.last.bias),
    )  # fmt: skip

    def plan(
        observation: Float[Array, "O"],
        mean: Float[Array, "H A"],
        step: UInt[Array, ""],
        under_way: Float[Array, "A"] | None = None,
    ) -> tuple[Float[Array, "A"], Float[Array, "H A"]]:
        z = model.encode(observation)
        if under_way is not None:
            z = model.next(z, under_way)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step))
        found = planner.plan(
            model, policy, seeders(networks, policy, config), z, mean, hypers, sized,
            draws=KeyedDraws(keys[0], keys[1], dims), explore=False,
        )  # fmt: skip
        return jnp.clip(found.mean[0], -1.0, 1.0), found.mean

    mean = _mean(agent)
    if ahead:
        mean = mean._replace(meaning="the plan: actions from the end of under_way on")
    made = Program(plan, _plan_inputs(agent, ahead), (_action(agent), mean))
    rounds = sized.num_iterations(agent.spec.action_dim)
    return made, Effort(sized.num_samples, rounds, config.horizon)


def _plan_inputs(agent: CanAct, ahead: bool) -> tuple[Port, ...]:
    warm_start = "the mean that the last call gave; zeros at the start of an episode"
    step = Port("step", (), "uint32", "another number at every call: count up")
    inputs = (_observation(agent), _mean(agent)._replace(meaning=warm_start), step)
    if not ahead:
        return inputs
    meaning = "the action that goes on while this plan is made"
    return (*inputs, _action(agent)._replace(name="under_way", meaning=meaning))


def _observation(agent: CanAct) -> Port:
    meaning = "as the environment of the training gave it, not normalised"
    return Port("observation", (agent.spec.observation_dim,), "float32", meaning)


def _action(agent: CanAct) -> Port:
    meaning = "in [-1, 1]; for a range of low to high: low + (a + 1) / 2 * (high - low)"
    return Port("action", (agent.spec.action_dim,), "float32", meaning)


def _mean(agent: CanAct) -> Port:
    shape = (agent.config.horizon, agent.spec.action_dim)
    return Port("mean", shape, "float32", "the plan: actions from now on")
