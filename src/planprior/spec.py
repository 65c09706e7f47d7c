"""What an agent must know of its environment: sizes, lengths, nothing else.

Apart from `types.py` because environment workers import this file and must not
import JAX.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class EnvSpec:
    """Sizes and lengths of an environment whose actions fill the box [−1, 1].

    Attributes:
        name: The full task name, e.g. `dm_control:dog-run`.
        observation_dim: Length of the flat float32 observation.
        action_dim: Length of the action.
        episode_length: Agent steps (decisions) until the time limit.
        action_repeat: Environment steps per agent step; their rewards are summed.
        can_terminate: Whether episodes may end before the time limit.
        has_success: Whether the task says if its goal is met.
    """

    name: str
    observation_dim: int
    action_dim: int
    episode_length: int
    action_repeat: int = 1
    can_terminate: bool = False
    has_success: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"EnvSpec.name is {self.name!r}; it must be a text")
        for field in ("can_terminate", "has_success"):
            value = getattr(self, field)
            if not isinstance(value, bool):
                raise ValueError(
                    f"EnvSpec.{field} is {value!r}; it must be true or false"
                )
        lengths = ("observation_dim", "action_dim", "episode_length", "action_repeat")
        for field in lengths:
            value = getattr(self, field)
            if not hasattr(value, "__index__"):  # NumPy's have it, too
                raise ValueError(
                    f"EnvSpec.{field} is {value!r}; it must be a whole number"
                )
            if value < 1:
                raise ValueError(f"EnvSpec.{field} is {value}; it must be at least 1")
            # A plain number: run folders keep it as JSON.
            object.__setattr__(self, field, value.__index__())
