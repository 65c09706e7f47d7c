"""The vocabulary: what one part hands to the next. No logic.

Legend of axes, used in every signature of the package:

| letter | axis                          | introduced in                        |
| ------ | ----------------------------- | ------------------------------------ |
| O      | observation                   |                                      |
| A      | action                        |                                      |
| L      | latent                        |                                      |
| H, T   | horizon in agent steps; T = H + 1 | `losses.py`, `planner.py`        |
| N      | action sequences of the planner | `planner.py`                       |
| K      | elites of the planner         | `planner.py`                         |
| Q      | value heads                   | `world_model.py`                     |
| B      | minibatch                     | `losses.py`                          |
| E      | environments                  | `agent.py`, `replay.py`              |

Everything is written for one agent. Code that trains several at once maps over all
of it from outside.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from planprior.spec import EnvSpec

__all__ = [
    "Batch",
    "EnvSpec",
    "Gaussian",
    "Metrics",
    "Number",
    "PRNGKey",
    "Plan",
    "Scalar",
    "Transition",
]

PRNGKey = Key[Array, ""]
Scalar = Float[Array, ""]
Number = float | Float[Array, "..."]
Metrics = dict[str, Scalar]


class Gaussian(eqx.Module):
    """Independent normal distributions, one per action dimension.

    Attributes:
        mean: Centre. In action space unless a policy family says otherwise.
        std: Standard deviation, positive.
    """

    mean: Float[Array, "*batch A"]
    std: Float[Array, "*batch A"]


class Plan(eqx.Module):
    """What the planner returns for one state (or, with leading axes, for several).

    Attributes:
        action: The action to execute, in [−1, 1].
        target: The planner's distribution of the first action, which the replay stores
            and the policy is drawn towards. Its centre is free of exploration noise.
        mean: Mean of the action sequence at the last iteration, for the warm start.
        value: Estimated return of the elite whose first action is executed, in reward
            units. Without the exploration noise; and where the mean is executed, whose
            sequence is not valued, that of an elite drawn by its weight.
        elite_std: Standard deviation of the elites' estimated returns.
        effective_elites: Effective number of elites, 1 / Σ w²; between 1 and K.
        nan_count: Action sequences whose value was NaN, over all iterations; they
            count as worth 0, as in the published code, and are reported.
    """

    action: Float[Array, "*batch A"]
    target: Gaussian
    mean: Float[Array, "*batch H A"]
    value: Float[Array, "*batch"]
    elite_std: Float[Array, "*batch"]
    effective_elites: Float[Array, "*batch"]
    nan_count: Int[Array, "*batch"]


class Transition(eqx.Module):
    """One row of the replay: an observation and what led to it.

    The first row of an episode has no action: its `action`, `reward` and `plan` are
    zero, never NaN, and never read.

    Attributes:
        observation: What is seen after the action.
        action: The action that led to `observation`, in [−1, 1].
        reward: Reward of that action, summed over its repeats.
        terminated: Whether the episode ended there by its own rule (a time limit does
            not count).
        plan: The planner's distribution from which that action came.
        has_plan: Whether there was a plan (random actions have none).
        planned_at: Number of gradient steps made when the plan was made.
        first: Whether this is the first row of an episode.
    """

    observation: Float[Array, "*batch O"]
    action: Float[Array, "*batch A"]
    reward: Float[Array, "*batch"]
    terminated: Bool[Array, "*batch"]
    plan: Gaussian
    has_plan: Bool[Array, "*batch"]
    planned_at: Int[Array, "*batch"]
    first: Bool[Array, "*batch"]


class Batch(eqx.Module):
    """B slices of H + 1 consecutive rows, time first.

    Row t of `action`, `reward`, `terminated` and `plan` belongs to the step from
    `observation[t]` to `observation[t + 1]`: the plan was made at `observation[t]`.

    Attributes:
        observation: Observations 0 to H.
        action: Actions 0 to H − 1.
        reward: Their rewards.
        terminated: Whether `observation[t + 1]` is terminal.
        plan: The stored plans.
        has_plan: Where a plan is stored.
        plan_age: Gradient steps since each plan was made; 0 where there is none.
    """

    observation: Float[Array, "T B O"]
    action: Float[Array, "H B A"]
    reward: Float[Array, "H B"]
    terminated: Bool[Array, "H B"]
    plan: Gaussian
    has_plan: Bool[Array, "H B"]
    plan_age: Float[Array, "H B"]

    @property
    def over(self) -> Bool[Array, "H B"]:
        """Where `observation[t]` is terminal: what is stored after an end, for slices.

        Nothing was done there, so there is nothing to imitate.
        """
        begun = jnp.zeros_like(self.terminated[:1])
        return jnp.concatenate([begun, self.terminated[:-1]])
