"""What to cut before any image is decoded: clips as lists of (video, frame, box)."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.find.detection import Detection
from data.sources.cameras import Camera

if TYPE_CHECKING:
    from data.sources.config import PairsConfig

_SLACK_S = (
    1e-4  # frame times are fractions such as 1/30 s: equal ones may differ in the last digits
)


@dataclass
class CropPlan:
    """One crop to cut.

    Attributes:
        path, frame: the video and the number of the frame.
        name: of the camera.  time_s: on the clip's clock.
        box: (4,) square in pixels of the image, of the undistorted one where there is a camera.
        camera: its calibration, or None.
        detection: what is known of the person in the upright frame, in its pixels as the lens made
            them; None: nothing but the box.
        quarter_turns: clockwise, by which the crop is shown turned, for cameras on their side.
        others: who else is found near the person in the frame, for whose outline they are not.
    """

    path: str
    frame: int
    name: str
    time_s: float
    box: np.ndarray
    camera: Camera | None = None
    detection: Detection | None = None
    quarter_turns: int = 0
    others: list[Detection] = field(default_factory=list)


@dataclass
class ClipPlan:
    """One clip to cut.

    Attributes:
        key: in the shard.  subject: who it is.  crops: what is cut, in order.
        kind: "body", "left_hand" or "right_hand"; None: that of the command.
        track: the recording of the person, see data.format.clip.Clip: clips of one recording have
            one clock, and those that share frames are then told; None: nobody knows.
    """

    key: str
    subject: str
    crops: list[CropPlan]
    kind: str | None = None
    track: str | None = None


def share_inside(box: np.ndarray, width: int, height: int) -> float:
    """Share of a box's area that lies in the image."""
    x0, y0, x1, y1 = box
    inside = max(0.0, min(x1, width) - max(x0, 0)) * max(0.0, min(y1, height) - max(y0, 0))
    return inside / ((x1 - x0) * (y1 - y0))


def choose_instants(times: npt.ArrayLike, name: str, cfg: "PairsConfig") -> Iterator[list[int]]:
    """Yield, for one clip after the other, the positions in ``times`` of its instants.

    A clip starts every ``stride_s``; each next instant is the one nearest to a gap drawn between
    ``gap_min_s`` and ``gap_max_s``, and a clip ends early where none lies between them. The gaps
    depend on the seed, ``name`` and the clip's number alone, so a longer video begins with the same
    clips.

    Args:
        times: (n,) increasing seconds at which the person is seen.  name: of video and person.
            cfg: PairsConfig.
    """
    times = np.asarray(times, np.float64)
    purpose = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    for number in range(int((times[-1] - times[0]) / cfg.stride_s) + 1):
        start = times[0] + number * cfg.stride_s
        first = int(np.searchsorted(times, start - _SLACK_S))
        if times[first] >= start + cfg.stride_s - _SLACK_S:
            continue
        random = np.random.Generator(np.random.Philox(key=[cfg.seed, purpose], counter=number))
        chosen = [first]
        for gap in random.uniform(cfg.gap_min_s, cfg.gap_max_s, cfg.instants - 1):
            gaps = times - times[chosen[-1]]
            fits = np.flatnonzero(
                (gaps >= max(cfg.gap_min_s, 1e-9) - _SLACK_S)
                & (gaps <= cfg.gap_max_s + _SLACK_S)
                & (gaps > 0)
            )
            if not len(fits):
                break
            chosen.append(int(fits[np.argmin(np.abs(gaps[fits] - gap))]))
        yield chosen


def clip_key(*parts: str) -> str:
    """A key of letters, digits, "_" and "-" alone: WebDataset cuts at dots and slashes.

    A part that is not ASCII ends in a hash of it, as its letters may all be lost: "Jose-63091ee7".
    It is the same however the name's accents are stored (macOS takes them apart).
    """
    return "-".join(_key_part(part) for part in parts)


def _key_part(part):
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", part)
    if part.isascii():
        return plain
    composed = unicodedata.normalize("NFC", part)
    apart = unicodedata.normalize("NFKD", part)
    letters = "".join(c for c in apart if not unicodedata.combining(c))
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", letters).strip("_-")
    code = hashlib.blake2b(composed.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"{readable}-{code}" if readable else code


def digest_plans(plans: Sequence[ClipPlan], cfg: "PairsConfig") -> str:
    """16 hex digits that change with anything that changes the bytes of these clips."""
    hasher, paths = hashlib.blake2b(digest_size=8), set()
    hasher.update(f"{cfg.size} {cfg.quality} {cfg.source} {cfg.licence} {cfg.kind}".encode())
    hasher.update(f"{cfg.keypoints} {cfg.blur_faces} {cfg.find_masks}".encode())
    for plan in plans:
        hasher.update(f"{plan.key} {plan.subject} {plan.kind} {plan.track} look".encode())
        for crop in plan.crops:
            box = np.round(crop.box, 3).tolist()
            hasher.update(f"{crop.path} {crop.frame} {crop.name} {crop.time_s:.6f} {box}".encode())
            hasher.update(f"{crop.quarter_turns}".encode())
            if crop.path not in paths:
                paths.add(crop.path)
                hasher.update(f"{os.path.getsize(crop.path)}".encode())
            if crop.camera is not None:
                hasher.update(
                    crop.camera.K.tobytes()
                    + crop.camera.Rt.tobytes()
                    + crop.camera.distortion.tobytes()
                    + (b"fisheye" if crop.camera.fisheye else b"")
                )
            for found in [crop.detection, *crop.others]:
                if found is not None:
                    hasher.update(_detection_bytes(found))
    return hasher.hexdigest()


def _detection_bytes(found: Detection) -> bytes:
    """What of a detection reaches the clip, as bytes."""
    parts = [found.joint_set.encode()]
    if found.keypoints is not None:
        parts.append(np.asarray(found.keypoints, np.float32).tobytes())
    for side, hand in sorted(found.hands.items()):
        if hand.keypoints is not None:
            parts += [side.encode(), np.asarray(hand.keypoints, np.float32).tobytes()]
    if found.mask is not None:
        parts.append(np.asarray(found.mask.square, np.float32).tobytes())
        parts.append(np.packbits(found.mask.inside).tobytes())
    return b"|".join(parts)
