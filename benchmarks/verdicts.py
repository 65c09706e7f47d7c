"""How often `planprior compare` calls equal methods different, by simulation.

    python benchmarks/verdicts.py

Returns are normal, of equal means. Shares of verdicts "higher" or "lower" in 100, for
numbers of seeds and ratios of both spreads: by Welch's degrees of freedom alone, and as
`planprior.intervals.difference` has it, with one where a side has two seeds.
"""

import numpy as np

from planprior.intervals import t_quantile

DRAWS = 100_000
SEEDS = ((2, 3), (2, 5), (2, 10), (3, 3), (3, 5), (3, 10), (5, 5))
RATIOS = (0.5, 1.0, 2.0, 3.0, 10.0)


def false_verdicts(
    n: int, m: int, ratio: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Shares in 100: by Welch's number of degrees of freedom, and by ours."""
    a, b = rng.normal(0, ratio, (DRAWS, n)), rng.normal(0, 1, (DRAWS, m))
    u, v = a.var(1, ddof=1) / n, b.var(1, ddof=1) / m
    t = np.abs(a.mean(1) - b.mean(1)) / np.sqrt(u + v)
    dof = np.maximum((u + v) ** 2 / (u**2 / (n - 1) + v**2 / (m - 1)), 1.0)
    grid = np.geomspace(1.0, n + m, 400)
    welch = np.interp(dof, grid, [t_quantile(0.975, x) for x in grid.tolist()])
    ours = t_quantile(0.975, 1.0) if min(n, m) == 2 else welch
    return 100 * float(np.mean(t > welch)), 100 * float(np.mean(t > ours))


def main() -> None:
    """Print one line for every pair of numbers of seeds and every ratio."""
    rng = np.random.default_rng(0)
    print("seeds, seeds, ratio of spreads: Welch's, ours (of 100)")
    for n, m in SEEDS:
        for ratio in RATIOS:
            welch, ours = false_verdicts(n, m, ratio, rng)
            print(f"{n:5d} {m:6d} {ratio:6g}: {welch:5.1f} {ours:5.1f}")


if __name__ == "__main__":
    main()
