"""Numbers of the algorithm: traced, so that a sweep over them is one program."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from planprior.checked import require
from planprior.config import Config
from planprior.types import Number


class Hypers(eqx.Module):
    """Numbers of the algorithm: traced, and so free to differ within one program.

    Attributes:
        prior_weight: w = λ / (1 + λ), in [0, 1].
        discount: γ per agent step.
        rho: ρ, decay of the loss weights along the horizon.
        learning_rate: Adam's rate for everything learned.
        encoder_lr_scale: The encoder's rate, as a share of it.
        max_grad_norm: Global-norm clip, of the world model and of each policy apart.
        consistency_coef: Weight of the latent consistency loss.
        reward_coef: Weight of the reward loss.
        value_coef: Weight of the value loss.
        termination_coef: Weight of the termination loss.
        tau: Polyak rate of the target heads.
        scale_tau: Rate of the running scales.
        entropy_coef: α, weight of the entropy bonus.
        temperature: The planner's: elites weigh exp(temperature · value).
        min_std: Least std of the planner's distribution.
        max_std: Its greatest, and first, std.
        gate: Value scale below which a penalty scaled by `value` is off.
        kl_clip: Greatest KL that a value target counts.
        divergence_target: What `PriorConfig.adaptive` steers the mean penalty to.
        dual_learning_rate: Adam's rate for log λ there.
    """

    prior_weight: Number = 0.0
    discount: Number = 0.99
    rho: Number = 0.5
    learning_rate: Number = 3e-4
    encoder_lr_scale: Number = 0.3
    max_grad_norm: Number = 20.0
    consistency_coef: Number = 20.0
    reward_coef: Number = 0.1
    value_coef: Number = 0.1
    termination_coef: Number = 1.0
    tau: Number = 0.01
    scale_tau: Number = 0.01
    entropy_coef: Number = 1e-4
    temperature: Number = 0.5
    min_std: Number = 0.05
    max_std: Number = 2.0
    gate: Number = 2.0
    kl_clip: Number = 20.0
    divergence_target: Number = 0.2
    dual_learning_rate: Number = 1e-3

    def arrays(self) -> "Hypers":
        """The same numbers as float32 arrays, for a compiled program."""
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), self)

    def validate(self, config: Config) -> "Hypers":
        """Check plain numbers against their ranges and against `config`.

        Raises:
            ValueError: A number is out of range, or does not go with `config`.
        """
        for name, (low, high) in _RANGES.items():
            value = float(getattr(self, name))
            fits = low <= value <= high
            require(fits, "Hypers", name, value, _interval(low, high))
        low, high = float(self.min_std), float(self.max_std)
        require(low <= high, "Hypers", "max_std", high, f"at least min_std = {low}")
        self._check_weight(config)
        return self

    def _check_weight(self, config: Config) -> None:
        told, prior = float(self.prior_weight), config.prior
        # As programs see it: 0.99999999 is 1 there, and its λ infinite.
        w = float(np.float32(told))
        kl_in_target = config.critic.kl_in_target != "none"

        def check(holds: bool, allowed: str) -> None:
            require(holds, "Hypers", "prior_weight", told, allowed)

        if prior.mixing == "additive" or prior.adaptive or kl_in_target:
            check(
                w < 1, "below 1 here, where λ = w / (1 − w) must be finite in float32"
            )
        if prior.kind == "none":
            check(w == 0, "0 when prior.kind is 'none'")
        if config.policy.imitation_only:
            check(w == 1, "1 when policy.imitation_only is on")
        if prior.adaptive:
            check(w > 0, "above 0 to adapt from")


_INF = float("inf")
_FINITE = float(np.finfo(np.float32).max)


def _interval(low: float, high: float) -> str:
    return f"in [{low}, inf)" if high == _FINITE else f"in [{low}, {high}]"


# Where infinity means "never" or "without a limit" it is allowed.
_RANGES = {
    "prior_weight": (0.0, 1.0),
    "discount": (0.0, 1.0),
    "rho": (0.0, 1.0),
    "learning_rate": (0.0, 1.0),
    "encoder_lr_scale": (0.0, 1e6),
    "max_grad_norm": (0.0, _INF),
    "consistency_coef": (0.0, _FINITE),
    "reward_coef": (0.0, _FINITE),
    "value_coef": (0.0, _FINITE),
    "termination_coef": (0.0, _FINITE),
    "tau": (0.0, 1.0),
    "scale_tau": (0.0, 1.0),
    "entropy_coef": (0.0, _FINITE),
    "temperature": (0.0, 1e30),  # times a value it must be finite
    "min_std": (1e-6, _FINITE),
    "max_std": (1e-6, _INF),
    "gate": (0.0, _INF),
    "kl_clip": (0.0, _INF),
    "divergence_target": (0.0, _FINITE),
    "dual_learning_rate": (0.0, 1.0),
}


def weight_from_lambda(lam: float) -> float:
    """Return w = λ / (1 + λ): 0 for λ = 0, 1 for λ = ∞.

    Raises:
        ValueError: λ is negative or NaN.
    """
    require(lam >= 0, "TrainConfig", "lam", lam, "at least 0 (inf is allowed)")
    return 1.0 if lam == float("inf") else lam / (1 + lam)


def discount_for(episode_length: int) -> float:
    """TD-MPC2's discount for episodes of that many agent steps (tdmpc2.py, §1.6)."""
    f = episode_length / 5
    return min(max((f - 1) / f, 0.95), 0.995)
