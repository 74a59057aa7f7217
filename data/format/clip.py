"""What a clip is: the one definition that writers and readers share.

A clip is N >= 1 square crops of one person, seen by some cameras at some instants. In a shard (a
plain WebDataset tar) it is a run of members with one key:

    KEY.00.jpg KEY.01.jpg ...   the crops, RGB JPEG, all of one size
    KEY.json                    the fields of Clip and Crop below, "format": 2, and "border": what
                                crops show beyond their images' edges (data/cropping/border.py);
                                clips of before that field are black there too
    KEY.masks.bin               N person masks of 64 x 64 bits each, row by row, high bit first
    KEY.labels.npz              optional: labels in the schema of data/format/labels.py
    KEY.surface.npz             optional: what of the body crops show, data/format/surface.py

A clip of one crop is a labelled photograph: fine-tuning reads it, and pre-training passes it over,
for it has no pair. Format 1 asked for two crops at least and knew no ``track``, ``split`` and
``image``; it is read as well.

Frames and units: metres, seconds, pixels; the camera has OpenCV axes (x right, y down, z forward);
the centre of the first pixel is at (0.5, 0.5); ``Rt`` takes world points to the camera: x_cam = R @
x_world + t.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.cropping.border import BORDER, check_border
from data.format.label_files import save_arrays
from data.format.labels import Labels, pack_labels, read_arrays
from data.format.looks import is_look
from data.format.surface import MEMBER as SURFACE
from data.format.surface import SurfaceMaps, pack_surface
from engine.errors import UserError

FORMAT = 2  # the one that is written; all before it are read
KINDS = ("body", "left_hand", "right_hand")
MADE = "made"  # Clip.source of synthetic humans: all other images may show somebody's face
MASK_SIDE = 64
MASK_BYTES = MASK_SIDE * MASK_SIDE // 8

Numbers = Sequence[float] | np.ndarray
Matrix = Sequence[Sequence[float]] | np.ndarray


@dataclass
class Crop:
    """One square image of a clip.

    Attributes:
        camera: name of the camera, unique within the clip.
        time_s: instant in seconds on the clip's clock; equal times are one instant.
        kind: "body", "left_hand" or "right_hand".
        K: (3, 3) intrinsics of the crop in its own pixels, or None where the camera is not
            calibrated.
        Rt: (3, 4) world to camera, or None.
        box: [x0, y0, x1, y1], the crop in the pixels of the image it was cut from, or None for
            rendered images.
        image: what its data set calls the image it was cut from, or None.
        look: 64 bits in hex that near-duplicates share (data.format.looks), or None.
    """

    camera: str
    time_s: float
    kind: str = "body"
    K: Matrix | None = None
    Rt: Matrix | None = None
    box: Numbers | None = None
    image: str | None = None
    look: str | None = None


@dataclass
class Clip:
    """A clip in memory.

    Attributes:
        key: name in the shard; no dots (WebDataset ends a key at the first dot).
        source: where it comes from, such as "made" or the name of a take.
        licence: of the images, such as "CC0-1.0".
        subject: who it is; two clips of one person carry the same subject.
        size: side of every crop in pixels.
        crops: N entries.
        jpegs: N encoded images, in the order of crops.
        masks: (N, 64, 64) bool, true on the person, or None where nobody knows.
        overlap: (N, N) float, entry [i, j] the share of i's visible surface that is also seen in j,
            NaN (null in the JSON) where nobody knows, or None.
        labels: Labels, or {name: array} as data.format.labels describes them, or None.
        surface: SurfaceMaps, or None. Not read with the JSON.
        split: which part of its data set it belongs to, such as "train", or None.
        track: the recording of one person that it is part of, or None. Clips of one track share
            cameras and clock, so their crops follow each other in time.
        visible: (N,) share of the surface that each crop shows. Stands in the labels, not in the
            JSON: None until somebody has read it there, or where nobody knows.
    """

    key: str
    source: str
    licence: str
    subject: str
    size: int
    crops: list[Crop]
    jpegs: list[bytes] = field(default_factory=list)
    masks: np.ndarray | None = None
    overlap: np.ndarray | None = None
    labels: Labels | dict[str, np.ndarray] | None = None
    split: str | None = None
    track: str | None = None
    visible: np.ndarray | None = None
    surface: SurfaceMaps | None = None


def encode(clip: Clip) -> dict[str, bytes]:
    """A clip as ``{member suffix: bytes}``, equal bytes for equal clips.

    Raises:
        UserError: where the clip cannot be a sample (a dot in the key, counts that disagree, a
            matrix of another shape, labels that do not fit each other).
    """
    count = len(clip.crops)
    if not clip.key or "." in clip.key or "/" in clip.key:
        raise UserError(f"clip key '{clip.key}': a key is not empty and has no dots and no slashes")
    if count < 1 or len(clip.jpegs) != count:
        raise UserError(
            f"clip {clip.key}: {count} crops and {len(clip.jpegs)} images; a clip has at least 1 "
            f"of each"
        )
    members = {f"{i:02d}.jpg": data for i, data in enumerate(clip.jpegs)}
    if clip.masks is not None:
        if clip.masks.shape != (count, MASK_SIDE, MASK_SIDE):
            raise UserError(
                f"clip {clip.key}: masks of shape {clip.masks.shape} for {count} crops of 64 x 64"
            )
        members["masks.bin"] = np.packbits(clip.masks.reshape(count, -1), axis=1).tobytes()
    members["json"] = json.dumps(_describe_clip(clip), separators=(",", ":")).encode()
    try:
        decode_meta(members["json"], clip.key)  # what a reader would refuse must not be written
        if clip.labels is not None:
            members["labels.npz"] = save_arrays(_label_arrays(clip.labels, count))
        if clip.surface is not None:
            members[SURFACE] = pack_surface(clip.surface, count, clip.size)
    except ValueError as error:
        raise UserError(f"clip {clip.key}: {error}") from None
    return members


def _label_arrays(labels: Labels | dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """{name: array} of labels that fit a clip of ``count`` crops; ValueError where they do not."""
    if isinstance(labels, Labels):
        if len(labels) != count:
            raise ValueError(f"labels of {len(labels)} crops for {count}")
        return pack_labels(labels)
    read_arrays(labels, count)
    return labels


def _describe_clip(clip: Clip) -> dict[str, object]:
    """The fields of the JSON member.

    Those that most clips lack are there only where they are set.
    """
    meta: dict[str, object] = {
        "format": FORMAT,
        "source": clip.source,
        "licence": clip.licence,
        "subject": clip.subject,
        "size": clip.size,
        "border": BORDER,
        "masks": clip.masks is not None,
        "labels": clip.labels is not None,
        "crops": [_describe_crop(crop) for crop in clip.crops],
        "overlap": _unknown_as_null(_rounded(clip.overlap, 4)),
    }
    for name in ("split", "track"):
        if getattr(clip, name) is not None:
            meta[name] = getattr(clip, name)
    if clip.surface is not None:
        meta["surface"] = True
    return meta


def _describe_crop(crop: Crop) -> dict[str, object]:
    meta: dict[str, object] = {
        "camera": crop.camera,
        "time_s": round(float(crop.time_s), 6),
        "kind": crop.kind,
        "box": _rounded(crop.box, 3),
        "K": _rounded(crop.K, 6),
        "Rt": _rounded(crop.Rt, 9),
    }
    for name in ("image", "look"):
        if getattr(crop, name) is not None:
            meta[name] = getattr(crop, name)
    return meta


def decode_meta(data: bytes, where: str) -> Clip:
    """The Clip of a ``KEY.json`` member, without images, masks and labels.

    Args:
        data: bytes of the member.  where: "SHARD:KEY" for messages.
    Raises:
        ValueError: the bytes are not such a member.
        UserError: the sample was written by a newer version of this software, or cut with another
            border rule.
    """
    meta = json.loads(data)
    if isinstance(meta, dict) and "frame_format" in meta:
        raise ValueError("it is a whole frame, no clip of crops (docs/scenes.md)")
    if not isinstance(meta, dict) or not isinstance(meta.get("format"), int):
        raise ValueError("no 'format' in the json member")
    if meta["format"] > FORMAT:
        raise UserError(
            f"{where} has clip format {meta['format']}; this software reads up to format {FORMAT}"
        )
    check_border(meta.get("border", BORDER), where)
    try:
        crops = [_read_crop(fields) for fields in meta["crops"]]
        clip = Clip(
            where.rsplit(":", 1)[-1],
            meta["source"],
            meta["licence"],
            meta["subject"],
            meta["size"],
            crops,
            split=meta.get("split"),
            track=meta.get("track"),
        )
        overlap = meta.get("overlap")
    except KeyError as error:
        raise ValueError(f"the json member lacks {error}") from None
    except (TypeError, AttributeError):
        raise ValueError("'crops' in the json member is not a list of objects") from None
    if overlap is not None:
        shape = len(crops), len(crops)
        clip.overlap = _array([overlap], shape, "overlap")[0].astype(np.float32)
        if np.isnan(clip.overlap).sum() != sum(row.count(None) for row in overlap):
            raise ValueError("overlap spans nan to nan; what is not known is null")
    _check_fields(clip, 2 if meta["format"] == 1 else 1)
    return clip


def _read_crop(fields: dict) -> Crop:
    """A Crop of its JSON object; KeyError, TypeError or AttributeError where it is none."""
    return Crop(
        fields["camera"],
        fields["time_s"],
        fields["kind"],
        fields.get("K"),
        fields.get("Rt"),
        fields.get("box"),
        fields.get("image"),
        fields.get("look"),
    )


def _check_fields(clip: Clip, least: int) -> None:
    """ValueError for values that would stop whoever draws from the clip.

    Cheap, as it runs at every reading.

    Args:
        least: crops that a clip of its format has.
    """
    if not isinstance(clip.size, int) or clip.size < 1:
        raise ValueError(f"size is {clip.size}, not a whole number of pixels")
    if len(clip.crops) < least:
        raise ValueError(f"{len(clip.crops)} crops; a clip has at least {least}")
    names = [clip.source, clip.licence, clip.subject, *(crop.camera for crop in clip.crops)]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"source, licence, subject and cameras are not all text: {names}")
    for name in (clip.split, clip.track, *(crop.image for crop in clip.crops)):
        if name is not None and not isinstance(name, str):
            raise ValueError(f"split, track or image is {name}, not text or absent")
    for i, crop in enumerate(clip.crops):
        if crop.kind not in KINDS:
            raise ValueError(f"crop {i} has kind '{crop.kind}', none of {', '.join(KINDS)}")
        if not isinstance(crop.time_s, (int, float)) or not math.isfinite(crop.time_s):
            raise ValueError(f"crop {i} has time_s {crop.time_s}, not a number of seconds")
        if not is_look(crop.look):
            raise ValueError(f"crop {i} has look {crop.look}, not 16 hex digits")
        if not _camera_is_whole(crop):
            _explain_cameras(clip)
            raise ValueError(f"crop {i} has K, Rt or box that is not made of numbers")
    if clip.overlap is not None:
        known = clip.overlap[~np.isnan(clip.overlap)]
        if len(known) and not (known.min() >= 0 and known.max() <= 1):
            raise ValueError(
                f"overlap spans {known.min():g} to {known.max():g}; shares lie in 0 to 1"
            )


def _camera_is_whole(crop: Crop) -> bool:
    """Whether K, Rt and box are what Crop says, or None.

    Plain arithmetic: numpy takes ten times as long for one crop.
    """
    try:
        if crop.K is not None:
            (fx, skew, cx), (low, fy, cy), (p, q, r) = crop.K
            if not (
                fx > 0 and fy > 0 and math.isfinite(fx + skew + cx + low + fy + cy + p + q + r)
            ):
                return False
        if crop.Rt is not None:
            (a, b, c, x), (d, e, f, y), (g, h, i, z) = crop.Rt
            # A determinant of 1 leaves no room for what is not finite.
            if not (
                abs(a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g) - 1) < 1e-3
                and math.isfinite(x + y + z)
            ):
                return False
        if crop.box is not None:
            x0, y0, x1, y1 = crop.box
            return math.isfinite(x0 + y0 + x1 + y1)
    except (TypeError, ValueError):
        return False
    return True


def _explain_cameras(clip: Clip) -> None:
    """ValueError that says what is wrong with the cameras of a clip."""
    for name, shape in (("K", (3, 3)), ("Rt", (3, 4)), ("box", (4,))):
        values = [getattr(crop, name) for crop in clip.crops]
        known = [value for value in values if value is not None]
        if not known:
            continue
        numbers = _array(known, shape, name)
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        if name == "K" and not (numbers[:, [0, 1], [0, 1]] > 0).all():
            raise ValueError(
                "K has a focal length that is not above 0; a camera that is not calibrated has K "
                "null"
            )
        if name == "Rt" and not (np.abs(np.linalg.det(numbers[:, :, :3]) - 1) < 1e-3).all():
            raise ValueError(
                "Rt is not a rotation and translation; a camera that is not calibrated has Rt null"
            )


def _array(several: object, shape: tuple[int, ...], name: str) -> np.ndarray:
    """(n, *shape) float64 of lists that must all have that shape."""
    try:
        array = np.asarray(several, np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"{name} is not numbers of shape {shape}") from None
    if array.shape[1:] != shape:
        raise ValueError(f"{name} has shape {array.shape[1:]}, not {shape}")
    return array


def decode_masks(data: bytes, count: int) -> np.ndarray:
    """(count, 64, 64) bool of a ``KEY.masks.bin`` member; ValueError if its length disagrees."""
    if len(data) != count * MASK_BYTES:
        raise ValueError(
            f"masks.bin has {len(data)} bytes, {count} crops need {count * MASK_BYTES}"
        )
    return (
        np.unpackbits(np.frombuffer(data, np.uint8))
        .reshape(count, MASK_SIDE, MASK_SIDE)
        .astype(bool)
    )


def _unknown_as_null(rows: list | None) -> list | None:
    """A matrix whose NaN are None: JSON has no NaN."""
    if rows is None:
        return None
    return [[None if math.isnan(value) else value for value in row] for row in rows]


def _rounded(values: Numbers | Matrix | None, digits: int) -> list | None:
    return None if values is None else np.round(np.asarray(values, np.float64), digits).tolist()
