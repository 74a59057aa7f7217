"""What a clip is: the one definition that writers and readers share.

A clip is N >= 2 square crops of one person, seen by some cameras at some instants. In a shard (a
plain WebDataset tar) it is a run of members with one key:

    KEY.00.jpg KEY.01.jpg ...   the crops, RGB JPEG, all of one size
    KEY.json                    the fields of Clip and Crop below, "format": 1
    KEY.masks.bin               N person masks of 64 x 64 bits each, row by row, high bit first
    KEY.labels.npz              optional: exact labels; see data/people/labels.py for those of made
    people

Frames and units: metres, seconds, pixels; the camera has OpenCV axes (x right, y down, z forward);
the centre of the first pixel is at (0.5, 0.5); ``Rt`` takes world points to the camera: x_cam = R @
x_world + t.
"""

import io
import json
import math
import zipfile
import zlib
from dataclasses import dataclass, field

import numpy as np

from engine.errors import UserError

FORMAT = 1
KINDS = ("body", "left_hand", "right_hand")
MADE = "made"  # Clip.source of made people: all other images may show somebody's face
MASK_SIDE = 64
MASK_BYTES = MASK_SIDE * MASK_SIDE // 8


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
            made images.
    """

    camera: str
    time_s: float
    kind: str = "body"
    K: list | None = None
    Rt: list | None = None
    box: list | None = None


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
            or None.
        labels: {name: array}, or None.
    """

    key: str
    source: str
    licence: str
    subject: str
    size: int
    crops: list
    jpegs: list = field(default_factory=list)
    masks: np.ndarray | None = None
    overlap: np.ndarray | None = None
    labels: dict | None = None


def encode(clip):
    """A clip as ``{member suffix: bytes}``, equal bytes for equal clips.

    Raises:
        UserError: where the clip cannot be a sample (a dot in the key, counts that disagree, a
            matrix of another shape).
    """
    count = len(clip.crops)
    if not clip.key or "." in clip.key or "/" in clip.key:
        raise UserError(f"clip key '{clip.key}': a key is not empty and has no dots and no slashes")
    if count < 2 or len(clip.jpegs) != count:
        raise UserError(
            f"clip {clip.key}: {count} crops and {len(clip.jpegs)} images; a clip has at least 2 "
            f"of each"
        )
    members = {f"{i:02d}.jpg": data for i, data in enumerate(clip.jpegs)}
    if clip.masks is not None:
        if clip.masks.shape != (count, MASK_SIDE, MASK_SIDE):
            raise UserError(
                f"clip {clip.key}: masks of shape {clip.masks.shape} for {count} crops of 64 x 64"
            )
        members["masks.bin"] = np.packbits(clip.masks.reshape(count, -1), axis=1).tobytes()
    meta = {
        "format": FORMAT,
        "source": clip.source,
        "licence": clip.licence,
        "subject": clip.subject,
        "size": clip.size,
        "masks": clip.masks is not None,
        "labels": clip.labels is not None,
        "crops": [
            {
                "camera": c.camera,
                "time_s": round(float(c.time_s), 6),
                "kind": c.kind,
                "box": _rounded(c.box, 3),
                "K": _rounded(c.K, 6),
                "Rt": _rounded(c.Rt, 9),
            }
            for c in clip.crops
        ],
        "overlap": _rounded(clip.overlap, 4),
    }
    members["json"] = json.dumps(meta, separators=(",", ":")).encode()
    try:
        decode_meta(members["json"], clip.key)  # what a reader would refuse must not be written
    except ValueError as error:
        raise UserError(f"clip {clip.key}: {error}") from None
    if clip.labels is not None:
        members["labels.npz"] = _npz(clip.labels)
    return members


