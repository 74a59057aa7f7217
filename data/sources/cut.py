"""Cuts planned clips from decoded frames: crops, outlines, 2D labels, blurred faces.

``cut_clips`` runs in a process of its own, for decoders crash. What is known of a person
(``CropPlan.detection``) is in pixels of the upright frame, as the lens made it; here it goes
through the lens and into the crop, by the same map as the pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg

from data.cropping.geometry import Square, square_of_box
from data.cropping.host import cut_square
from data.find.detection import Detection, PersonMask
from data.find.faces import open_blur
from data.find.finder import open_finder
from data.find.looks import Opener, PeopleFinder
from data.find.turning import turn_detection, turn_image
from data.format.clip import MASK_SIDE, Clip, Crop
from data.format.label_stack import stack_labels
from data.format.labels import CropLabels, Keypoints, Labels
from data.format.looks import hash_look
from data.sources.cameras import Camera
from data.sources.config import PairsConfig
from data.sources.crop_parts import cut_mask, move_keypoints, turn_camera, turned_square
from data.sources.frames import Frames, Unreadable
from data.sources.multicam.overlap import estimate_overlap
from data.sources.plan import ClipPlan, CropPlan


@dataclass(frozen=True)
class Style:
    """What all crops of a command have in common; see PairsConfig.

    Attributes:
        opener: opens what finds the outlines that the plans lack; None: they stay unknown.
    """

    size: int
    quality: int
    source: str
    licence: str
    kind: str
    keypoints: bool = True
    blur_faces: bool = False
    opener: Opener | None = None

    @classmethod
    def of(cls, cfg: PairsConfig) -> "Style":
        """The style that the keys of a command describe."""
        return cls(
            cfg.size,
            cfg.quality,
            cfg.source,
            cfg.licence,
            cfg.kind,
            cfg.keypoints,
            cfg.blur_faces,
            open_finder if cfg.find_masks else None,
        )


@dataclass
class CutCrop:
    """One crop that was cut: its JPEG, its mask or None, and its labels."""

    crop: Crop
    jpeg: bytes
    mask: np.ndarray | None
    labels: CropLabels


def cut_clips(
    task: tuple[list[ClipPlan], Mapping[str, Frames], Style],
) -> tuple[list[Clip], dict[str, str]]:
    """Decode each video once and cut what the plans ask; runs in its own process.

    Args:
        task: (clip plans, {path: Frames}, style).

    Returns:
        ([Clip], {path: reason}): a crop whose frame cannot be decoded is dropped, and its clip with
        it if one is left.
    """
    plans, videos, style = task
    parts: dict[tuple[int, int], CutCrop] = {}
    failed: dict[str, str] = {}
    blur = open_blur() if style.blur_faces else None
    finder = _open_for(plans, style)
    listed = _list_wanted(plans)
    for path, reader in videos.items():
        wanted = listed.get(path, {})
        try:
            for frame, image in reader.get(wanted):
                whole = image
                outlines: dict[tuple[bytes, ...], PersonMask | None] = {}
                if blur is not None:
                    image = blur(image, _list_bodies(plans, wanted[frame], style))
                for p, c in wanted[frame]:
                    kind = plans[p].kind or style.kind
                    crop = plans[p].crops[c]
                    if finder is not None and _lacks_outline(crop, kind):
                        crop = _find_outline(finder, whole, crop, outlines)
                    parts[p, c] = cut_crop(image, crop, kind, style)
        except Unreadable as error:
            failed[path] = str(error)
    clips = []
    for p, plan in enumerate(plans):
        have = [parts[p, c] for c in range(len(plan.crops)) if (p, c) in parts]
        if len(have) >= 2:
            clips.append(_join_clip(plan, have, style))
    return clips, failed


def _open_for(plans: list[ClipPlan], style: Style) -> PeopleFinder | None:
    """What finds outlines, where a crop lacks one and they are wanted."""
    if style.opener is None:
        return None
    for plan in plans:
        if any(_lacks_outline(crop, plan.kind or style.kind) for crop in plan.crops):
            return style.opener(True, False, False)
    return None


def _list_bodies(
    plans: list[ClipPlan], wanted: list[tuple[int, int]], style: Style
) -> list[Detection]:
    """The people that are known in a frame; a hand's box has no face at its top."""
    bodies = [plans[p].crops[c] for p, c in wanted if (plans[p].kind or style.kind) == "body"]
    return [crop.detection for crop in bodies if crop.detection is not None]


def _lacks_outline(crop: CropPlan, kind: str) -> bool:
    return kind == "body" and crop.detection is not None and crop.detection.mask is None


def _find_outline(
    finder: PeopleFinder,
    image: np.ndarray,
    crop: CropPlan,
    outlines: dict[tuple[bytes, ...], PersonMask | None],
) -> CropPlan:
    """The plan with the outline in its detection, where one is seen.

    ``outlines``: those of this frame, by the boxes of the person and of all others. Clips that
    overlap in time ask for one several times; it is found once.
    """
    assert crop.detection is not None
    boxes = [one.box for one in (crop.detection, *crop.others)]
    place = tuple(np.asarray(box, np.float64).tobytes() for box in boxes)
    if place not in outlines:
        outlines[place] = _outline_of(finder, image, crop.detection, crop)
    return replace(crop, detection=replace(crop.detection, mask=outlines[place]))


