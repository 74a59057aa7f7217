"""What a frame is: a whole image and everybody in it. Writers and readers share this definition.

In a shard (a plain WebDataset tar) a frame is a run of members with one key, and clips
(data/format/clip.py) do not lie in the same shard:

    KEY.jpg         the image, RGB JPEG, height x width as the JSON says
    KEY.ids.png     optional: (height, width) uint8, who is seen at a pixel: 0 nobody, i + 1 person
                    i; a thing before a person is nobody
    KEY.ignore.png  optional, of format 2: one bit a pixel, 1 where people may be of whom the frame
                    says nothing (a crowd, somebody whom nobody labelled); who is found there is no
                    mistake
    KEY.json        the fields of Frame and FramePerson below, and "frame_format": 1, or 2 of a
                    frame that has what only format 2 has
    KEY.labels.npz  optional: labels in the schema of data/format/labels.py, a row a *person* where
                    that schema has a crop and an instant: N = T = P people, in the order of
                    "people". 2D points are pixels of the frame; 3D ones are metres in the world,
                    which Rt takes to the camera

Frames of one scene share its name; who has the same track in two of them is the same person.

Frames and units as in a clip: metres, seconds, pixels; the camera has OpenCV axes; the centre of
the first pixel is at (0.5, 0.5); x_cam = R @ x_world + t.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.format.label_files import save_arrays
from data.format.labels import Labels, pack_labels, read_arrays
from engine.errors import UserError

FRAME_FORMAT = 2  # that is read; frames that need no more are written as format 1
MOST_PEOPLE = 254  # that the ids of pixels tell apart
# Width over height of the shapes that frames are sorted into; a frame is of the nearest.
ASPECTS = {"9:16": 9 / 16, "2:3": 2 / 3, "3:4": 3 / 4, "1:1": 1.0} | {
    "4:3": 4 / 3,
    "3:2": 3 / 2,
    "16:9": 16 / 9,
}
Matrix = Sequence[Sequence[float]] | np.ndarray


@dataclass
class FramePerson:
    """Somebody in a frame.

    Attributes:
        subject: who it is, as in a clip.
        track: name of the person within the scene.
        box: [x0, y0, x1, y1] pixels around the whole body, hidden parts and those beyond the
            frame's border too, or None.
        shown: share of what the camera would see of the body, if nothing were before it and the
            frame had no border, that the frame shows; 0 to 1, or None.
    """

    subject: str
    track: str
    box: Sequence[float] | np.ndarray | None = None
    shown: float | None = None


@dataclass
class Frame:
    """A frame in memory.

    Attributes:
        key: name in the shard; no dots (WebDataset ends a key at the first dot).
        source, licence: as of a Clip.
        width, height: pixels.
        scene: what its frames have in common; camera, time_s: as of a Crop.
        people: P entries.
        K: (3, 3) intrinsics in the frame's pixels, Rt: (3, 4) world to camera; each may be None.
        jpeg: the encoded image.
        ids: (height, width) uint8, see the module, or None.
        labels: Labels of P rows, or {name: array}, or None.
        split, image: as of a Clip and a Crop.
        ignore: (height, width) bool, true where people may be of whom nothing is said, or None.
    """

    key: str
    source: str
    licence: str
    width: int
    height: int
    scene: str
    people: list[FramePerson]
    camera: str = "0"
    time_s: float = 0.0
    K: Matrix | None = None
    Rt: Matrix | None = None
    jpeg: bytes = b""
    ids: np.ndarray | None = None
    labels: Labels | dict[str, np.ndarray] | None = field(default=None, repr=False)
    split: str | None = None
    image: str | None = None
    ignore: np.ndarray | None = None


def find_aspect(width: int, height: int) -> int:
    """Return which of ASPECTS an image is nearest to, by the ratio of ratios."""
    ratio = math.log(width / height)
    return int(np.argmin([abs(math.log(value) - ratio) for value in ASPECTS.values()]))


def is_frame(data: bytes) -> bool:
    """Whether a ``KEY.json`` member is that of a frame; a clip's begins otherwise."""
    return data.startswith(b'{"frame_format"')


