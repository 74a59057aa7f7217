"""Meshes from one camera of a real take, judged by the person's outline in the others.

    python -m studies real RUN ... videos=DIR calibration=FILE track=FILE out=DIR [every=1]
    [box=outline] [config=FILE]

A mesh is predicted from one camera's image, placed in the world by that camera's pose, and seen
by every camera; what counts is the intersection of its silhouette with the outline
(studies/silhouettes.py) over their union, in percent. Nobody has the truth in 3D here, so this
asks less than an error in millimetres: a mesh that faces the wrong way may still do well.

Placed   it stands where the network says. One image hardly tells depth, and a metre off is a miss
from the side. Moved    its root moved along the ray through it to the depth of the person's
vertical axis in ``track``. Scaled   moved, and made larger or smaller by as much, so that the
predicting camera sees the same: pose and shape alone.

"mean" rows are the same for the mean pose, shape and translation of the people the run learnt from,
which no image changes; "standing" is that mean body, upright at the track, rotated as suits that
frame best: what knowing the translation alone would give. The predicting camera's crop:
``box=outline`` is the tight box of the outline there with the run's margin, as the crops of
synthetic humans and a detector's boxes are; ``box=square`` is what ``python -m data pairs`` cuts,
around a cylinder below the track.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from data.cropping.geometry import crop_camera_of, square_around
from engine.config.parser import key, parse_keys
from engine.errors import UserError, explain, failure_of
from engine.geometry import axis_angle_to_matrix, project
from engine.logging import progress
from engine.logging.console import get_logger
from finetune.heads.base import pose_body
from finetune.inference.predictor import Predictor
from finetune.people import make_people
from finetune.viz.raster import shared_raster
from studies.silhouettes import SIZE, Take, View, prepare

log = get_logger(__name__)

USAGE = (
    "python -m studies real RUN ... videos=DIR calibration=FILE track=FILE out=DIR [key=value ...]"
)
BOXES = ("outline", "square")
ROWS = ("placed", "moved", "scaled", "mean placed", "mean moved", "mean scaled")
HEADINGS = 12
VOXEL_M = 0.02
REACH_M = 1.1  # half the side of the space that a hull is cut out of
ORANGE, GREEN, RED = (255, 140, 0), (0, 255, 0), (255, 0, 0)


@dataclass
class RealConfig:
    """A real take, and where what it says of some runs is written."""

    videos: str = key("", "folder of the take's videos")
    calibration: str = key("", "its calibration file (Qualisys)")
    track: str = key("", "where the person is in it (docs/real_clips.md)")
    out: str = key("", "folder for figures and images")
    every: int = key(1, "take every n-th frame", low=1)
    box: str = key("outline", "how the predicting camera's crop is cut", choices=BOXES)
    config: str = key("configs/data/multicam_qualisys.yaml", "config of python -m data pairs")

    def check(self) -> None:
        """Raise UserError where a key is missing."""
        for name in ("videos", "calibration", "track", "out"):
            if not getattr(self, name):
                raise UserError(f"{name}= must be given: {USAGE}")


def main(argv: list[str]) -> int:
    """Print and write the figures; returns the exit code."""
    options, runs = parse_keys(RealConfig, argv, "studies real")
    names = [name_of(folder) for folder in runs]
    if len(set(names)) < len(names):
        raise UserError(
            f"two runs are named {max(names, key=names.count)}: their results would overwrite each "
            f"other"
        )
    for folder in runs:
        Predictor(
            folder, "cpu", "RUN"
        )  # what is wrong with the last run is reported before the take is read
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failure_of(error, f"out={out}: the folder cannot be made: {explain(error)}") from None
    take = prepare(
        options.videos, options.calibration, options.track, options.config, options.every
    )
    log.info(describe(take))
    save(outline_sheet(take), out / "outlines.png")
    for folder, name in zip(runs, names, strict=True):
        found = measure(folder, take, options.box)
        write(found, out / f"{name}.json")
        save(sheet(folder, take, options.box), out / f"{name}.png")
        print(table(found))
    return 0


def measure(folder: str, take: Take, box: str = "outline") -> dict[str, Any]:
    """Return how well a run's meshes fit the outlines of a take.

    Args:
        folder: a fine-tuning run on bodies, or one of its checkpoints.  take:
            studies.silhouettes.Take with outlines.
        box: one of BOXES.
    Returns:
        {"run", "box", "frames": [n numbers], "cameras": [names],
         "rows": {row of ROWS: (from, to, n) float64 IoU in 0 to 1, NaN where the outline seen is
         not usable}, "standing": (to, n) likewise}
    Raises:
        UserError: a run on hands, or none.
    """
    predictor = _predictor(folder, box)
    count, views = len(take.frames), take.views
    rows = {row: np.full((len(views), len(views), count), np.nan) for row in ROWS}
    with progress.bar(len(views) * count, "frame", description=f"{name_of(folder)}") as bar:
        for source, view in enumerate(views):
            for i in range(count):
                found = _recover(predictor, take, source, i, box)
                for row, vertices in _placements(found, view, take, i).items():
                    rows[row][source, :, i] = _overlaps(vertices, found[0].faces, take, i)
                bar.update(1)
    return {
        "run": str(folder),
        "box": box,
        "frames": list(take.frames),
        "cameras": [v.name for v in views],
        "rows": rows,
        "standing": _standing(predictor, take),
    }


def others(values: np.ndarray) -> np.ndarray:
    """Return the (n,) mean IoU (from, to, n) between different cameras, NaN where none is."""
    apart = values[~np.eye(len(values), dtype=bool)]
    known = np.isfinite(apart)
    return np.where(
        known.any(0), np.where(known, apart, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan
    )


def check_box(box: str) -> None:
    """Raise UserError where a box is none of BOXES."""
    if box not in BOXES:
        raise UserError(f"box={box} is none of {', '.join(BOXES)}")


def name_of(folder: str) -> str:
    """Return a file's name for a run: its last two folders."""
    return "_".join(Path(os.path.abspath(folder)).parts[-2:])


