"""Results: runs of planprior, tables of others and published curves, read alike.

`read` takes run folders and tables, `published` a task; `summarise` makes a curve of
several runs.
"""

from planprior.curves import (
    Curve,
    Run,
    as_metric,
    bootstrapped,
    common_grid,
    covers,
    group_key,
    groups,
    labels,
    scores_at,
    sourced,
    summarise,
    sweeps,
    values_at,
)
from planprior.published_curves import (
    caveats,
    curves_of_rows,
    published,
    published_intervals,
    published_key,
    published_runs,
    sources,
)
from planprior.run_files import (
    ResultsError,
    plain_task,
    read,
    read_config,
    read_log,
    read_table,
    read_values,
    settings_text,
)

__all__ = [
    "Curve",
    "ResultsError",
    "Run",
    "as_metric",
    "bootstrapped",
    "caveats",
    "common_grid",
    "covers",
    "curves_of_rows",
    "group_key",
    "groups",
    "labels",
    "plain_task",
    "published",
    "published_intervals",
    "published_key",
    "published_runs",
    "read",
    "read_config",
    "read_log",
    "read_table",
    "read_values",
    "scores_at",
    "settings_text",
    "sourced",
    "sources",
    "summarise",
    "sweeps",
    "values_at",
]