def decode_meta(data, where):
    """The Clip of a ``KEY.json`` member, without images, masks and labels.

    Args:
        data: bytes of the member.  where: "SHARD:KEY" for messages.
    Raises:
        ValueError: the bytes are not such a member.
        UserError: the sample was written by a newer version of this software.
    """
    meta = json.loads(data)
    if not isinstance(meta, dict) or not isinstance(meta.get("format"), int):
        raise ValueError("no 'format' in the json member")
    if meta["format"] > FORMAT:
        raise UserError(
            f"{where} has clip format {meta['format']}; this software reads up to format {FORMAT}"
        )
    try:
        crops = [
            Crop(c["camera"], c["time_s"], c["kind"], c.get("K"), c.get("Rt"), c.get("box"))
            for c in meta["crops"]
        ]
        clip = Clip(
            where.rsplit(":", 1)[-1],
            meta["source"],
            meta["licence"],
            meta["subject"],
            meta["size"],
            crops,
        )
        overlap = meta.get("overlap")
    except KeyError as error:
        raise ValueError(f"the json member lacks {error}") from None
    except (TypeError, AttributeError):
        raise ValueError("'crops' in the json member is not a list of objects") from None
    clip.overlap = (
        None
        if overlap is None
        else _array([overlap], (len(crops), len(crops)), "overlap")[0].astype(np.float32)
    )
    _check_fields(clip)
    return clip


def _check_fields(clip):
    """ValueError for values that would stop whoever draws pairs from the clip; cheap, as it runs at
    every reading."""
    if not isinstance(clip.size, int) or clip.size < 1:
        raise ValueError(f"size is {clip.size}, not a whole number of pixels")
    if len(clip.crops) < 2:
        raise ValueError(f"{len(clip.crops)} crops; a clip has at least 2")
    names = [clip.source, clip.licence, clip.subject, *(crop.camera for crop in clip.crops)]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"source, licence, subject and cameras are not all text: {names}")
    for i, crop in enumerate(clip.crops):
        if crop.kind not in KINDS:
            raise ValueError(f"crop {i} has kind '{crop.kind}', none of {', '.join(KINDS)}")
        if not isinstance(crop.time_s, (int, float)) or not math.isfinite(crop.time_s):
            raise ValueError(f"crop {i} has time_s {crop.time_s}, not a number of seconds")
        if not _camera_is_whole(crop):
            _explain_cameras(clip)
            raise ValueError(f"crop {i} has K, Rt or box that is not made of numbers")
    # A nan is in no range.
    if clip.overlap is not None and not (clip.overlap.min() >= 0 and clip.overlap.max() <= 1):
        raise ValueError(
            f"overlap spans {clip.overlap.min():g} to {clip.overlap.max():g}; shares lie in 0 to 1"
        )


def _camera_is_whole(crop):
    """Whether K, Rt and box are what Crop says, or None. Plain arithmetic: numpy takes ten times as
    long for one crop."""
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


def _explain_cameras(clip):
    """ValueError that says what is wrong with the cameras of a clip."""
    for name, shape in (("K", (3, 3)), ("Rt", (3, 4)), ("box", (4,))):
        known = [
            values for values in (getattr(crop, name) for crop in clip.crops) if values is not None
        ]
        numbers = _array(known, shape, name) if known else None
        if known and not np.isfinite(numbers).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        if known and name == "K" and not (numbers[:, [0, 1], [0, 1]] > 0).all():
            raise ValueError(
                "K has a focal length that is not above 0; a camera that is not calibrated has K "
                "null"
            )
        if (
            known
            and name == "Rt"
            and not (np.abs(np.linalg.det(numbers[:, :, :3]) - 1) < 1e-3).all()
        ):
            raise ValueError(
                "Rt is no rotation and translation; a camera that is not calibrated has Rt null"
            )


def _array(several, shape, name):
    """(n, *shape) float64 of lists that must all have that shape."""
    try:
        array = np.asarray(several, np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"{name} is not numbers of shape {shape}") from None
    if array.shape[1:] != shape:
        raise ValueError(f"{name} has shape {array.shape[1:]}, not {shape}")
    return array


def decode_masks(data, count):
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


def decode_labels(data, names=None):
    """{name: array} of a ``KEY.labels.npz`` member, of all or of some names.

    Pickled objects are refused. ValueError if it is no such archive, KeyError if a name is missing.
    """
    if data[:2] != b"PK":
        raise ValueError("labels.npz is no npz archive")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names or arrays.files}
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        RuntimeError,
    ) as error:  # RuntimeError: said to be encrypted
        raise ValueError(f"labels.npz does not load: {error}") from None


def _rounded(values, digits):
    return None if values is None else np.round(np.asarray(values, np.float64), digits).tolist()


def _npz(arrays):
    """np.savez writes today's date into the archive; a fixed one keeps equal clips byte-equal."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(arrays):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data.getvalue(), compresslevel=6)
    return out.getvalue()
