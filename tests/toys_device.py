"""Tiny environments in JAX, for what runs on the device."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from planprior.envs.device import DeviceEnv, Reply
from planprior.spec import EnvSpec

LENGTH = 10
BEST = 0.5


class Aim(DeviceEnv):
    """Reward is 1 − |a − 0.5|; the observation tells the time and the episode's draw.

    The state begins with a whole number, and with a Python one, as simulators' do.
    """

    spec = EnvSpec("toys_device:Aim", 3, 1, LENGTH, action_repeat=2)

    def __init__(self, seed: int = 0) -> None:
        del seed

    def reset(self, *, key):
        draw = jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1)
        return {"steps": 0, "draw": draw}, self.observe(jnp.zeros(()), draw)

    def observe(self, steps, draw):
        return jnp.concatenate([steps[None] / LENGTH, draw])

    def step(self, state, action):
        steps = state["steps"] + 1.0
        reward = 1.0 - jnp.abs(action[0] - BEST)
        state = state | {"steps": steps}
        seen = self.observe(jnp.asarray(steps, jnp.float32), state["draw"])
        return state, Reply(seen, reward, self.ends(state), self.ends(state))

    def ends(self, state):
        return jnp.zeros((), bool)


class Uneven(Aim):
    """Episodes of 2 to LENGTH − 1 steps that terminate, by their draw; or of LENGTH."""

    spec = EnvSpec(
        "toys_device:Uneven", 3, 1, LENGTH, 2, can_terminate=True, has_success=True
    )

    def ends(self, state):
        draw = state["draw"][0]
        last = jnp.floor(2 + 50 * jnp.abs(draw) * (LENGTH - 3))
        return (state["steps"] >= last) & (draw > 0)


class Whole(Uneven):
    """Begins with whole numbers in what is seen."""

    def reset(self, *, key):
        state, seen = super().reset(key=key)
        return state, jnp.zeros(seen.shape, jnp.int32)


class Half(Uneven):
    """Sees numbers of half the length."""

    def step(self, state, action):
        state, reply = super().step(state, action)
        return state, reply._replace(observation=reply.observation.astype(jnp.bfloat16))


class Multiplied(Aim):
    """What is seen goes through a product of matrices."""

    def observe(self, steps, draw):
        return jnp.eye(3) @ super().observe(steps, draw)


class Numbered(Uneven):
    """Says with a number whether it is over, as Brax does."""

    def ends(self, state):
        return jnp.asarray(super().ends(state), jnp.float32)


class Short(Aim):
    """Its observation has another length than its spec says."""

    def observe(self, steps, draw):
        return super().observe(steps, draw)[:1]


class ShortLater(Aim):
    """So has what it shows after a step."""

    def step(self, state, action):
        state, reply = super().step(state, action)
        return state, reply._replace(observation=reply.observation[:1])


class Rewarding(Aim):
    def step(self, state, action):
        state, reply = super().step(state, action)
        return state, reply._replace(reward=reply.reward[None])


class Branching(Aim):
    """Lets Python decide what only the device knows."""

    def step(self, state, action):
        if action[0] > 0:
            state = state | {"draw": -state["draw"]}
        return super().step(state, action)


class Unspecified(DeviceEnv):
    def reset(self, *, key):
        raise NotImplementedError

    def step(self, state, action):
        raise NotImplementedError


class Broken(Aim):
    """Its reward is NaN from the sixth step on."""

    spec = EnvSpec("toys_device:Broken", 3, 1, LENGTH, action_repeat=2)

    def step(self, state, action):
        state, reply = super().step(state, action)
        reward = jnp.where(state["steps"] > 5, jnp.nan, reply.reward)
        return state, reply._replace(reward=reward)


class Brittle(Broken):
    """Its reward is NaN from the sixth step on, where the draw is above a half."""

    def step(self, state, action):
        _, sound = Aim.step(self, state, action)
        state, broken = super().step(state, action)
        reward = jnp.where(state["draw"][0] > 0.5, broken.reward, sound.reward)
        return state, sound._replace(reward=reward)


class FuseState(eqx.Module):
    """As Brax has it."""

    obs: Any
    reward: Any
    done: Any


class Fuse:
    """Brax's interface: step t gives t; done after 3 steps of action 1."""

    action_size = 1

    def reset(self, rng):
        del rng
        return FuseState({"time": jnp.zeros(1), "unit": jnp.ones(2)}, 0, 0.0)

    def step(self, state, action):
        time = state.obs["time"] + 1
        done = (time[0] * action[0] >= 3).astype(jnp.float32)
        return FuseState({**state.obs, "time": time}, time[0], done)


class Same:
    """Makes one and the same object, so that tests share what is compiled for it."""

    on_device = True

    def __init__(self, env):
        self.env = env

    def __call__(self):
        return self.env


uneven = Same(Uneven())
