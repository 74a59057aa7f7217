"""Still images as sources of crops: each is a video of one frame.

What a crop of one shows: the whole image, the person that a file of boxes names, or the person that
is found in it, the largest where there are several.
"""

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone

import numpy as np
from PIL import Image

from data.cropping.geometry import square_around
from data.find.detection import Detection
from data.find.found import Found
from data.find.store import Store, digest_search
from data.format.images import BROKEN, explain_broken, open_image
from data.sources.config import PairsConfig
from data.sources.detections import read_detections
from data.sources.frames import Frames, Unreadable
from data.sources.images import read_image
from data.sources.plan import CropPlan, share_inside
from data.sources.probe import Problems
from data.tools.process_pool import spread
from engine.errors import UserError
from engine.logging import progress

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif")
LEAST_SIDE = 16  # pixels of an image
CAMERA = "0"  # of clips whose images come from one camera
FIRST = 0  # the only frame
AT_ONCE = 16  # images that a process searches before it answers
_ORIENTATION, _EXIF, _TAKEN, _FRACTION = 0x0112, 0x8769, 0x9003, 0x9291
_ON_ITS_SIDE = (5, 6, 7, 8)

# The one person of an image whom nobody names.
ALONE = ""
# {path: {person: Detection, or None for the whole image}}
Shown = dict[str, dict[str, Detection | None]]


class Still(Frames):
    """A still image as a source of one frame, upright.

    Attributes:
        path, count, width, height: as of Frames.  times: (1,) zero.
        taken_s: seconds since 1970 at which the camera says it was taken, or None.
    """

    def __init__(self, path: str, width: int, height: int, taken_s: float | None) -> None:
        self.path, self.count, self.note = path, 1, ""
        self.width, self.height, self.taken_s = width, height, taken_s
        self.times, self.start_s = np.zeros(1), 0.0

    def get(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (0, (H, W, 3) uint8 RGB) where it is asked for.

        Raises:
            Unreadable: the image is broken.
        """
        if not list(indices):
            return
        try:
            image = read_image(self.path)
        except UserError as error:
            raise Unreadable(str(error)) from None
        yield FIRST, image


def open_still(path: str) -> Still:
    """The Still of a file, of which the header alone is read.

    Raises:
        Unreadable: it is no image, or too small for one of a person.
    """
    try:
        with open_image(path) as image:
            exif = image.getexif()
            width, height = image.size
            if exif.get(_ORIENTATION) in _ON_ITS_SIDE:
                width, height = height, width
            if min(width, height) < LEAST_SIDE:
                raise Unreadable(f"it is {width}x{height}, at least {LEAST_SIDE} px are needed")
            return Still(path, width, height, _taken(exif))
    except BROKEN as error:
        raise Unreadable(explain_broken(error)) from None


def open_stills(paths: Sequence[str], problems: Problems) -> dict[str, Still]:
    """{path: Still} of the images that can be read; the others go to ``problems``."""
    found = {}
    with progress.bar(len(paths), "image", description="reading headers") as bar:
        for path in paths:
            try:
                found[path] = open_still(path)
            except Unreadable as error:
                problems.add(path, str(error))
            bar.update()
    return found


def show_people(
    cfg: PairsConfig, stills: Mapping[str, Still], names: Mapping[str, str], problems: Problems
) -> Shown:
    """Who is shown of each image: everything, by ``boxes=``, or by a search.

    Args:
        stills: {path: Still}.  names: {path: what a file of boxes calls the image}.
    Raises:
        UserError: a file of boxes that cannot be read or has none for them; no networks to search
            with.
    """
    if cfg.boxes:
        named = {names[path]: still for path, still in stills.items()}
        found = read_detections(cfg.boxes, named, cfg.boxes_format, problems)
        if not found:
            raise UserError(f"boxes={cfg.boxes} lists nobody in these {len(stills)} images")
        shown: Shown = {path: {} for path in stills}
        for path in stills:
            for person, track in found.get(names[path], {}).items():
                shown[path][person] = track[FIRST]
        return shown
    if cfg.crop == "image":
        return {path: {ALONE: None} for path in stills}
    return _search(cfg, list(stills), problems)


def make_crop(
    still: Still, shown: Detection | None, camera: str, time_s: float, cfg: PairsConfig
) -> CropPlan | None:
    """The crop of an image, or of a person in it; None where too little of them is inside."""
    if shown is None:
        box = square_around([0, 0, still.width, still.height], 1.0).box
        return CropPlan(still.path, FIRST, camera, time_s, box)
    if share_inside(shown.box, still.width, still.height) < cfg.min_inside:
        return None
    box = square_around(shown.box, cfg.margin).box
    return CropPlan(still.path, FIRST, camera, time_s, box, detection=shown)


def place_crops(
    stills: Sequence[Still], people: Sequence[Detection | None], cfg: PairsConfig
) -> list[CropPlan]:
    """The crops of one clip, with their places on its clock and the names of their cameras.

    ``pair_kind=cross_pose``: one camera, and the times at which the images were taken where all
    tell it and differ, else 0, 1, 2 ... in the order given. ``cross_view``: one instant, and as
    many cameras as images.
    """
    taken = [still.taken_s for still in stills]
    known = [time for time in taken if time is not None]
    if len(set(known)) == len(stills):
        times = [time - min(known) for time in known]
    else:
        times = [float(place) for place in range(len(stills))]
    crops = []
    for place, (still, shown) in enumerate(zip(stills, people, strict=True)):
        if cfg.pair_kind == "cross_view":
            crop = make_crop(still, shown, str(place), 0.0, cfg)
        else:
            crop = make_crop(still, shown, CAMERA, times[place], cfg)
        if crop is not None:
            crops.append(crop)
    return sorted(crops, key=lambda crop: crop.time_s)


def _taken(exif: Image.Exif) -> float | None:
    """Seconds since 1970 of EXIF's DateTimeOriginal, taken as UTC: only differences count."""
    try:
        inner = exif.get_ifd(_EXIF)
        text = str(inner.get(_TAKEN, "")).strip("\0 ")
        moment = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=timezone.utc)
        digits = str(inner.get(_FRACTION, "")).strip("\0 ")
        return moment.timestamp() + (float(f"0.{digits}") if digits.isdigit() else 0.0)
    except (ValueError, *BROKEN):
        return None


