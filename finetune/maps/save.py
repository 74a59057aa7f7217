"""What predictions of heads without a mesh leave on disk: images, values, keypoints."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from data.cropping.geometry import find_sides
from data.sources.labelled.coco import PIXEL_CENTRE
from engine.errors import explain, failure_of
from engine.run.files import write_file
from finetune.crop_camera import find_ray_rotation
from finetune.heads.base import ImagePrediction
from finetune.heads.image_head import Asked
from finetune.maps.draw import DEPTH_M, colour_map, find_person
from finetune.maps.points import read_scores
from finetune.maps.skeleton import draw_skeleton

Answers = Sequence[tuple[Asked, ImagePrediction, int]]
TILE, TEXT = 192, 22  # pixels of a contact image's tiles, and of the words above them
DEPTH_STEP_M, DEPTH_ZERO = 1e-4, 32768  # of 16-bit depth: tenths of a millimetre about the root
LEAST_SCORE = 0.15  # of joints that are drawn
DIGITS = 3


def save_maps(
    stem: Path, image: np.ndarray, answers: Answers, part_names: Sequence[str]
) -> list[Path]:
    """Write the maps of each person or hand of an image.

    STEM.NAME.MAP.png in colours and STEM.NAME.depth16.png in 16 bits (32768 is the root's depth,
    one more is .1 mm further away); STEM.maps.npz with all values; STEM.maps.png, a contact image.

    Args:
        stem: path without the ending.  image: (H, W, 3) uint8.  part_names: of labels 1 to P.
    Returns:
        the files, the contact image first.
    """
    arrays: dict[str, np.ndarray] = {"part_names": np.array(["nothing", *part_names])}
    rows, files = [], []
    for number, (asked, found, row) in enumerate(answers, 1):
        name = f"{asked.kind}-{number}"
        maps = turn_back({key: values[row] for key, values in found.dense.items()}, asked)
        person, reach = find_person(maps), DEPTH_M["body" if asked.kind == "body" else "hand"]
        tiles = {key: colour_map(key, values, person, reach) for key, values in maps.items()}
        for key, tile in tiles.items():
            files.append(_save(Image.fromarray(tile), Path(f"{stem}.{name}.{key}.png")))
        if "depth" in maps:
            steps = (maps["depth"][0] / DEPTH_STEP_M + DEPTH_ZERO).round().clamp(0, 65535)
            pixels = Image.fromarray(steps.cpu().numpy().astype(np.uint16))
            files.append(_save(pixels, Path(f"{stem}.{name}.depth16.png")))
        arrays |= {f"{name}/{key}": values for key, values in list_values(maps).items()}
        arrays[f"{name}/square"] = asked.square
        rows.append((name, _cut(image, asked.square), tiles))
    content = io.BytesIO()
    # None of the arrays' names is that of an option.
    # pyrefly: ignore[bad-argument-type]
    np.savez_compressed(content, **arrays)
    _write(Path(f"{stem}.maps.npz"), content.getvalue())
    contact = _save(_draw_contact(rows), Path(f"{stem}.maps.png"))
    return [contact, Path(f"{stem}.maps.npz"), *files]


def turn_back(maps: Mapping[str, torch.Tensor], asked: Asked) -> dict[str, torch.Tensor]:
    """Returns one image's maps (C, rows, columns) as the image shows them, not as a mirror does.

    Normals come in the camera's axes (x right, y down, z forward), no longer about the middle's
    ray.
    """
    out = {}
    for name, values in maps.items():
        moved = values.flip(-1) if asked.mirrored else values
        if name == "normals":
            if asked.mirrored:
                moved = moved * moved.new_tensor([-1.0, 1.0, 1.0])[:, None, None]
            K = torch.from_numpy(np.asarray(asked.K, np.float32))[None].to(moved.device)
            rotation = find_ray_rotation(K, asked.size)[0]
            unit = F.normalize(moved, dim=0)
            moved = (rotation @ unit.flatten(1)).unflatten(1, unit.shape[1:])
        out[name] = moved.detach().float()
    return out


def list_values(maps: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Returns the arrays of one image's maps as they are written.

    silhouette: (rows, columns) float16 in [0, 1]; parts: uint8 labels, 0 for nothing; depth:
    float32 metres; normals, surface: (rows, columns, 3) float16.
    """
    out: dict[str, np.ndarray] = {}
    for name, values in maps.items():
        values = values.cpu()
        if name == "silhouette":
            out[name] = values[0].sigmoid().numpy().astype(np.float16)
        elif name == "parts":
            out[name] = values.argmax(0).numpy().astype(np.uint8)
        elif name == "depth":
            out[name] = values[0].numpy()
        else:
            out[name] = values.permute(1, 2, 0).numpy().astype(np.float16)
    return out


