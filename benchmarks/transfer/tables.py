"""Tables and plots of a study's rows."""

import itertools
import json

import numpy as np

from benchmarks.transfer import plan
from benchmarks.transfer.stats import difference


def read(config):
    """{Row: dict} of the rows that are there."""
    paths = {row: plan.path_of(config, row) for row in plan.rows(config)}
    return {row: json.loads(path.read_text(encoding="utf-8")) for row, path in paths.items() if path.is_file()}


def compared(config, there, one, other, share, test, how, metric):
    """The Difference one - other over the seeds that both have, or None where there are none."""
    seeds = sorted({row.seed for row in there if row.arm == one and row.share == share}
                   & {row.seed for row in there if row.arm == other and row.share == share})
    values = [[there[plan.Row(arm, seed, share)]["tests"][test][how][metric] for seed in seeds] for arm in (one, other)]
    return difference(*values) if seeds else None


def spreads(config, there):
    """Spreads over seeds of the paired differences of all pairs of arms that have 3 seeds or more, in the headline's metric."""
    test, shares = next(iter(config.tests)), {row.share for row in there}
    found = [compared(config, there, one, other, share, test, "finetuned", config.metric)
             for one, other in itertools.combinations(config.arms, 2) for share in sorted(shares)]
    return [d.spread for d in found if d is not None and d.seeds > 2 and np.isfinite(d.spread)]
