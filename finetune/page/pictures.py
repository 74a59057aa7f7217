"""The report's contact sheets and completions as text; see engine/page/pictures.py."""

import numpy as np

from data.cache import CacheConfig
from data.inspect import ShownPairs
from data.sheets import contact_sheet
from data.store import Store
from engine.page.pictures import inline, inline_file

STEP_WIDTH = 800
MOST_STEPS = 6


def sheet_of(paths, rows, seed):
    """A contact sheet of shards: pairs of every kind of crop."""
    return inline(contact_sheet(paths, rows, seed, ShownPairs(), Store(CacheConfig().open())))


def step_pictures(pictures):
    """Some of {step: path}, spread evenly, the first and the last among them.

    Returns:
        [{"step", "key": whether it is the first, the middle or the last shown, and what inline gives}, ...]
    """
    steps = list(pictures)
    chosen = sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(len(steps), MOST_STEPS))})
    middle = len(chosen) // 2
    return [{"step": steps[i], "key": place in (0, middle, len(chosen) - 1), **inline_file(pictures[steps[i]], STEP_WIDTH)}
            for place, i in enumerate(chosen)]
