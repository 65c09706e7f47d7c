"""Which settings go together. Each rule is one sentence for whoever broke it."""

from collections.abc import Callable, Iterator, Sequence

from planprior.checked import nearest
from planprior.config import Config
from planprior.priors import DIVERGENCES, PRIORS, Prior


def validate(config: Config) -> Config:
    """Check names that are looked up in registries, and that settings go together.

    Raises:
        ValueError: A name is unknown, or two settings exclude each other.
    """
    for complaint in (*_unknown_names(config), *_contradictions(config)):
        raise ValueError(complaint)
    return config


def require_read(config: Config, swept: Sequence[str]) -> None:
    """Check that agents which differ in numbers would differ in what they do.

    Args:
        config: Settings of all of them.
        swept: Names of the numbers, of `Hypers`.

    Raises:
        ValueError: Nothing reads a number.
    """
    adapts = "PriorConfig.adaptive must be on"
    needs = {
        "gate": (config.prior.scale == "value", "PriorConfig.scale must be 'value'"),
        "kl_clip": (
            config.critic.kl_in_target != "none",
            "CriticConfig.kl_in_target must be 'closed_form' or 'sampled'",
        ),
        "termination_coef": (
            config.terminations == "learned",
            "Config.terminations must be 'learned'",
        ),
        "divergence_target": (config.prior.adaptive, adapts),
        "dual_learning_rate": (config.prior.adaptive, adapts),
    }
    for name in swept:
        read, remedy = needs.get(name, (True, ""))
        if not read:
            raise ValueError(
                f"{name} has several values, but nothing reads it, so that all agents "
                f"would be alike; {remedy}"
            )


def _unknown_names(config: Config) -> Iterator[str]:
    for field, table in (("kind", PRIORS), ("divergence", DIVERGENCES)):
        name = getattr(config.prior, field)
        if name not in table:
            options = ", ".join(map(repr, table))
            yield (
                f"PriorConfig.{field} is {name!r}; it must be one of {options}"
                f"{nearest(name, table)}"
            )
            return


def _contradictions(config: Config) -> Iterator[str]:
    prior, policy = config.prior, config.policy
    if prior.kind not in PRIORS or prior.divergence not in DIVERGENCES:
        return
    kind, divergence = PRIORS[prior.kind], DIVERGENCES[prior.divergence]
    squashed = policy.family == "squashed"
    if kind.active and divergence.in_action_space and squashed:
        sampled = [n for n, d in DIVERGENCES.items() if not d.in_action_space]
        yield (
            f"PriorConfig.divergence is {prior.divergence!r}, a closed form that a "
            f"squashed policy does not have; it must be one of {', '.join(sampled)}, "
            "or PolicyConfig.family must be 'clamped'"
        )
    yield from _kl_in_target(config)
    if config.planner.seeds != "policy" and not kind.proposes:
        yield (
            f"PlannerConfig.seeds is {config.planner.seeds!r}, but a prior of kind "
            f"{prior.kind!r} cannot propose actions; it must be 'policy', or "
            f"PriorConfig.kind must be {_kinds(lambda p: p.proposes)}"
        )
    if policy.imitation_only and not kind.active:
        yield (
            "PolicyConfig.imitation_only is on, but PriorConfig.kind 'none' leaves "
            f"nothing to imitate; it must be {_kinds(lambda p: p.active)}"
        )
    if prior.adaptive and not kind.active:
        yield (
            "PriorConfig.adaptive is on, but PriorConfig.kind is 'none'; it must be "
            f"{_kinds(lambda p: p.active)}"
        )
    if config.reanalysis.interval and not kind.active:
        yield (
            f"ReanalysisConfig.interval is {config.reanalysis.interval}; it must be 0 "
            f"when prior.kind is {prior.kind!r}, which learns from no plan"
        )
    yield from _finite_lambda(config)
    yield from _values_to_weigh_by(config)


def _kl_in_target(config: Config) -> Iterator[str]:
    """What a KL in the value target needs, at the λ of the policy's own penalty."""
    prior, how = config.prior, config.critic.kl_in_target
    if how == "none":
        return
    kind = PRIORS[prior.kind]
    if not (kind.active and kind.everywhere):
        yield (
            f"CriticConfig.kl_in_target is {how!r}, which needs a "
            f"prior at every state, but PriorConfig.kind is {prior.kind!r}; it must be "
            f"{_kinds(lambda p: p.active and p.everywhere)}"
        )
    if how == "closed_form" and config.policy.family == "squashed":
        yield (
            "CriticConfig.kl_in_target is 'closed_form', which a squashed policy does "
            "not have; it must be 'none' or 'sampled', or PolicyConfig.family must be "
            "'clamped'"
        )
    if prior.divergence not in _OF_POLICY_TO_PRIOR:
        yield (
            f"CriticConfig.kl_in_target is {how!r}, which counts KL(policy‖prior) at "
            "the λ of the policy's penalty, but PriorConfig.divergence is "
            f"{prior.divergence!r}; it must be "
            f"{' or '.join(map(repr, _OF_POLICY_TO_PRIOR))}"
        )


_OF_POLICY_TO_PRIOR = ("reverse", "sampled")
"""Divergences that are KL(π‖prior), in closed form or by a sample."""


def _kinds(suits: Callable[[type[Prior]], bool]) -> str:
    """Names of the priors that would do."""
    return " or ".join(repr(name) for name, prior in PRIORS.items() if suits(prior))


def _finite_lambda(config: Config) -> Iterator[str]:
    """What has no meaning at λ = ∞, where `imitation_only` is."""
    needs = {
        "PriorConfig.adaptive must be off": config.prior.adaptive,
        "PriorConfig.mixing must be 'convex'": config.prior.mixing == "additive",
        "CriticConfig.kl_in_target must be 'none'": (
            config.critic.kl_in_target != "none"
        ),
    }
    for remedy, broken in needs.items():
        if config.policy.imitation_only and broken:
            yield f"PolicyConfig.imitation_only is on, where λ is infinite; {remedy}"


def _values_to_weigh_by(config: Config) -> Iterator[str]:
    """What has no meaning where the value scale stays, or may stay, below the gate."""
    prior, imitates = config.prior, config.policy.imitation_only
    if imitates and prior.scale == "value":
        yield (
            "PolicyConfig.imitation_only is on, where no value of the policy's actions "
            "is computed, but PriorConfig.scale is 'value'; it must be 'own' or 'none'"
        )
    if imitates and DIVERGENCES[prior.divergence].by_value:
        others = [name for name, d in DIVERGENCES.items() if not d.by_value]
        yield (
            "PolicyConfig.imitation_only is on, where no value of the policy's actions "
            f"is computed, but PriorConfig.divergence is {prior.divergence!r}, which "
            f"weighs states by it; it must be one of {', '.join(map(repr, others))}"
        )
    if prior.adaptive and prior.scale == "value":
        yield (
            "PriorConfig.adaptive is on, but PriorConfig.scale is 'value', whose gate "
            "shuts the penalty off while λ would go on rising; it must be 'own' or "
            "'none'"
        )
