"""The methods and the model sizes, as data.

| method             | λ          | prior   | critic          | policy   |
| ------------------ | ---------- | ------- | --------------- | -------- |
| `tdmpc2`           | 0          | –       | 5 Q, min of 2   | squashed |
| `bmpc`             | ∞          | plans   | 2 V, by model   | clamped  |
| `bmpc_q`           | ∞          | plans   | 2 Q, mean of 2  | clamped  |
| `tdmpc_square`     | A/61       | plans   | 5 Q, min of 2   | squashed |
| `boom`             | A/50¹      | plans   | 5 Q, min of 2   | squashed |
| `pompc`            | 1          | learned | 5 Q, min of 2   | clamped  |
| `pompc_reverse`    | 1          | learned | 5 Q, min of 2   | clamped  |
| `pompc_planner`    | 1          | plans   | 5 Q, min of 2   | clamped  |
| `pompc_adaptive`   | adapts     | learned | 5 Q, min of 2   | clamped  |

¹ A/1000 for 24 to 48 action dimensions.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from planprior.checked import find
from planprior.compatibility import validate
from planprior.config import (
    Config,
    CriticConfig,
    NetworkConfig,
    PlannerConfig,
    PolicyConfig,
    PriorConfig,
    ReanalysisConfig,
)
from planprior.hypers import Hypers, discount_for, weight_from_lambda
from planprior.types import EnvSpec


@dataclass(frozen=True)
class Method:
    """A named setting of the one objective.

    Attributes:
        summary: One line for `planprior list`.
        config: Everything static, at TD-MPC2's default size. What a `Size` holds is
            put in the place of what stands here: the networks, the number of Q heads,
            the planner's `num_samples`, `num_elites`, `num_policy_trajectories` and
            `iterations`, reanalysis' `num_slices` and `num_samples`, `batch_size`.
        lam: λ for a number of action dimensions.
        source: Where its definition comes from.
        hypers: All other numbers; but the size decides the learning rate and τ, and
            the environment the discount and, by `lam`, the prior weight.
        own_heads: Whether it keeps its number of Q heads, as V critics do.
    """

    summary: str
    config: Config
    lam: Callable[[int], float]
    source: str
    hypers: Hypers = dataclasses.field(default_factory=Hypers)
    own_heads: bool = False

    def hypers_for(self, spec: EnvSpec) -> Hypers:
        """The numbers for an environment: its discount and its prior weight."""
        return dataclasses.replace(
            self.hypers,
            prior_weight=weight_from_lambda(self.lam(spec.action_dim)),
            discount=discount_for(spec.episode_length),
        )


_CLAMPED = PolicyConfig(
    family="clamped",
    log_std_min=-3.0,
    log_std_max=1.0,
    learn_in_pretraining=False,
)
_IMITATION = dataclasses.replace(_CLAMPED, imitation_only=True)
_LEGACY = PolicyConfig(entropy="legacy")
_LAZY = ReanalysisConfig(interval=10)
_LIKELIHOOD = PriorConfig(
    kind="plans",
    divergence="likelihood",
    reduction="sum",
    scale="value",
    mixing="additive",
    random_rows="executed",
)
_PLANS = PriorConfig(kind="plans", random_rows="standard_normal")
_POMPC = Config(policy=_CLAMPED, prior=PriorConfig(kind="learned"), reanalysis=_LAZY)


def _boom_lambda(action_dim: int) -> float:
    return action_dim / (1000 if 24 <= action_dim <= 48 else 50)


METHODS: dict[str, Method] = {
    "tdmpc2": Method(
        "λ = 0: no prior, squashed policy, five Q heads",
        Config(),
        lambda a: 0.0,
        "arXiv 2310.16828; nicklashansen/tdmpc2 e9f5932",
    ),
    "bmpc": Method(
        "λ = ∞: imitate the stored plans, V heads by the model, lazy reanalysis",
        Config(
            critic=CriticConfig(kind="v", num_heads=2, target="mean"),
            policy=_IMITATION,
            prior=_PLANS,
            reanalysis=_LAZY,
        ),
        lambda a: float("inf"),
        "Bootstrapped Model Predictive Control; wertyuilife2/bmpc d5dabc6",
    ),
    "bmpc_q": Method(
        "λ = ∞ with Q-learning: PO-MPC's end of imitation",
        Config(
            critic=CriticConfig(num_heads=2, target="mean"),
            policy=_IMITATION,
            prior=_PLANS,
            reanalysis=_LAZY,
        ),
        lambda a: float("inf"),
        "BMPC's Variant 3; wertyuilife2/bmpc d5dabc6 with use_v_instead_q=false",
        own_heads=True,
    ),
    "tdmpc_square": Method(
        "TD-M(PC)²: TD-MPC2 plus the likelihood of stored plans",
        Config(policy=_LEGACY, prior=_LIKELIHOOD),
        lambda a: a / 61,
        "arXiv 2502.03550; DarthUtopian/tdmpc_square_public d1c2632",
    ),
    "boom": Method(
        "BOOM's policy objective: value-weighted likelihood of stored plans",
        Config(
            critic=CriticConfig(actor="min"),
            policy=_LEGACY,
            prior=dataclasses.replace(
                _LIKELIHOOD, divergence="value_weighted_likelihood"
            ),
        ),
        _boom_lambda,
        "its objective and not its changes to the networks; molumitu/BOOM_MBRL",
    ),
    "pompc": Method(
        "PO-MPC: λ = 1 towards a learned prior, fitted with the forward KL",
        _POMPC,
        lambda a: 1.0,
        "arXiv 2510.04280; defaults of §3.6.8",
    ),
    "pompc_reverse": Method(
        "PO-MPC with the prior fitted with the reverse KL",
        dataclasses.replace(_POMPC, prior=PriorConfig(kind="learned", fit="reverse")),
        lambda a: 1.0,
        "arXiv 2510.04280",
    ),
    "pompc_planner": Method(
        "PO-MPC without a learned prior: λ = 1 straight towards the stored plans",
        dataclasses.replace(_POMPC, prior=PriorConfig(kind="plans")),
        lambda a: 1.0,
        "arXiv 2510.04280",
    ),
    "pompc_adaptive": Method(
        "PO-MPC whose λ keeps KL(policy‖prior) at a target",
        dataclasses.replace(_POMPC, prior=PriorConfig(kind="learned", adaptive=True)),
        lambda a: 1.0,
        "ours: dual descent as in Soft Actor-Critic (arXiv 1812.05905, eq. 18)",
    ),
}


@dataclass(frozen=True)
class Size:
    """A model size: networks, and how many heads a Q critic has.

    Attributes:
        network: Widths and depths.
        num_heads: Q heads (BMPC's critics, V or Q, keep their two; the published
            program has eight at 317).
        planner: The planner's own sizes; TD-MPC2's unless a CPU is meant.
        reanalysis: Sizes of reanalysis, where the method has it.
        batch_size: Slices per update.
        learning_rate: Adam's; narrow networks bear, and need, a greater one.
        tau: Rate of the target heads. Trainings on CPUs make few updates: at TD-MPC2's
            0.01 their values would still be growing when they end.
    """

    network: NetworkConfig
    num_heads: int = 5
    planner: PlannerConfig = dataclasses.field(default_factory=PlannerConfig)
    reanalysis: ReanalysisConfig = dataclasses.field(default_factory=ReanalysisConfig)
    batch_size: int = 256
    learning_rate: float = 3e-4
    tau: float = 0.01


def _size(encoder: int, mlp: int, latent: int, layers: int, heads: int = 5) -> Size:
    return Size(
        NetworkConfig(
            encoder_dim=encoder, mlp_dim=mlp, latent_dim=latent, encoder_layers=layers
        ),
        heads,
    )


def _small(width: int, samples: int, elites: int, iterations: int) -> Size:
    """A size for CPUs: narrow networks, two heads, a light planner and reanalysis."""
    # Without dropout, whose masks take a tenth of such a small update.
    network = NetworkConfig(
        encoder_dim=width, mlp_dim=width, latent_dim=width, dropout=0.0
    )
    planner = PlannerConfig(
        num_samples=samples,
        num_elites=elites,
        num_policy_trajectories=samples // 16,
        iterations=iterations,
    )
    again = ReanalysisConfig(num_slices=4, num_samples=samples // 2)
    return Size(
        network, 2, planner, again, batch_size=128, learning_rate=1e-3, tau=0.03
    )


SIZES: dict[str, Size] = {
    "tiny": _small(64, 128, 16, 3),
    "small": _small(128, 256, 32, 4),
    "1": _size(256, 384, 128, 2, 2),
    "5": _size(256, 512, 512, 2),
    "19": _size(1024, 1024, 768, 3),
    "48": _size(1792, 1792, 768, 4),
    "317": _size(4096, 4096, 1376, 5, 8),
}
"""TD-MPC2's sizes by millions of parameters, and two small ones for CPUs."""


