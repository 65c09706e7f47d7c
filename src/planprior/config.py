"""Static settings: everything that decides shapes and code.

One program is compiled per `Config`; numbers that may be swept within a program are in
`hypers.py`. Every setting is validated when it is built: a wrong value is one sentence
that names the field, the value and what is allowed.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from planprior.checked import Checked, require

MOST_LAYERS, MOST_HEADS, MOST_STEPS = 100, 1000, 1000
"""Limits of what is counted out when an agent is loaded: a number in a file must not
take more time and memory than the file itself."""

MOST_DROPOUT = 1 - 2.0**-16
"""Masks round the rate to a multiple of 2⁻¹⁶; a greater one would keep nothing."""

MOST_SYMLOG = 80.0
"""Of the bins' ends: exp of it must be a float32."""

MOST_LOG_STD = 40.0
"""Of a log σ's ends: exp of its double, a variance, must be a float32."""


@dataclass(frozen=True)
class NetworkConfig(Checked):
    """Sizes of the networks (TD-MPC2's `enc_dim`, `num_enc_layers`, …).

    Attributes:
        encoder_dim: Width of the encoder's hidden layers.
        encoder_layers: Its layers, the latent one included; 1 still has one hidden
            layer, as in the published code.
        mlp_dim: Width of every other network's two hidden layers.
        latent_dim: Length of the latent, a multiple of `simnorm_dim`.
        simnorm_dim: Length of each simplex of the latent.
        num_bins: Bins of the reward and value distributions.
        symlog_min: Lowest bin, in symlog of reward units.
        symlog_max: Highest bin.
        dropout: Dropout rate of the value heads' first layer while learning.
    """

    encoder_dim: int = 256
    encoder_layers: int = 2
    mlp_dim: int = 512
    latent_dim: int = 512
    simnorm_dim: int = 8
    num_bins: int = 101
    symlog_min: float = -10.0
    symlog_max: float = 10.0
    dropout: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "encoder_dim", "encoder_layers", "mlp_dim", "simnorm_dim")
        self.at_most(MOST_LAYERS, "encoder_layers")
        self.at_least(2, "num_bins")
        owner, groups = type(self).__name__, self.simnorm_dim
        whole_groups = self.latent_dim > 0 and self.latent_dim % groups == 0
        allowed = f"a positive multiple of simnorm_dim = {groups}"
        require(whole_groups, owner, "latent_dim", self.latent_dim, allowed)
        self.in_order("symlog_min", "symlog_max")
        self.within(MOST_SYMLOG, "symlog_min", "symlog_max")
        fits = 0 <= self.dropout <= MOST_DROPOUT
        require(fits, owner, "dropout", self.dropout, "in [0, 1 − 2⁻¹⁶]")


@dataclass(frozen=True)
class CriticConfig(Checked):
    """The value heads and their targets.

    Attributes:
        kind: `q`: heads of state and action, learned from replayed steps; `v`: heads of
            the state, learned from one model step under the policy (BMPC).
        num_heads: Number of heads.
        target: How the two drawn target heads make the target.
        actor: How the two drawn heads make the policy's return term.
        init: `correct`, or `published`: the initialisation with which the published
            results were made (pitfall P1).
        kl_in_target: Whether values count the KL to the prior, in closed form or by one
            sample of the log-ratio (PO-MPC, eqs. 2 and 3; no public code does). At the
            λ of the policy's penalty, which must then be that KL.
    """

    kind: Literal["q", "v"] = "q"
    num_heads: int = 5
    target: Literal["min", "mean"] = "min"
    actor: Literal["min", "mean"] = "mean"
    init: Literal["correct", "published"] = "correct"
    kl_in_target: Literal["none", "closed_form", "sampled"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "num_heads")
        self.at_most(MOST_HEADS, "num_heads")


@dataclass(frozen=True)
class PolicyConfig(Checked):
    """The sampling policy π.

    Attributes:
        family: `squashed`: tanh of a Gaussian (TD-MPC2); `clamped`: a Gaussian around
            tanh of the mean, clipped to the box (BMPC).
        log_std_min: Least log σ.
        log_std_max: Greatest log σ.
        entropy: Version of the entropy bonus, see `policies.py`.
        imitation_only: Leave the return term out: w = 1 and no value of the policy's
            actions is computed at all (BMPC).
        learn_in_pretraining: Whether the burst of updates before the first planned
            action trains the policy too (TD-MPC2 does, BMPC does not).
    """

    family: Literal["squashed", "clamped"] = "squashed"
    log_std_min: float = -10.0
    log_std_max: float = 2.0
    entropy: Literal["scaled", "closed_form", "legacy", "exact"] = "scaled"
    imitation_only: bool = False
    learn_in_pretraining: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.in_order("log_std_min", "log_std_max")
        self.within(MOST_LOG_STD, "log_std_min", "log_std_max")


