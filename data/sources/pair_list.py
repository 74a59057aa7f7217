"""Clips of two images each, from a list that a user has: ``reader=pair_list``.

    # two paths a line, relative to the list's folder, and perhaps who it is
    ann/001.jpg,ann/007.jpg,ann
    "bob 1.jpg" "bob 2.jpg"

Fields are separated by tabs, commas, semicolons or spaces, as the first line has it. Pairs that
share an image show the same subject, unless the list names them.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass

from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.plan import ClipPlan, clip_key
from data.sources.probe import Problems
from data.sources.stills import Shown, Still, name_of, open_stills, place_crops, show_people
from data.sources.tables import read_text
from engine.errors import UserError
from engine.logging.console import get_logger

HEADER_ENDS = (("a", "b"), ("1", "2"), ("first", "second"), ("left", "right"))
_HEADER_BEGINS = ("", "image", "image_", "path", "path_", "file", "file_", "img", "img_")

log = get_logger(__name__)


@dataclass(frozen=True)
class ListedPair:
    """A line of the list: where it stands, its number, two paths, and who it is or None."""

    where: str
    number: int
    first: str
    second: str
    subject: str | None


def plan_clips(cfg: PairsConfig, problems: Problems) -> tuple[list[ClipPlan], dict[str, Frames]]:
    """(clip plans, {path: Frames}) of a list of pairs.

    Raises:
        UserError: a list that cannot be read, or a file of boxes that does not fit its images.
    """
    assert cfg.pair_list is not None, "PairsConfig.check asks for it"
    pairs = read_pairs(cfg.pair_list)
    folder = os.path.dirname(os.path.abspath(cfg.pair_list))
    paths = list(dict.fromkeys(path for pair in pairs for path in (pair.first, pair.second)))
    stills = open_stills(paths, problems)
    shown = show_people(cfg, stills, {path: name_of(path, folder) for path in stills}, problems)
    subjects = _subjects(pairs, folder)
    plans, nobody = [], 0
    base = os.path.splitext(os.path.basename(cfg.pair_list))[0]
    for pair in pairs:
        if pair.first in stills and pair.second in stills:
            both = stills[pair.first], stills[pair.second]
            subject = cfg.subject or f"{cfg.source}/{subjects[pair.number]}"
            found = _plan_pair(base, pair, both, shown, subject, cfg)
            nobody += not found
            plans += found
    if nobody:
        log.info(f"{nobody} pairs do not show one and the same person in both images; left out")
    return plans, dict(stills)


def read_pairs(path: str) -> list[ListedPair]:
    """The pairs of a list, in its order.

    Raises:
        UserError: the file is no text; a line that is not two paths and perhaps a subject.
    """
    lines = read_text(path).splitlines()
    folder = os.path.dirname(os.path.abspath(path))
    first = next((line for line in lines if _says_something(line)), "")
    delimiter = next((d for d in "\t,;" if d in first), " ")
    pairs: list[ListedPair] = []
    is_first = True
    for number, line in enumerate(lines, 1):
        if not _says_something(line):
            continue
        where = f"{path}:{number}"
        fields = _split(line, delimiter, where)
        if is_first and _is_header(fields):
            is_first = False
            continue
        is_first = False
        if not 2 <= len(fields) <= 3 or not all(fields[:2]):
            raise UserError(
                f"{where}: {len(fields)} fields; a line is two paths of images and perhaps who it "
                f"is, with {_NAMES[delimiter]} between, and quotes around what has some itself"
            )
        one, two = (os.path.normpath(os.path.join(folder, field)) for field in fields[:2])
        if one == two:
            raise UserError(f"{where}: {fields[0]} is paired with itself")
        pairs.append(ListedPair(where, number, one, two, fields[2] or None if fields[2:] else None))
    if not pairs:
        raise UserError(f"{path} is empty: it lists no pairs")
    return pairs


_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", " ": "spaces"}


def _says_something(line):
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _split(line, delimiter, where):
    try:
        rows = list(csv.reader([line.strip()], delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise UserError(f"{where}: {error}") from None
    fields = [field.strip() for field in rows[0]]
    return [field for field in fields if field] if delimiter == " " else fields


def _is_header(fields):
    """Whether a first line names columns, such as image_a,image_b,subject."""
    names = [field.lower() for field in fields[:2]]
    headers = [[begin + end for end in ends] for ends in HEADER_ENDS for begin in _HEADER_BEGINS]
    return names in headers


def _subjects(pairs: Sequence[ListedPair], folder: str) -> dict[int, str]:
    """{number of a pair: who it is}: as listed, else by the first image of all that hang together.

    Images are joined by the pairs they share (union-find).
    """
    above: dict[str, str] = {}

    def top(path: str) -> str:
        while above.setdefault(path, path) != path:
            above[path] = above[above[path]]
            path = above[path]
        return path

    for pair in pairs:
        one, two = top(pair.first), top(pair.second)
        if one != two:
            above[two] = one
    return {pair.number: pair.subject or name_of(top(pair.first), folder) for pair in pairs}


def _plan_pair(
    base: str,
    pair: ListedPair,
    stills: tuple[Still, Still],
    shown: Shown,
    subject: str,
    cfg: PairsConfig,
) -> list[ClipPlan]:
    """A clip of each person of both images; who is alone in each is taken to be one person."""
    first, second = (shown[still.path] for still in stills)
    if len(first) == len(second) == 1:
        common = [(next(iter(first)), next(iter(second)))]
    else:
        common = [(who, who) for who in sorted(first.keys() & second.keys())]
    plans = []
    for one, two in common:
        crops = place_crops(stills, [first[one], second[two]], cfg)
        if len(crops) == 2:
            several = len(common) > 1
            key = clip_key(base, f"{pair.number:06d}", *([one] if several else []))
            plans.append(ClipPlan(key, f"{subject}/{one}" if several else subject, crops))
    return plans