def _search(cfg: PairsConfig, paths: list[str], problems: Problems) -> Shown:
    """The largest person of each image, by the networks of data.find.

    What was found is kept in ``out``, so that a command that was killed searches the rest alone.
    Outlines are searched for when crops are cut.
    """
    pieces = [(cfg, paths[i : i + AT_ONCE]) for i in range(0, len(paths), AT_ONCE)]
    shown: Shown = {path: {} for path in paths}
    with progress.bar(len(paths), "image", description="finding people") as bar:
        for _, answers in spread(_find_largest, pieces, cfg.workers):
            for path, found in answers.items():
                if isinstance(found, str):
                    problems.add(path, found)
                elif found is not None:
                    shown[path][ALONE] = found
                bar.update()
    return shown


@functools.cache
def _finder():
    """The networks, opened once a process."""
    from data.find.finder import open_finder

    return open_finder(masks=False)


def _find_largest(
    piece: tuple[PairsConfig, list[str]],
) -> dict[str, Detection | str | None]:
    """{path: the largest person, None where there is nobody, or why it cannot be read}."""
    cfg, paths = piece
    store = Store(cfg.found or cfg.out)
    digests = [digest_search(path, cfg.find, True) for path in paths]
    digest = hashlib.blake2b(" ".join([*paths, *digests]).encode(), digest_size=8).hexdigest()
    name = f"stills-{digest}"
    kept = store.load(name, digest)
    out: dict[str, Detection | str | None] = {}
    if kept is None:
        found = Found(searched=len(paths))
        for number, path in enumerate(paths):
            try:
                people = _finder().find(read_image(path))
            except UserError as error:
                out[path] = str(error)
                continue
            if people:
                _note(found, str(number), max(people, key=_area))
        if out:
            return {
                path: found.tracks.get(str(i), {}).get(FIRST) for i, path in enumerate(paths)
            } | out
        store.save(name, digest, found)
        # As it will be read when the command is started again: rounded.
        kept = store.load(name, digest)
    assert kept is not None, "it was written a moment ago"
    return {path: kept.tracks.get(str(i), {}).get(FIRST) for i, path in enumerate(paths)}


def _area(person: Detection) -> float:
    return float(np.prod(person.box[2:] - person.box[:2]))


def _note(found: Found, number: str, person: Detection) -> None:
    found.tracks[number] = {FIRST: person}
    found.sharpness[number] = {FIRST: 1.0}
    found.hand_sharpness[number] = {FIRST: dict.fromkeys(person.hands, 1.0)}


def name_of(path: str, folder: str) -> str:
    """A path relative to a folder, with "/"."""
    return os.path.relpath(path, folder).replace(os.sep, "/")