@dataclass(frozen=True)
class PriorConfig(Checked):
    """The prior, and how the policy is held to it.

    Attributes:
        kind: Name of a prior in `priors.PRIORS`: `none`, `plans`, `learned`, …
        divergence: Name of a penalty in `priors.DIVERGENCES`: `reverse` is KL(π‖prior),
            `forward` KL(prior‖π), both in closed form; …
        fit: What a learned prior minimises towards the stored plans: `forward`
            KL(plan‖prior) or `reverse` KL(prior‖plan).
        reduction: Mean or sum over action dimensions.
        scale: Divide the penalty by its own running scale, by the value's (once that
            exceeds `Hypers.gate`; no penalty before), or by nothing.
        mixing: `convex`: (1 − w)·return − w·penalty; `additive`: return − λ·penalty.
        adaptive: Let λ adjust itself so that the mean penalty meets
            `Hypers.divergence_target`; `Hypers.prior_weight` is then where it starts.
        random_rows: Rows of random actions, which have no plan: leave them out
            (`mask`), take N(0, 1) (BMPC), or N(action, e²) (TD-M(PC)²).
        log_std_min: Least log σ of a learned prior; e⁻³ is the planner's own floor.
        log_std_max: Its greatest log σ.
    """

    kind: str = "none"
    divergence: str = "reverse"
    fit: Literal["forward", "reverse"] = "forward"
    reduction: Literal["mean", "sum"] = "mean"
    scale: Literal["own", "value", "none"] = "own"
    mixing: Literal["convex", "additive"] = "convex"
    adaptive: bool = False
    random_rows: Literal["mask", "standard_normal", "executed"] = "mask"
    log_std_min: float = -3.0
    log_std_max: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.in_order("log_std_min", "log_std_max")
        self.within(MOST_LOG_STD, "log_std_min", "log_std_max")


@dataclass(frozen=True)
class PlannerConfig(Checked):
    """MPPI (TD-MPC2's `num_samples`, `num_elites`, `num_pi_trajs`, …).

    Attributes:
        num_samples: Action sequences per iteration, the policy's included.
        num_elites: How many of the best make the next distribution.
        num_policy_trajectories: How many sequences come from the seeding policy.
        iterations: Iterations; two more when the action has 20 or more dimensions,
            unless `extra_iterations` is off.
        extra_iterations: See `iterations`.
        seeds: Who proposes those: the policy, the learned prior, or half each.
        centre: What the replay stores as the plan's centre.
        evaluation: Which sequence an evaluation acts on; `sampled_elite` is published.
        termination: With a continue head: end a sequence where the end is likelier than
            not (`threshold`, published), or weigh by its probability (`soft`).
    """

    num_samples: int = 512
    num_elites: int = 64
    num_policy_trajectories: int = 24
    iterations: int = 6
    extra_iterations: bool = True
    seeds: Literal["policy", "prior", "both"] = "policy"
    centre: Literal["sampled_elite", "best_elite", "mean"] = "sampled_elite"
    evaluation: Literal["sampled_elite", "best_elite", "mean"] = "sampled_elite"
    termination: Literal["threshold", "soft"] = "threshold"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "num_samples", "num_elites", "iterations")
        self.at_least(0, "num_policy_trajectories")
        owner, samples = type(self).__name__, self.num_samples
        for name in ("num_elites", "num_policy_trajectories"):
            value = getattr(self, name)
            allowed = f"at most num_samples = {samples}"
            require(value <= samples, owner, name, value, allowed)

    def num_iterations(self, action_dim: int) -> int:
        """Iterations for so many action dimensions (tdmpc2.py: two more from 20 on)."""
        return self.iterations + 2 * (self.extra_iterations and action_dim >= 20)


@dataclass(frozen=True)
class ReanalysisConfig(Checked):
    """Lazy reanalysis: planning again, with today's agent, at some replayed states.

    Attributes:
        interval: Updates between two reanalyses; 0 is never.
        num_slices: Slices of the batch whose H states are planned again.
        num_samples: The planner's samples for it; 0 takes the planner's own number.
        iterations: Its iterations; 0 takes the planner's own number. Either way two
            more when the action has 20 or more dimensions, unless the planner's
            `extra_iterations` is off.
        log_std_min: Least log σ of the policy's seeds there (BMPC explores more).
        log_std_max: Their greatest log σ.
    """

    interval: int = 0
    num_slices: int = 20
    num_samples: int = 0
    iterations: int = 0
    log_std_min: float = -2.0
    log_std_max: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "interval", "num_samples", "iterations")
        self.at_least(1, "num_slices")
        self.in_order("log_std_min", "log_std_max")
        self.within(MOST_LOG_STD, "log_std_min", "log_std_max")


@dataclass(frozen=True)
class Config(Checked):
    """Everything that decides shapes and code. Hashable; one program per value.

    Attributes:
        network: Sizes.
        critic: Value heads and targets.
        policy: The sampling policy.
        prior: The prior and the penalty.
        planner: MPPI.
        reanalysis: Planning again at replayed states.
        horizon: H, of the planner and of the learning slices, in agent steps.
        batch_size: B, slices per update.
        terminations: `masked`: no value after an end (correct); `bootstrap`: ends are
            ignored, as the HumanoidBench papers do; `learned`, which is set where the
            environment can terminate: masked, and a continue head tells the planner
            (and the targets of V heads, which imagine their steps).
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    reanalysis: ReanalysisConfig = field(default_factory=ReanalysisConfig)
    horizon: int = 3
    batch_size: int = 256
    terminations: Literal["masked", "bootstrap", "learned"] = "masked"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "horizon", "batch_size")
        self.at_most(MOST_STEPS, "horizon")
        slices = self.reanalysis.num_slices
        fits = not self.reanalysis.interval or slices <= self.batch_size
        allowed = f"at most batch_size = {self.batch_size}"
        require(fits, "ReanalysisConfig", "num_slices", slices, allowed)

    def reanalysis_planner(self) -> PlannerConfig:
        """The planner's settings while reanalysing."""
        planner, again = self.planner, self.reanalysis
        samples = again.num_samples or planner.num_samples
        return dataclasses.replace(
            planner,
            num_samples=samples,
            num_elites=min(planner.num_elites, samples),
            num_policy_trajectories=min(planner.num_policy_trajectories, samples),
            iterations=again.iterations or planner.iterations,
        )
