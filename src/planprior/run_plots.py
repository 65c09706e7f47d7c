"""A figure of what went on inside one run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from planprior.figures import COLOURS, looks, panels_of, step_axis, styled
from planprior.results import Run


class Panel(NamedTuple):
    """A panel of diagnostics.

    Attributes:
        title: Its title.
        names: Names of the metrics, and what the legend calls them.
        log: Whether the axis is logarithmic.
    """

    title: str
    names: Mapping[str, str]
    log: bool = False


PANELS = (
    Panel(
        "KL of the policy, per dimension",
        {"kl_policy_prior": "to the prior", "kl_policy_plan": "to stored plans"},
        log=True,
    ),
    Panel(
        "entropy, per dimension",
        {"policy_entropy": "policy", "prior_entropy": "prior"},
    ),
    Panel(
        "effective λ and prior weight",
        {"effective_lambda": "effective λ", "prior_weight": "w"},
        log=True,
    ),
    Panel(
        "values",
        {
            "value": "of the replay",
            "target": "their targets",
            "plan_value": "the planner's, here and now",
        },
    ),
    Panel(
        "losses",
        {
            "consistency_loss": "consistency",
            "reward_loss": "reward",
            "value_loss": "value",
        },
        log=True,
    ),
    Panel(
        "policy gradient norms",
        {"return_grad_norm": "by value", "penalty_grad_norm": "by prior"},
        log=True,
    ),
    Panel("spread of stored plans", {"plan_std": "standard deviation"}),
    Panel("age of stored plans", {"plan_age": "updates"}),
)


def diagnostics(
    run: Run, log: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray] = {}
) -> Any:
    """Planner against policy, and the metrics of the updates: one member of one run.

    Args:
        run: Its evaluations.
        log: `results.read_log`.
        values: `results.read_values`: what the planner predicted and what came.
    """
    panels = [p for p in PANELS if any(_shown(log, name) for name in p.names)]
    with styled():
        figure, axes = panels_of(1 + len(panels) + bool(values), size=(3.4, 2.4))
        _planner_and_policy(axes[0], run)
        for ax, panel in zip(axes[1:], panels, strict=False):
            _metrics(ax, log, panel)
        for ax in axes[: 1 + len(panels)]:
            step_axis(ax, [run.env_steps[-1]])
            ax.legend(fontsize=7.5, handlelength=2.2)
        if values:
            _calibration(axes[-1], values)
        return figure


def _shown(log: Mapping[str, np.ndarray], name: str) -> bool:
    return name in log and bool(np.isfinite(log[name]).any())


def _planner_and_policy(ax: Any, run: Run) -> None:
    look = looks(("planner", "bare policy"))
    series = {"planner": run.returns, "bare policy": run.policy_returns}
    for label, values in series.items():
        if values is not None:
            ax.plot(run.env_steps, values, label=label, ms=3, **look[label]._asdict())
    ax.set_title("episode return")


def _metrics(ax: Any, log: Mapping[str, np.ndarray], panel: Panel) -> None:
    look = looks(panel.names.values())
    lowest = np.inf
    for name, label in panel.names.items():
        if _shown(log, name):
            color, dash, _ = look[label]
            ax.plot(log["step"], log[name], color=color, ls=dash, lw=1.3, label=label)
            lowest = min(lowest, float(np.nanmin(log[name])))
    if panel.log and lowest > 0:
        ax.set_yscale("log")
    ax.set_title(panel.title)


def _calibration(ax: Any, values: Mapping[str, np.ndarray]) -> None:
    """What the planner predicted against the discounted return that came."""
    x, y = values["achieved"], values["predicted"]
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    ax.plot(ends, ends, color="#555555", lw=1, ls=":", label="exact")
    ax.plot(x, y, ".", ms=3, alpha=0.5, color=COLOURS[0], label="states")
    ax.set_xlabel("discounted return that came")
    ax.set_ylabel("planner's estimate")
    ax.set_title(f"value: {np.mean(y - x):+.3g} on average")
    ax.legend(fontsize=7.5)