def _predictor(folder, box):
    check_box(box)
    predictor = Predictor(folder, "auto", "RUN")
    if predictor.body.kind != "body":
        raise UserError(f"RUN={folder} recovers hands; the outlines are of whole bodies")
    return predictor


def _recover(predictor, take, source, i, box):
    """Return the Person that a run sees in one image, and its mean Person, in the camera's axes."""
    view, margin, size = (
        take.views[source],
        predictor.config.margin,
        predictor.config.model.size,
    )
    if box == "outline" and take.masks[source, i].any():
        y, x = np.nonzero(take.masks[source, i])
        tight = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float64)
    else:  # the square less the margin that the predictor adds to it
        middle, half = (
            (view.squares[i, :2] + view.squares[i, 2:]) / 2,
            (view.squares[i, 2:] - view.squares[i, :2]) / 2 / margin,
        )
        tight = np.concatenate([middle - half, middle + half])
    person = predictor(view.images[i], tight[None], view.K)[0]
    K = (
        torch.from_numpy(crop_camera_of(square_around(tight, margin, size), view.K, size)[None])
        .float()
        .to(predictor.device)
    )
    body = predictor.body
    with torch.no_grad():
        mean = pose_body(body, predictor.model.place_means(K, size))
        flip = torch.zeros(1, dtype=torch.bool, device=predictor.device)
        whole = torch.from_numpy(view.K[None]).float().to(predictor.device)
        return person, make_people(mean, flip, body, whole, tight[None], ["body"])[0]


def _placements(found, view, take, i):
    """{row: (V, 3) world vertices} of (predict_power_law, mean) Persons in a view's camera."""
    out = {}
    for prefix, person in zip(("", "mean "), found, strict=True):
        vertices, root = person.vertices.astype(np.float64), person.translation.astype(np.float64)
        factor = depth_factor(view.Rt, root, take.track[i], take.up)
        for row, moved in (
            ("placed", vertices),
            ("moved", vertices + (factor - 1) * root),
            ("scaled", vertices * factor),
        ):
            out[prefix + row] = to_world(moved, view.Rt)
    return out


def depth_factor(Rt: np.ndarray, root: np.ndarray, point: np.ndarray, up: np.ndarray) -> float:
    """Return the factor of a root (3,) that brings it nearest a vertical axis.

    The root is in the camera's frame, the axis goes through a point.

    Args:
        Rt: (3, 4).  point: (3,) world.  up: (3,) unit, world.
    """
    ray, across = Rt[:, :3].T @ root, np.eye(3) - np.outer(up, up)
    ray, offset = across @ ray, across @ (point + Rt[:, :3].T @ Rt[:, 3])
    return max(
        float(ray @ offset / max(ray @ ray, 1e-9)), 0.05
    )  # an axis behind the camera: as near as can be drawn


def to_world(points: np.ndarray, Rt: np.ndarray) -> np.ndarray:
    """Return (..., 3) world points of points in a camera's frame."""
    return (points - Rt[:, 3]) @ Rt[:, :3]


def _overlaps(vertices, faces, take, i):
    """(to,) IoU of a mesh in the world with each camera's outline, NaN where that is not usable."""
    seen = silhouettes(vertices[None], faces, take.views)[:, 0]
    return np.where(take.usable[:, i], iou(seen, take.masks[:, i]), np.nan)