def save_points(
    stem: Path, image: np.ndarray, answers: Answers, names: Sequence[str]
) -> list[Path]:
    """Write the joints of each person or hand of an image.

    STEM.skeleton.png; STEM.keypoints.json as COCO's results: a list of {"image_id", "category_id",
    "keypoints" x, y, score of each joint, "score", "bbox"}, with the joints' names and the kind
    beside them. COCO's pixels: the first one's centre is at (0, 0).

    Args:
        names: of the joints.
    Returns:
        the files, the image first.
    """
    shown, listed = image, []
    for asked, found, row in answers:
        points, scores = place_points(asked, found, row)
        shown = draw_skeleton(shown, points, names, scores > LEAST_SCORE)
        coco = np.concatenate([points - PIXEL_CENTRE, scores[:, None]], 1)
        x0, y0, x1, y1 = np.asarray(asked.box, float).tolist()
        listed.append(
            {
                "image_id": int(stem.name) if stem.name.isdecimal() else stem.name,
                "category_id": 1,
                "keypoints": np.round(coco, DIGITS).ravel().tolist(),
                "score": round(float(scores.mean()), DIGITS),
                "bbox": np.round([x0, y0, x1 - x0, y1 - y0], DIGITS).tolist(),
                "kind": asked.kind,
                "keypoint_names": list(names),
            }
        )
    first = _save(Image.fromarray(shown), Path(f"{stem}.skeleton.png"))
    path = Path(f"{stem}.keypoints.json")
    _write(path, json.dumps(listed).encode())
    return [first, path]


def place_points(asked: Asked, found: ImagePrediction, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (K, 2) joints in pixels of the image, and (K,) scores in [0, 1]."""
    if found.keypoints_2d is None:
        raise ValueError("the prediction has no points")
    pixels, columns = found.keypoints_2d[row].detach().cpu().numpy(), find_sides(asked.size)[1]
    if asked.mirrored:
        pixels = np.stack([columns - pixels[:, 0], pixels[:, 1]], 1)
    corner, scale = asked.square[:2], (asked.square[2] - asked.square[0]) / columns
    scores = np.ones(len(pixels))
    if found.maps is not None:
        scores = read_scores(found.maps[row : row + 1])[0].detach().cpu().numpy()
    return corner + pixels * scale, scores


def _cut(image: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Rows x columns x 3 uint8 of a box of the image, the longer TILE, black beyond the image."""
    wide, high = (square[2:] - square[:2]).tolist()
    scale = TILE / max(wide, high)
    size = round(wide * scale), round(high * scale)
    matrix = np.array([[scale, 0, -scale * square[0]], [0, scale, -scale * square[1]]])
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.warpAffine(image, matrix, size, flags=flags)


def _draw_contact(
    rows: Sequence[tuple[str, np.ndarray, Mapping[str, np.ndarray]]],
) -> Image.Image:
    """A row a person: the crop, then each map."""
    columns = 1 + max((len(tiles) for _, _, tiles in rows), default=0)
    sheet = Image.new("RGB", (columns * TILE, max(1, len(rows)) * (TILE + TEXT)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (name, crop, tiles) in enumerate(rows):
        top = number * (TILE + TEXT)
        shown = {name: crop, **tiles}
        for column, (title, tile) in enumerate(shown.items()):
            scale = TILE / max(tile.shape[:2])
            size = round(tile.shape[1] * scale), round(tile.shape[0] * scale)
            resized = cv2.resize(tile, size, interpolation=cv2.INTER_NEAREST)
            left, down = (TILE - size[0]) // 2, (TILE - size[1]) // 2
            sheet.paste(Image.fromarray(resized), (column * TILE + left, top + TEXT + down))
            words = title.replace("_", " ")
            draw.text((column * TILE + 4, top + 4), words, fill=(24, 24, 27), font=font)
    return sheet


def _save(image: Image.Image, path: Path) -> Path:
    try:
        image.save(path)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
    return path


def _write(path: Path, data: bytes) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