def at_size(config: Config, size: Size, own_heads: bool = False) -> Config:
    """`config` at a size, which decides what `Method` says.

    V critics keep their number of heads, and with `own_heads` Q critics do too.
    """
    critic = config.critic
    if critic.kind == "q" and not own_heads:
        critic = dataclasses.replace(critic, num_heads=size.num_heads)
    planner = dataclasses.replace(
        config.planner,
        num_samples=size.planner.num_samples,
        num_elites=size.planner.num_elites,
        num_policy_trajectories=size.planner.num_policy_trajectories,
        iterations=size.planner.iterations,
    )
    again = dataclasses.replace(
        config.reanalysis,
        num_slices=size.reanalysis.num_slices,
        num_samples=size.reanalysis.num_samples,
    )
    return dataclasses.replace(
        config,
        network=size.network,
        critic=critic,
        planner=planner,
        reanalysis=again,
        batch_size=size.batch_size,
    )


def make(method: str, spec: EnvSpec, size: str = "5") -> tuple[Config, Hypers]:
    """Settings of a method for an environment.

    Args:
        method: A name in `METHODS`.
        spec: The environment.
        size: A name in `SIZES`.

    Raises:
        ValueError: A name is unknown.
    """
    chosen, sizes = find(METHODS, method, "method"), find(SIZES, size, "size")
    config = at_size(chosen.config, sizes, chosen.own_heads)
    if spec.can_terminate:
        # TD-MPC2's `episodic`, which its users have to know of and to set.
        config = dataclasses.replace(config, terminations="learned")
    hypers = dataclasses.replace(
        chosen.hypers_for(spec), learning_rate=sizes.learning_rate, tau=sizes.tau
    )
    return validate(config), hypers.validate(config)