def silhouettes(vertices: np.ndarray, faces: np.ndarray, views: list[View]) -> np.ndarray:
    """Return (views, N, SIZE, SIZE) bool of meshes (N, V, 3) in the world, within each image."""
    return np.stack(
        [
            shared_raster().silhouettes(
                vertices @ view.Rt[:, :3].T + view.Rt[:, 3], faces, view.K, (SIZE, SIZE)
            )
            & view.inside
            for view in views
        ]
    )


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (...) intersection over union of masks (..., H, W); 0 where both are empty."""
    return (a & b).sum((-1, -2)) / np.maximum((a | b).sum((-1, -2)), 1)


@torch.no_grad()
def _standing(predictor, take):
    """Return (to, n) IoU of the run's mean body on the floor below the track.

    By the heading that is best over all cameras.

    The top of its head is at the track, and its feet are where its own height ends.
    """
    body, model = predictor.body, predictor.model
    rotations = (
        torch.linspace(0, 2 * np.pi, HEADINGS + 1)[:-1, None] * torch.from_numpy(take.up).float()
    )
    pose = model.mean_pose.cpu().repeat(HEADINGS, 1, 1, 1)
    pose[:, 0] = axis_angle_to_matrix(rotations) @ torch.from_numpy(_upright(take.up)).float()
    shape = model.mean_shape.expand(HEADINGS, -1)
    vertices, joints = body(
        pose.to(predictor.device), torch.zeros(HEADINGS, 3, device=predictor.device), shape
    )
    vertices, faces = vertices.cpu().numpy().astype(np.float64), body.faces.cpu().numpy()
    top = (vertices @ take.up).max(1)
    out = np.full((len(take.views), len(take.frames)), np.nan)
    for i, point in enumerate(take.track):
        moved = vertices + point - top[:, None, None] * take.up
        found = iou(silhouettes(moved, faces, take.views), take.masks[:, None, i])
        found = found[
            :,
            np.argmax(
                found[take.usable[:, i]].mean(0) if take.usable[:, i].any() else found.mean(0)
            ),
        ]
        out[:, i] = np.where(take.usable[:, i], found, np.nan)
    return out


def _upright(up):
    """(3, 3) rotation that takes the body model's z, which is up, to the world's up."""
    side = np.eye(3)[(int(np.argmax(np.abs(up))) + 1) % 3]
    return np.stack([side, np.cross(up, side), up], 1)


def hull(take: Take, target: int, i: int) -> np.ndarray:
    """Return (SIZE, SIZE) bool: what a camera would see of the other cameras' hull.

    That is the space that lies in all *other* cameras' outlines in frame i.

    Args:
        target: index of the camera.  i: index of the frame.
    """
    ticks = np.arange(-REACH_M, REACH_M, VOXEL_M)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3)
    grid += take.track[i] - 0.8 * take.up  # the middle of somebody whose head the track is
    for other, view in enumerate(take.views):
        if other != target:
            xy, depth = project(grid, view.K, view.Rt)
            grid = grid[(depth > 0.1) & _at(take.masks[other, i], xy)]
    view = take.views[target]
    xy, _ = project(grid, view.K, view.Rt)
    out = np.zeros((SIZE, SIZE), np.uint8)
    x, y = np.floor(xy).astype(int).T
    ok = (x >= 0) & (y >= 0) & (x < SIZE) & (y < SIZE)
    out[y[ok], x[ok]] = 1
    return (cv2.morphologyEx(out, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0) & view.inside


def _at(mask, xy):
    """(k,) values of a mask at pixels (k, 2); false outside."""
    x, y = np.floor(np.clip(xy, -1, SIZE)).astype(int).T
    return np.pad(mask, 1)[y + 1, x + 1]


def agreement(take: Take, every: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return the agreement of each camera's outline with the hull of the others'.

    (IoU, share of the outline that is covered): (views, k) each.

    A hull is larger than what it encloses, so the IoU stays under 1 for perfect outlines; the share
    does not.
    """
    pairs = [
        [(hull(take, v, i), take.masks[v, i]) for i in range(0, len(take.frames), every)]
        for v in range(len(take.views))
    ]
    return (
        np.array([[iou(h, m) for h, m in row] for row in pairs]),
        np.array([[(h & m).sum() / max(m.sum(), 1) for h, m in row] for row in pairs]),
    )


def describe(take: Take) -> str:
    """Return what is known of the outlines, in words."""
    shares, (overlap, covered) = take.usable.mean(1), agreement(take)
    lines = [
        f"{len(take.frames)} frames; usable outlines: "
        + ", ".join(
            f"{view.name} {100 * share:.0f} %"
            for view, share in zip(take.views, shares, strict=True)
        ),
        "each outline against the hull of the other cameras' (every tenth frame): "
        + ", ".join(
            f"{view.name} IoU {100 * a.mean():.0f} %, {100 * b.mean():.0f} % of it covered"
            for view, a, b in zip(take.views, overlap, covered, strict=True)
        ),
    ]
    return "\n".join(lines)


