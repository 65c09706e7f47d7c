"""An environment of your own, as Gymnasium defines one: hold a drone at a height.

    planprior check-env own_environment:make_env
    planprior train own_environment:make_env --steps 20000

Run both in the folder of this file. Nothing of planprior is imported or changed.
"""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

DT = 0.05  # seconds


class Drone(gymnasium.Env):
    """A drone of 1 kg moves up and down; the goal is a height of 1 m.

    It falls from a random height, and the episode terminates where it hits the ground
    or leaves the room. The thrust is from 0 to 20 N: bounds may be any finite numbers.
    """

    observation_space = spaces.Dict(
        {
            "height": spaces.Box(-np.inf, np.inf, ()),
            "velocity": spaces.Box(-np.inf, np.inf, ()),
        }
    )
    action_space = spaces.Box(0.0, 20.0, (1,))
    dt = DT  # at how many actions a second `planprior control` drives it

    def reset(self, *, seed=None, options=None):
        """Start at rest; all that is random follows from `seed`."""
        super().reset(seed=seed)
        self.height, self.velocity = self.np_random.uniform(0.5, 1.5), 0.0
        return self._observe(), {}

    def step(self, action):
        """Move for `DT` seconds."""
        self.velocity += (float(action[0]) - 9.81) * DT
        self.height += self.velocity * DT
        crashed = not 0.0 < self.height < 2.0
        reward = 0.0 if crashed else 1.0 - min(1.0, abs(self.height - 1.0))
        # Terminated: the world has ended. Time limits are TimeLimit's, and truncate.
        return self._observe(), reward, crashed, False, {}

    def _observe(self):
        return {
            "height": np.float32(self.height),
            "velocity": np.float32(self.velocity),
        }


def make_env():
    """What `planprior train own_environment:make_env` calls."""
    return TimeLimit(Drone(), max_episode_steps=100)