def encode_frame(frame: Frame) -> dict[str, bytes]:
    """A frame as ``{member suffix: bytes}``, equal bytes for equal frames.

    Raises:
        UserError: the frame cannot be a sample (a dot in the key, ids of another shape, labels
            that do not fit its people).
    """
    if not frame.key or "." in frame.key or "/" in frame.key:
        raise UserError(
            f"frame key '{frame.key}': a key is not empty and has no dots and no slashes"
        )
    members = {"jpg": frame.jpeg}
    if frame.ids is not None:
        members["ids.png"] = _encode_png(frame, "ids", np.asarray(frame.ids, np.uint8))
    if frame.ignore is not None:
        members["ignore.png"] = _encode_png(frame, "ignore", np.asarray(frame.ignore, bool))
    members["json"] = json.dumps(_describe(frame), separators=(",", ":")).encode()
    try:
        decode_frame(members["json"], frame.key)  # what a reader would refuse is not written
        if frame.labels is not None:
            members["labels.npz"] = save_arrays(_label_arrays(frame.labels, len(frame.people)))
    except ValueError as error:
        raise UserError(f"frame {frame.key}: {error}") from None
    return members


def _encode_png(frame: Frame, name: str, pixels: np.ndarray) -> bytes:
    if pixels.shape != (frame.height, frame.width):
        raise UserError(
            f"frame {frame.key}: {name} of shape {pixels.shape} for {frame.width} x "
            f"{frame.height} pixels"
        )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=6)
    return out.getvalue()


