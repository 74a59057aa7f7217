"""Clips from a folder of images a person or a scene: ``reader=image_folders``.

Every folder that holds images is a subject, at any depth. Its images are dealt into clips of at
most ``images_per_clip``, as the seed draws them; each is used once.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.plan import ClipPlan, clip_key
from data.sources.probe import Problems
from data.sources.stills import (
    ALONE,
    IMAGE_SUFFIXES,
    Shown,
    Still,
    name_of,
    open_stills,
    place_crops,
    show_people,
)
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger

log = get_logger(__name__)


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of all folders below ``images=``.

    Raises:
        UserError: no images there, or a file of boxes that does not fit them.
    """
    assert cfg.images is not None, "PairsConfig.check asks for them"
    folders = list_folders(cfg.images)
    paths = [path for listed in folders.values() for path in listed]
    stills = open_stills(paths, problems)
    shown = show_people(cfg, stills, {path: name_of(path, cfg.images) for path in stills}, problems)
    plans, alone = [], []
    for folder, listed in folders.items():
        of_folder = [stills[path] for path in listed if path in stills]
        clips = _plan_folder(folder, of_folder, shown, cfg)
        plans += clips
        if not clips:
            alone.append(folder)
    if alone:
        log.info(
            f"{len(alone)} folders show nobody in 2 images, such as {alone[0]}; they are left out"
        )
    return plans, dict(stills)


def list_folders(root: str) -> dict[str, list[str]]:
    """{folder relative to ``root``: paths of its images}, in order; hidden files do not count.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not os.path.isdir(root):
        what = "is a file, a folder is needed" if os.path.exists(root) else "no such folder"
        raise UserError(f"images={root}: {what}")

    def refuse(error: OSError) -> None:
        raise failure_of(error, f"images={error.filename}: {explain(error)}")

    found = defaultdict(list)
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                found[name_of(folder, root)].append(os.path.join(folder, name))
    if not found:
        raise UserError(f"images={root} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return dict(sorted(found.items()))


def deal(count: int, most: int, random: np.random.Generator) -> list[list[int]]:
    """Places 0 to count - 1 dealt into clips of 2 to ``most``, at random and evenly.

    One place alone gives no clip; of three places, clips of two have to be one of three.
    """
    if count < 2:
        return []
    groups = min(-(-count // most), count // 2)
    return [sorted(part.tolist()) for part in np.array_split(random.permutation(count), groups)]


def _plan_folder(
    folder: str, stills: Sequence[Still], shown: Shown, cfg: PairsConfig
) -> list[ClipPlan]:
    plans = []
    for person in sorted({who for still in stills for who in shown[still.path]}):
        seen = [still for still in stills if person in shown[still.path]]
        name = folder if person == ALONE else f"{folder}/{person}"
        purpose = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
        key = [cfg.seed, int.from_bytes(purpose, "little")]
        random = np.random.Generator(np.random.Philox(key=key))
        for number, places in enumerate(deal(len(seen), cfg.images_per_clip, random)):
            chosen = [seen[place] for place in places]
            crops = place_crops(chosen, [shown[still.path][person] for still in chosen], cfg)
            if len(crops) >= 2:
                subject = cfg.subject or f"{cfg.source}/{name}"
                plans.append(ClipPlan(_key(name, number), subject, crops))
    return plans


def _key(name: str, number: int) -> str:
    """A folder's name in the key: told apart from others by a hash, as a/b and a_b look alike."""
    mark = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=3).hexdigest()
    return clip_key("root" if name == "." else name, mark, f"{number:04d}")
