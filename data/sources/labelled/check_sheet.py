"""The image that ``data labels NAME --check`` draws: people with their labels."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.format.joint_sets import FINGERS, JOINT_SETS
from data.format.labels import SEEN, Keypoints
from data.sources.label_cut import CutPerson, image_name
from data.tools.contact_sheet import INK, KEYPOINT, OUTLINE, PALE, outlined

if TYPE_CHECKING:
    from data.sources.labelled.check import Sample

TILE, GAP, CAPTION, HEADER, COLUMNS = 300, 8, 44, 44, 5
JOINT, MESH = (255, 120, 0), (90, 170, 255)
BODY_LINES = (
    "pelvis spine_1 spine_2 spine_3 neck head",
    "pelvis spine chest neck head",
    "pelvis torso neck nose head_top",
    "mid_hip neck nose",
    "nose SIDE_eye SIDE_ear",
    "neck SIDE_shoulder",
    "SIDE_shoulder SIDE_elbow SIDE_wrist",
    "SIDE_shoulder SIDE_hip",
    "pelvis SIDE_hip",
    "SIDE_hip SIDE_knee SIDE_ankle",
    "SIDE_ankle SIDE_heel",
    "SIDE_ankle SIDE_big_toe",
    "SIDE_ankle SIDE_toes",
)


def draw_sheet(name: str, samples: Sequence["Sample"]) -> Image.Image:
    """Return the image: a tile for each sample, and what its colours mean."""
    rows = -(-len(samples) // COLUMNS)
    width = COLUMNS * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, HEADER + rows * (TILE + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    left = GAP
    for words, colour in (
        (f"{name}:", INK),
        ("2D keypoints (hollow: hidden)", KEYPOINT),
        ("3D joints through the camera", JOINT),
        ("outline", OUTLINE),
        ("mesh", MESH),
    ):
        draw.text((left, 12), words, colour, ImageFont.load_default(18))
        left += int(ImageFont.load_default(18).getlength(words)) + 24
    for number, sample in enumerate(samples):
        row, column = divmod(number, COLUMNS)
        at = GAP + column * (TILE + GAP), HEADER + row * (TILE + CAPTION)
        if sample.part is not None:
            sheet.paste(_draw_person(sample.part, sample.projected), at)
        _caption(draw, at, sample)
    return sheet


def _caption(draw: ImageDraw.ImageDraw, at: tuple[int, int], sample: "Sample") -> None:
    words = [sample.image.kind.replace("_", " ")]
    if sample.error_px is not None:
        words.append(f"3D to 2D {sample.error_px:.1f} px")
    if sample.span_m is not None:
        words.append(f"span {sample.span_m:.2f} m")
    second = sample.reason or "  ·  ".join(words)
    font = ImageFont.load_default(13)
    for line, text, colour in ((0, image_name(sample.image), PALE), (1, second, INK)):
        while font.getlength(text) > TILE:
            text = text[:-2] + "…"
        draw.text((at[0], at[1] + TILE + 4 + 17 * line), text, colour, font)


def _draw_person(part: CutPerson, projected: np.ndarray | None) -> Image.Image:
    image = Image.open(io.BytesIO(part.jpeg)).convert("RGB")
    if part.mask is not None:
        image = outlined(image, part.mask)
    draw = ImageDraw.Draw(image)
    labels = part.labels
    if labels.vertices is not None:
        _draw_mesh(draw, part, labels.vertices)
    if labels.keypoints is not None:
        _draw_keypoints(draw, labels.keypoints)
    if labels.joints is not None and projected is not None:
        labelled = np.asarray(labels.joints.confidence) > 0
        seen = labelled & np.isfinite(projected).all(1)
        _draw_lines(draw, labels.joints.joint_set, projected, seen, JOINT)
        for x, y in projected[seen].clip(-1e4, 1e4).tolist():
            draw.line([x - 3, y - 3, x + 3, y + 3], JOINT, 2)
            draw.line([x - 3, y + 3, x + 3, y - 3], JOINT, 2)
    return image


def _draw_keypoints(draw: ImageDraw.ImageDraw, keypoints: Keypoints) -> None:
    there = np.asarray(keypoints.confidence) > 0
    points = np.asarray(keypoints.points, np.float64).clip(-1e4, 1e4)
    _draw_lines(draw, keypoints.joint_set, points, there, KEYPOINT)
    for joint in np.flatnonzero(there).tolist():
        x, y = points[joint].tolist()
        hidden = keypoints.visible is not None and keypoints.visible[joint] != SEEN
        draw.ellipse(
            [x - 3, y - 3, x + 3, y + 3], fill=None if hidden else KEYPOINT, outline=KEYPOINT
        )


def _draw_mesh(draw: ImageDraw.ImageDraw, part: CutPerson, vertices: np.ndarray) -> None:
    if part.crop.K is None or part.crop.Rt is None or part.labels.frame == "root":
        return
    Rt = np.asarray(part.crop.Rt, np.float64)
    local = np.asarray(vertices, np.float64) @ Rt[:, :3].T + Rt[:, 3]
    local = local[local[:, 2] > 1e-6]
    pixels = (local / local[:, 2:] @ np.asarray(part.crop.K, np.float64).T)[:, :2]
    for x, y in pixels.clip(-1e4, 1e4).tolist():
        draw.point([x, y], MESH)


def _draw_lines(
    draw: ImageDraw.ImageDraw,
    joint_set: str,
    points: np.ndarray,
    there: np.ndarray,
    colour: tuple[int, int, int],
) -> None:
    """Bones between joints that are there: in a wrong order they are a tangle."""
    if joint_set not in JOINT_SETS:
        return
    places = {name: place for place, name in enumerate(JOINT_SETS[joint_set].joints)}
    for one, other in _bones(tuple(places)):
        a, b = places[one], places[other]
        if there[a] and there[b]:
            ends = [*points[a].clip(-1e4, 1e4).tolist(), *points[b].clip(-1e4, 1e4).tolist()]
            draw.line(ends, colour, 1)


def _bones(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Pairs of neighbours, of a body and of hands, with the joints that a set has."""
    chains: list[tuple[str, ...]] = []
    for line in BODY_LINES:
        for side in ("left", "right") if "SIDE" in line else ("",):
            chains.append(tuple(line.replace("SIDE", side).split()))
    for prefix in ("", "left_hand_", "right_hand_", "left_", "right_"):
        for finger in FINGERS:
            parts = ("1", "2", "3", "tip")
            names_of = [f"{prefix}{finger}_{part}" for part in parts]
            chains.append((f"{prefix}wrist", *names_of))
    bones: list[tuple[str, str]] = []
    for chain in chains:
        there = [name for name in chain if name in names]
        bones += list(zip(there[:-1], there[1:], strict=True))
    return bones