def _label_arrays(labels: Labels | dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """{name: array} of labels that fit so many people; ValueError where they do not."""
    arrays = pack_labels(labels) if isinstance(labels, Labels) else labels
    if len(read_arrays(arrays, count)) != count:
        raise ValueError(f"labels are not of {count} people")
    return arrays


def _describe(frame: Frame) -> dict[str, object]:
    meta: dict[str, object] = {
        "frame_format": FRAME_FORMAT if _needs_newest(frame) else 1,
        "source": frame.source,
        "licence": frame.licence,
        "width": frame.width,
        "height": frame.height,
        "scene": frame.scene,
        "camera": frame.camera,
        "time_s": round(float(frame.time_s), 6),
        "K": _rounded(frame.K, 6),
        "Rt": _rounded(frame.Rt, 9),
        "ids": frame.ids is not None,
        "labels": frame.labels is not None,
        "people": [
            {
                "subject": person.subject,
                "track": person.track,
                "box": _rounded(person.box, 2),
                "shown": None if person.shown is None else round(float(person.shown), 4),
            }
            for person in frame.people
        ],
    }
    for name in ("split", "image"):
        if getattr(frame, name) is not None:
            meta[name] = getattr(frame, name)
    if frame.ignore is not None:
        meta["ignore"] = True
    return meta


def _needs_newest(frame: Frame) -> bool:
    """Whether a frame has what format 1 has not: regions to ignore, bodies of several variants."""
    labels = frame.labels
    body = labels.body if isinstance(labels, Labels) else None
    return frame.ignore is not None or (body is not None and bool(body.variants))


def _rounded(values: Sequence[float] | Matrix | None, digits: int) -> list | None:
    return None if values is None else np.round(np.asarray(values, np.float64), digits).tolist()


def decode_frame(data: bytes, where: str) -> Frame:
    """The Frame of a ``KEY.json`` member, without image, ids and labels.

    Args:
        data: bytes of the member.  where: "SHARD:KEY" for messages.
    Raises:
        ValueError: the bytes are not such a member.
        UserError: the sample was written by a newer version of this software.
    """
    meta = json.loads(data)
    if not isinstance(meta, dict) or not isinstance(meta.get("frame_format"), int):
        raise ValueError("no 'frame_format' in the json member: it is no whole frame")
    if meta["frame_format"] > FRAME_FORMAT:
        raise UserError(
            f"{where} has frame format {meta['frame_format']}; this software reads up to format "
            f"{FRAME_FORMAT}"
        )
    try:
        people = [
            FramePerson(item["subject"], item["track"], item.get("box"), item.get("shown"))
            for item in meta["people"]
        ]
        frame = Frame(
            where.rsplit(":", 1)[-1],
            meta["source"],
            meta["licence"],
            meta["width"],
            meta["height"],
            meta["scene"],
            people,
            meta["camera"],
            meta["time_s"],
            meta.get("K"),
            meta.get("Rt"),
            split=meta.get("split"),
            image=meta.get("image"),
        )
    except KeyError as error:
        raise ValueError(f"the json member lacks {error}") from None
    except (TypeError, AttributeError):
        raise ValueError("'people' in the json member is not a list of objects") from None
    _check(frame)
    return frame


def _check(frame: Frame) -> None:
    """ValueError for values that would stop whoever reads the frame."""
    for name in ("width", "height"):
        value = getattr(frame, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value}, not a whole number of pixels")
    names = [frame.source, frame.licence, frame.scene, frame.camera]
    names += [name for person in frame.people for name in (person.subject, person.track)]
    names += [name for name in (frame.split, frame.image) if name is not None]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(
                f"source, scene, camera, subjects and the like are not all text: {name}"
            )
    if not isinstance(frame.time_s, (int, float)) or not math.isfinite(frame.time_s):
        raise ValueError(f"time_s is {frame.time_s}, not a number of seconds")
    if len(frame.people) > MOST_PEOPLE:
        raise ValueError(f"{len(frame.people)} people; a frame has at most {MOST_PEOPLE}")
    tracks = [person.track for person in frame.people]
    if len(set(tracks)) < len(tracks):
        raise ValueError(f"two people of the frame have one track: {', '.join(sorted(tracks))}")
    for i, person in enumerate(frame.people):
        if person.box is not None:
            _numbers(person.box, (4,), f"box of person {i}")
        if person.shown is not None and not 0 <= _numbers(person.shown, (), "shown") <= 1:
            raise ValueError(f"person {i} has shown {person.shown}; shares lie in 0 to 1")
    if frame.K is not None:
        K = _numbers(frame.K, (3, 3), "K")
        if not (K[[0, 1], [0, 1]] > 0).all():
            raise ValueError("K has a focal length that is not above 0")
    if frame.Rt is not None:
        Rt = _numbers(frame.Rt, (3, 4), "Rt")
        if abs(np.linalg.det(Rt[:, :3]) - 1) > 1e-3:
            raise ValueError("Rt is not a rotation and translation")


def _numbers(values: object, shape: tuple[int, ...], name: str) -> np.ndarray:
    """A float64 array of finite numbers of that shape; ValueError where it is none."""
    try:
        array = np.asarray(values, np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"{name} is not numbers of shape {shape}") from None
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite numbers of shape {shape}")
    return array


def decode_ids(data: bytes, frame: Frame) -> np.ndarray:
    """(height, width) uint8 of a ``KEY.ids.png`` member.

    Raises:
        ValueError: it is no PNG of one channel, of another size, or names people who are not there.
    """
    ids = _decode_png(data, frame, "ids.png", np.dtype(np.uint8))
    if ids.max(initial=0) > len(frame.people):
        raise ValueError(f"ids.png has person {ids.max() - 1} of {len(frame.people)}")
    return ids


def decode_ignore(data: bytes, frame: Frame) -> np.ndarray:
    """(height, width) bool of a ``KEY.ignore.png`` member.

    Raises:
        ValueError: it is no PNG of one bit a pixel, or of another size.
    """
    return _decode_png(data, frame, "ignore.png", np.dtype(bool))


def _decode_png(data: bytes, frame: Frame, name: str, kind: np.dtype) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = np.array(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{name} does not decode: {error}") from None
    if pixels.shape != (frame.height, frame.width) or pixels.dtype != kind:
        raise ValueError(
            f"{name} is {pixels.shape} of {pixels.dtype}, the json says {frame.height} x "
            f"{frame.width} of {kind}"
        )
    return pixels
