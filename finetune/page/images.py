"""The report's contact sheets and completions as text; see engine/logging/page/images.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.storage.cache import CacheConfig
from data.storage.shard_store import Store
from data.tools.contact_sheet import contact_sheet
from data.tools.inspect import ShownPairs
from engine.logging.page.images import InlineImage, inline, inline_file

STEP_WIDTH = 800
MOST_STEPS = 6


def draw_sheet(paths: Sequence[str], rows: int, seed: int) -> InlineImage:
    """A contact sheet of shards: pairs of every kind of crop."""
    return inline(contact_sheet(list(paths), rows, seed, ShownPairs(), Store(CacheConfig().open())))


def choose_steps(images: Mapping[int, Path]) -> list[dict]:
    """Some of {step: path}, spread evenly, the first and the last among them.

    Returns:
        [{"step", "key": whether it is the first, the middle or the last shown, and what inline
        gives}, ...]
    """
    steps = list(images)
    chosen = sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(len(steps), MOST_STEPS))})
    middle = len(chosen) // 2
    return [
        {
            "step": steps[i],
            "key": place in (0, middle, len(chosen) - 1),
            **inline_file(images[steps[i]], STEP_WIDTH),
        }
        for place, i in enumerate(chosen)
    ]
