"""Counting what shards hold, and what the rules for pairs keep of it.

Only the JSON members and labels are read: of these what each crop shows of the surface, and the
keypoints of clips that several calibrated cameras filmed.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from data.format.clip import KINDS, MADE, decode_meta
from data.format.index import PAIR_KINDS, pair_matrix, read_index
from data.format.label_files import load_arrays, read_visible
from data.format.labels import read_arrays
from data.sampling.pairs import CROPS, PairRules, view_angles
from data.tools.epipolar import Pair, Sights, merge_rows
from data.tools.rig_check import describe_rigs
from engine.errors import explain, failure_of

KEYPOINTS = ("keypoints", "keypoint_confidence", "keypoint_visible")
# A row an ordered pair: which clip, index into PAIR_KINDS and into KINDS, then what the rules look
# at (NaN: not known).
PAIR = np.dtype(
    [
        ("clip", np.int64),
        ("kind", np.uint8),
        ("crop", np.uint8),
        ("angle_deg", np.float64),
        ("gap_s", np.float64),
        ("overlap", np.float32),
        ("visible", np.float32),  # the lesser of the two crops' shares of the surface
    ]
)


@dataclass
class Tally:
    """Counts over shards; two tallies add up.

    Attributes:
        shards, clips, unreadable: how many; the last are samples whose JSON is missing or bad.
        sources: {(source, licence): clips}.  subjects: {subject: clips}.
        kinds: {(source, kind of crop): crops}.  sizes: {side in pixels: crops}.
        jpeg_bytes: (crops,).  box_sides: longer side in pixels of the source of each crop that was
            cut from an image.
        pairs: rows of PAIR, both directions of every pair of crops that is cross-view or
            cross-pose.
        rigs: {(take, camera, camera): rows of data.tools.epipolar}.
    """

    shards: int = 0
    clips: int = 0
    unreadable: int = 0
    sources: Counter = field(default_factory=Counter)
    subjects: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    jpeg_bytes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    box_sides: np.ndarray = field(default_factory=lambda: np.zeros(0))
    pairs: np.ndarray = field(default_factory=lambda: np.zeros(0, PAIR))
    rigs: dict[Pair, np.ndarray] = field(default_factory=dict)


def tally_shard(path: str) -> Tally:
    """The Tally of one shard.

    Raises:
        UserError: the shard is cut off or no tar; see data.format.shards.read_index.
    """
    index, tally = read_index(path), Tally(shards=1)
    jpeg_bytes, box_sides, pairs, sights = [], [], [], Sights()
    try:
        for clip, members, labels in _clips(path, index):
            if clip is None:
                tally.unreadable += 1  # told in the summary; `verify` names them
                continue
            jpeg_bytes += [length for name, (_, length) in members.items() if name.endswith(".jpg")]
            box_sides += [
                max(c.box[2] - c.box[0], c.box[3] - c.box[1])
                for c in clip.crops
                if c.box is not None
            ]
            pairs += _pair_rows(clip, tally.clips)
            sights.add(clip, labels)
            tally.sources[clip.source, clip.licence] += 1
            tally.subjects[clip.subject] += 1
            tally.kinds.update((clip.source, crop.kind) for crop in clip.crops)
            tally.sizes[clip.size] += len(clip.crops)
            tally.clips += 1
    except OSError as error:
        raise failure_of(error, f"cannot read shard {path}: {explain(error)}") from None
    tally.jpeg_bytes, tally.box_sides = (
        np.array(jpeg_bytes, np.int64),
        np.array(box_sides, np.float64),
    )
    tally.pairs = np.array(pairs, PAIR)
    tally.rigs = sights.measure()
    return tally


def _clips(path, index):
    """Yield (Clip, members, 2D labels) of every sample.

    (None, members, {}) where its JSON is missing or bad.
    """
    with open(path, "rb") as file:
        for i, key in enumerate(index.keys.tolist()):
            members = index.members(i)
            clip, labels = None, {}
            with contextlib.suppress(ValueError):
                if "json" in members:
                    clip = decode_meta(_read(file, members["json"]), f"{path}:{key}")
            # Labels that are damaged are for `verify` to name.
            with contextlib.suppress(ValueError):
                if clip is not None and "labels.npz" in members:
                    data = _read(file, members["labels.npz"])
                    clip.visible = read_visible(data, len(clip.crops))
                    labels = _read_keypoints(data, len(clip.crops)) if _is_rig(clip) else {}
            yield clip, members, labels


def _read_keypoints(data, count):
    arrays = load_arrays(data)
    read_arrays(arrays, count)
    return {name: arrays[name] for name in KEYPOINTS if name in arrays}


def _read(file, span):
    offset, length = span
    file.seek(offset)
    return file.read(length)


def _is_rig(clip):
    """Whether several calibrated cameras filmed the clip."""
    calibrated = {crop.camera for crop in clip.crops if crop.K is not None and crop.Rt is not None}
    return clip.source != MADE and len(calibrated) > 1


def _pair_rows(clip, number):
    rows, angles = [], view_angles(clip)
    for p, kind in enumerate(PAIR_KINDS):
        for i, j in np.argwhere(pair_matrix(clip, kind)).tolist():
            a, b = clip.crops[i], clip.crops[j]
            rows.append(
                (
                    number,
                    p,
                    KINDS.index(a.kind),
                    angles[i, j] if p == 0 else math.nan,
                    abs(a.time_s - b.time_s),
                    math.nan if clip.overlap is None else clip.overlap[i, j],
                    math.nan if clip.visible is None else clip.visible[[i, j]].min(),
                )
            )
    return rows


def merge(tallies: Iterable[Tally]) -> Tally:
    """One Tally of several; clips keep different numbers."""
    total, before, parts = Tally(), 0, list(tallies)
    for part in parts:
        part.pairs["clip"] += before
        before += part.clips
        for name in ("shards", "clips", "unreadable"):
            setattr(total, name, getattr(total, name) + getattr(part, name))
        for name in ("sources", "subjects", "kinds", "sizes"):
            getattr(total, name).update(getattr(part, name))
    total.rigs = merge_rows(part.rigs for part in parts)
    for name in ("jpeg_bytes", "box_sides", "pairs"):
        setattr(total, name, np.concatenate([getattr(part, name) for part in parts]))
    return total


def rule_masks(
    pairs: np.ndarray, kind: str, rules: PairRules
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """What the rules keep of one kind of pair, each rule alone and all together.

    As data.pairs.candidates decides.

    Args:
        pairs: rows of PAIR.  kind: of PAIR_KINDS.  rules: data.sampling.pairs.PairRules.
    Returns:
        (rows of that kind, [(rule in words, (n,) bool), ...]); the last entry is all rules
        together.
    """
    rows = pairs[pairs["kind"] == PAIR_KINDS.index(kind)]
    masks = [
        (
            f"crops = {rules.crops}",
            np.isin(rows["crop"], [KINDS.index(k) for k in CROPS[rules.crops]]),
        )
    ]
    if kind == "cross_view":
        low, high, name, unit = rules.angle_min_deg, rules.angle_max_deg, "angle_deg", "degrees"
    else:
        low, high, name, unit = rules.gap_min_s, rules.gap_max_s, "gap_s", "seconds"
    masks.append(
        (f"{name.split('_')[0]} {low:g} to {high:g} {unit}", _within(rows[name], low, high))
    )
    masks.append(
        (
            f"overlap {rules.overlap_min:g} to {rules.overlap_max:g}",
            _within(rows["overlap"], rules.overlap_min, rules.overlap_max),
        )
    )
    if rules.visible_min:
        masks.append(
            (f"visible from {rules.visible_min:g}", _within(rows["visible"], rules.visible_min, 1))
        )
    return rows, [*masks, ("all rules", np.logical_and.reduce([mask for _, mask in masks]))]


def _within(values, low, high):
    return ~((values < low) | (values > high))  # NaN, not known, is within


def describe(tally: Tally, rules: PairRules) -> str:
    """The text of `python -m data stats`."""
    lines = [
        f"shards {tally.shards}, clips {tally.clips}, crops {len(tally.jpeg_bytes)}, subjects "
        f"{len(tally.subjects)}"
    ]
    if tally.unreadable:
        lines.append(
            f"samples without readable JSON: {tally.unreadable}; `python -m data verify` names them"
        )
    lines += [
        "",
        *_table(
            ["source", "licence", "clips"], [(s, l, n) for (s, l), n in tally.sources.most_common()]
        ),
    ]
    by_kind = Counter()
    for (_, kind), count in tally.kinds.items():
        by_kind[kind] += count
    lines += ["", *_table(["crops", "number"], [(k, by_kind[k]) for k in KINDS if by_kind[k]])]
    lines += [
        "",
        "side of a crop: "
        + ", ".join(f"{side} px ({n} crops)" for side, n in sorted(tally.sizes.items())),
    ]
    lines.append(
        f"JPEG bytes of a crop: {spread_of(tally.jpeg_bytes, '.0f')}; all "
        f"{tally.jpeg_bytes.sum() / 1e6:.1f} MB"
    )
    if len(tally.box_sides):
        lines.append(f"side in the source image, pixels: {spread_of(tally.box_sides, '.0f')}")
    if tally.rigs:
        lines += ["", *describe_rigs(tally.rigs)]
    if not len(tally.pairs):
        lines += ["", "no pairs: no clip has two crops that are cross-view or cross-pose"]
        return "\n".join(lines)
    lines += [
        "",
        "pairs, a masked and b the reference, so every two crops count twice",
        "(5 % of them are below the first number, half below the second, 95 % below the third)",
        "",
    ]
    lines += _table(
        ["kind", "crops", "pairs", "angle, degrees", "gap, seconds", "overlap a in b"],
        list(_pair_table(tally)),
    )
    lines += ["", "what the rules keep", ""]
    lines += _table(
        ["kind", "rule", "pairs", "share", "clips", "share"], list(_rule_table(tally, rules))
    )
    return "\n".join(lines)


def _pair_table(tally):
    for p, kind in enumerate(PAIR_KINDS):
        for k, crops in enumerate(KINDS):
            rows = tally.pairs[(tally.pairs["kind"] == p) & (tally.pairs["crop"] == k)]
            if len(rows):
                yield (
                    kind,
                    crops,
                    len(rows),
                    spread_of(rows["angle_deg"], ".0f") if p == 0 else "",
                    spread_of(rows["gap_s"], ".2f") if p == 1 else "",
                    spread_of(rows["overlap"], ".2f"),
                )


def _rule_table(tally, rules):
    for kind in PAIR_KINDS:
        rows, masks = rule_masks(tally.pairs, kind, rules)
        for words, mask in [("as they are", np.ones(len(rows), bool)), *masks]:
            clips = len(np.unique(rows["clip"][mask]))
            yield (
                kind,
                words,
                int(mask.sum()),
                _share(mask.sum(), len(rows)),
                clips,
                _share(clips, tally.clips),
            )


def spread_of(values: np.ndarray, form: str) -> str:
    """Return "5 % / 50 % / 95 %" of numbers, NaN left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return "not known"
    return " / ".join(format(q, form) for q in np.percentile(known, [5, 50, 95]))


def _share(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _table(head, rows):
    """Lines of a table: numbers to the right, text to the left."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [
        bool(rows)
        and all(row[i].removesuffix(" %").replace(".", "").isdigit() for row in cells[1:])
        for i in range(len(head))
    ]
    return [
        "  "
        + "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
