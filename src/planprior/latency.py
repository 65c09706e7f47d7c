"""How long things took: a histogram that stays small however long one measures."""

import math
from typing import Any

import numpy as np

SHORTEST = 1e-6
LONGEST = 100.0
BINS_PER_DECADE = 100
"""Neighbouring edges differ by 2.3 %, which is how exact quantiles are."""


class Histogram:
    """Durations in bins of equal ratio, from a microsecond to a hundred seconds.

    Attributes:
        counts: Durations per bin; the last bin holds all longer ones.
        longest: The longest, exactly, in seconds.
    """

    def __init__(self) -> None:
        decades = round(math.log10(LONGEST / SHORTEST))
        self.counts = np.zeros(decades * BINS_PER_DECADE + 1, np.int64)
        self.longest = 0.0

    def __len__(self) -> int:
        return int(self.counts.sum())

    def add(self, seconds: float) -> None:
        """Count a duration."""
        decades = math.log10(max(seconds, SHORTEST) / SHORTEST)
        index = min(int(decades * BINS_PER_DECADE), len(self.counts) - 1)
        self.counts[index] += 1
        self.longest = max(self.longest, seconds)

    def quantile(self, share: float) -> float:
        """Seconds that this share of all durations did not exceed (NaN without any)."""
        total = len(self)
        if not total:
            return math.nan
        index = int(np.searchsorted(np.cumsum(self.counts), math.ceil(share * total)))
        edge = SHORTEST * 10 ** ((index + 1) / BINS_PER_DECADE)
        return min(edge, self.longest)

    def summary(self) -> dict[str, float | None]:
        """p50, p95, p99 and max, in milliseconds; None without any duration."""
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        told = {name: self.quantile(share) for name, share in shares.items()}
        told["max"] = self.longest
        return {
            name: 1e3 * seconds if len(self) else None for name, seconds in told.items()
        }

    def to_json(self) -> list[dict[str, Any]]:
        """The bins that are not empty: up to how many milliseconds, and how many."""
        edges = (
            1e3
            * SHORTEST
            * 10 ** (np.arange(1, len(self.counts) + 1) / BINS_PER_DECADE)
        )
        return [
            {"up_to_ms": float(edges[i]), "count": int(self.counts[i])}
            for i in np.flatnonzero(self.counts)
        ]
