"""Maps as images: colours for parts, depths, normals and places on the surface."""

import math
from collections.abc import Mapping

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from data.cropping.geometry import Size, find_sides

# sRGB of parts: neighbours differ clearly, left and right have warm and cold tones.
PART_COLOURS = (
    (178, 178, 184),
    (242, 202, 92),
    (232, 88, 70),
    (62, 128, 214),
    (244, 150, 98),
    (108, 178, 232),
    (176, 42, 74),
    (38, 74, 152),
    (246, 178, 178),
    (126, 206, 206),
    (208, 116, 176),
    (84, 160, 110),
    (150, 98, 60),
    (120, 92, 190),
    (226, 226, 120),
    (64, 64, 84),
)
DEPTH_M = {"body": 0.6, "hand": 0.12}  # so far before or behind the root a scale of depths ends
NOTHING = np.array((24, 24, 27), np.uint8)


def find_person(maps: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns (rows, columns) bool, where one image's maps (C, rows, columns) show the person.

    By the parts, else by the silhouette; everywhere where neither is there.
    """
    if "parts" in maps:
        return maps["parts"].argmax(0) > 0
    if "silhouette" in maps:
        return maps["silhouette"][0] > 0
    first = next(iter(maps.values()))
    return torch.ones(first.shape[-2:], dtype=torch.bool, device=first.device)


def colour_map(name: str, values: torch.Tensor, person: torch.Tensor, reach: float) -> np.ndarray:
    """Returns the (rows, columns, 3) uint8 image of a map of one image.

    Args:
        name: of finetune.maps.compare.MAPS.  values: (C, rows, columns), as a head answers.
        person: (rows, columns) bool, outside of which nothing is painted but the silhouette.
        reach: depth in metres that is at the end of its scale.
    """
    inside = person.cpu().numpy()[..., None]
    values = values.detach().float().cpu()
    if name == "silhouette":
        shade = (values[0].sigmoid() * 255).numpy().astype(np.uint8)
        return np.repeat(shade[..., None], 3, -1)
    if name == "parts":
        colours = np.array(PART_COLOURS, np.uint8)
        chosen = values[1:].argmax(0).numpy() % len(colours)
        painted = colours[chosen]
    elif name == "depth":
        near = ((values[0] / reach + 1) / 2).clamp(0, 1)
        shade = ((1 - near) * 255).numpy().astype(np.uint8)
        painted = cv2.applyColorMap(shade, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    elif name == "normals":
        # Right, up and towards the camera are red, green and blue, as is usual.
        unit = F.normalize(values, dim=0) * torch.tensor([1.0, -1.0, -1.0])[:, None, None]
        painted = ((unit + 1) * 127.5).permute(1, 2, 0).numpy().astype(np.uint8)
    else:
        # The canonical body at rest: to its left, to its back, up.
        half = torch.tensor([2.5, 0.6, 3.0])[:, None, None] * reach
        shade = ((values / half + 1) * 127.5).clamp(0, 255)
        painted = shade.permute(1, 2, 0).numpy().astype(np.uint8)
    return np.where(inside, painted, NOTHING)


def paint_maps(maps: Mapping[str, torch.Tensor], size: Size, kind: str = "body") -> np.ndarray:
    """Returns (rows, columns, 3) uint8: one image's M maps as tiles of their shape, row by row.

    Args:
        maps: {name: (C, rows, columns)}.  size: of the whole, pixels, of the maps' shape.
        kind: of what is shown, "body" or "hand".
    """
    tiles = list_tiles(maps, kind)
    across = math.ceil(len(tiles) ** 0.5)
    rows, columns = find_sides(size)
    high, wide = rows // across, columns // across
    canvas = np.full((rows, columns, 3), NOTHING, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = divmod(number, across)
        place = slice(y * high, (y + 1) * high), slice(x * wide, (x + 1) * wide)
        canvas[place] = cv2.resize(tile, (wide, high), interpolation=cv2.INTER_AREA)
    return canvas


def list_tiles(maps: Mapping[str, torch.Tensor], kind: str) -> list[np.ndarray]:
    """Returns the (rows, columns, 3) uint8 image of each of one image's maps."""
    person, reach = find_person(maps), DEPTH_M[kind]
    return [colour_map(name, values, person, reach) for name, values in maps.items()]