def _outline_of(
    finder: PeopleFinder, image: np.ndarray, person: Detection, crop: CropPlan
) -> PersonMask | None:
    """A person's outline in an image; None where none is seen."""
    turns = crop.quarter_turns
    if not turns:
        return finder.find_mask(image, person, crop.others)
    # The networks know upright people: the camera lay on its side.
    height, width = image.shape[:2]
    shown = turn_image(image, turns)
    upright = turn_detection(person, turns, width, height)
    others = [turn_detection(one, turns, width, height) for one in crop.others]
    found = replace(upright, mask=finder.find_mask(shown, upright, others))
    return turn_detection(found, -turns % 4, shown.shape[1], shown.shape[0]).mask


def _list_wanted(plans: list[ClipPlan]) -> dict[str, dict[int, list[tuple[int, int]]]]:
    """{path: {frame: [(number of the plan, number of its crop)]}} of all videos."""
    wanted: dict[str, dict[int, list[tuple[int, int]]]] = {}
    for p, plan in enumerate(plans):
        for c, crop in enumerate(plan.crops):
            wanted.setdefault(crop.path, {}).setdefault(crop.frame, []).append((p, c))
    return wanted


def cut_crop(image: np.ndarray, plan: CropPlan, kind: str, style: Style) -> CutCrop:
    """One crop of an upright frame with its mask and labels.

    Args:
        image: (H, W, 3) uint8.
        kind: "body", "left_hand" or "right_hand"; a hand's labels are the hand's keypoints.
    """
    square = turned_square(square_of_box(plan.box), plan.quarter_turns)
    pixels = cut_square(image, square, style.size, plan.camera)
    jpeg = simplejpeg.encode_jpeg(
        pixels, quality=style.quality, colorspace="RGB", colorsubsampling="420"
    )
    K = Rt = None
    if plan.camera is not None:
        K, Rt = turn_camera(plan.camera.K, plan.camera.Rt, square, plan.quarter_turns, style.size)
    crop = Crop(
        plan.name,
        plan.time_s,
        kind,
        None if K is None else K.tolist(),
        None if Rt is None else Rt.tolist(),
        plan.box.tolist(),
        look=hash_look(pixels),
    )
    mask = None
    labels = CropLabels()
    found = plan.detection
    if found is not None:
        if found.mask is not None:
            mask = cut_mask(found.mask, square, MASK_SIDE, plan.camera)
        if style.keypoints:
            labels.keypoints = _keypoints(plan, kind, square, style.size, plan.camera)
    return CutCrop(crop, jpeg, mask, labels)


def _keypoints(
    plan: CropPlan, kind: str, square: Square, size: int, camera: Camera | None
) -> Keypoints | None:
    """What was found of a body's or a hand's keypoints, in pixels of the crop."""
    assert plan.detection is not None
    rows, joint_set = plan.detection.keypoints, plan.detection.joint_set
    if kind != "body":
        hand = plan.detection.hands.get(kind.removesuffix("_hand"))
        rows, joint_set = (None if hand is None else hand.keypoints), "hand21"
    if rows is None or not (rows[:, 2] > 0).any():
        return None
    confidence = np.clip(rows[:, 2], 0, 1).astype(np.float32)
    points = Keypoints(joint_set, rows[:, :2], confidence)
    return move_keypoints(points, square, size, camera)


def _join_clip(plan: ClipPlan, parts: list[CutCrop], style: Style) -> Clip:
    """The clip of several crops."""
    masks = None
    if any(part.mask is not None for part in parts):
        # Where nobody knows, every cell counts as the person.
        whole = np.ones((MASK_SIDE, MASK_SIDE), bool)
        masks = np.stack([whole if part.mask is None else part.mask for part in parts])
    overlap = None
    if masks is not None:
        overlap = _overlap(parts, style.size)
    labels: Labels | None = None
    if any(part.labels.keypoints is not None for part in parts):
        labels = stack_labels([part.labels for part in parts])
    return Clip(
        plan.key,
        style.source,
        style.licence,
        plan.subject,
        style.size,
        [part.crop for part in parts],
        [part.jpeg for part in parts],
        masks,
        overlap,
        labels,
        track=plan.track,
    )


def _overlap(parts: list[CutCrop], size: int) -> np.ndarray | None:
    """(N, N) overlap by the masks of calibrated crops, or None; see estimate_overlap."""
    able, masks, Ks, Rts = [], [], [], []
    for n, part in enumerate(parts):
        if part.mask is not None and part.crop.K is not None and part.crop.kind == "body":
            able.append(n)
            masks.append(part.mask)
            Ks.append(np.asarray(part.crop.K))
            Rts.append(np.asarray(part.crop.Rt))
    if not able:
        return None
    found = estimate_overlap(np.stack(masks), Ks, Rts, [parts[n].crop.time_s for n in able], size)
    if found is None:
        return None
    out = np.full((len(parts), len(parts)), np.nan)
    out[np.ix_(able, able)] = found
    np.fill_diagonal(out, 1.0)
    return out