def table(found: dict[str, Any]) -> str:
    """Return the figures of ``measure`` as Markdown: IoU in percent, mean over frames."""
    names, mean = (
        found["cameras"],
        {row: np.nanmean(values, -1) for row, values in found["rows"].items()},
    )
    lines = [
        f"\n{found['run']}, IoU in % over {len(found['frames'])} frames, box={found['box']}",
        "| row | in the other cameras | in its own | "
        + " | ".join(f"from {name}" for name in names)
        + " |",
        "|---" * (3 + len(names)) + "|",
    ]
    for row, values in mean.items():
        own, apart = np.eye(len(names), dtype=bool), ~np.eye(len(names), dtype=bool)
        each = " | ".join(f"{100 * values[s][apart[s]].mean():.1f}" for s in range(len(names)))
        lines.append(
            f"| {row} | {100 * values[apart].mean():.1f} | {100 * values[own].mean():.1f} | {each} "
            f"|"
        )
    lines.append(
        f"| standing | {100 * np.nanmean(found['standing']):.1f} | | "
        + " | ".join("" for _ in names)
        + " |"
    )
    return "\n".join(lines)


def write(found: dict[str, Any], path: Path) -> None:
    """``measure``'s answer as JSON, with the mean of each pair of cameras; NaN becomes null."""

    def plain(values):
        return (
            [plain(v) for v in values]
            if values.ndim
            else (round(float(values), 4) if np.isfinite(values) else None)
        )

    rows = {
        row: {
            "mean": plain(np.nanmean(values, -1)),
            "others": plain(others(values)),
            "frames": plain(values),
        }
        for row, values in found["rows"].items()
    }
    rows["standing"] = {
        "mean": plain(np.nanmean(found["standing"], -1)),
        "frames": plain(found["standing"]),
    }
    kept = {name: found[name] for name in ("run", "box", "frames", "cameras")}
    text = json.dumps(
        kept | {"axes": "rows.ROW.frames[from camera][to camera][frame]", "rows": rows}
    )
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def outline_sheet(take: Take, columns: int = 8) -> np.ndarray:
    """(H, W, 3) uint8: a row a camera, the outlines in some frames; red where one is not used."""
    chosen = np.linspace(0, len(take.frames) - 1, columns).round().astype(int)
    return np.vstack(
        [
            np.hstack(
                [
                    _drawn(take, v, i, [(take.masks[v, i], GREEN if take.usable[v, i] else RED)])
                    for i in chosen
                ]
            )
            for v in range(len(take.views))
        ]
    )


def sheet(folder: str, take: Take, box: str = "outline", count: int = 4) -> np.ndarray:
    """Return (H, W, 3) uint8: a row a frame, from one camera after the other.

    Its image with the mesh, then the other cameras.

    Orange: the mesh, moved to the track's depth (in its own camera: as placed). Green: the outline.
    """
    predictor, rows = _predictor(folder, box), []
    for k, i in enumerate(np.linspace(0, len(take.frames) - 1, count).round().astype(int)):
        source = k % len(take.views)
        found = _recover(predictor, take, source, i, box)
        placed = _placements(found, take.views[source], take, i)
        tiles = []
        for v in [source] + [v for v in range(len(take.views)) if v != source]:
            seen = silhouettes(
                placed["placed" if v == source else "moved"][None], found[0].faces, [take.views[v]]
            )[0, 0]
            image = take.views[v].images[i].copy()
            if v == source:
                image[seen] = image[seen] // 2 + np.array(ORANGE, np.uint8) // 2
            tiles.append(_drawn(take, v, i, [(take.masks[v, i], GREEN), (seen, ORANGE)], image))
        rows.append(np.hstack(tiles))
    return np.vstack(rows)


def _drawn(take, v, i, masks, image=None):
    """Draw masks' edges, [(mask, colour)], on frame i of camera v, cut to the columns seen."""
    view = take.views[v]
    out = (view.images[i] if image is None else image).copy()
    for mask, colour in masks:
        outline = mask.astype(np.uint8)
        contours, _ = cv2.findContours(outline, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(out, contours, -1, colour, 1)
    seen = np.flatnonzero(np.any([other.inside.any(0) for other in take.views], 0))
    out = np.ascontiguousarray(out[:, seen[0] : seen[-1] + 1])
    cv2.putText(
        out,
        f"{view.name}  {take.frames[i]}",
        (6, 16),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.45,
        (255, 255, 255),
        1,
        cv2.LINE_AA,
    )
    return out


def save(image: np.ndarray, path: Path) -> None:
    """Write an RGB image.

    Raises:
        UserError: it cannot be written.
    """
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise UserError(f"{path} cannot be written")
