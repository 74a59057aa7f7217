"""Contact sheets of whole frames: skeletons, boxes and outlines of everybody in them."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.format.frame import Frame
from data.format.joint_sets import match_joint_sets
from data.format.labels import OUTSIDE, SEEN, Keypoints, Labels
from data.loading.frame_files import FrameFiles
from data.loading.reader import BadSample
from data.sampling.order import PAIR, numbers
from data.storage.shard_store import Store
from engine.errors import UserError

TILE, GAP, CAPTION, COLUMNS = 480, 8, 40, 4
SHOWN_SET = "coco17"
FACE, LEFT_ARM, RIGHT_ARM = (0, 1, 2, 3, 4), (5, 7, 9), (6, 8, 10)
LEFT_LEG, RIGHT_LEG, TRUNK = (11, 13, 15), (12, 14, 16), (5, 6, 12, 11, 5)
IGNORED = np.array([200, 200, 210], np.uint8)  # over where people may be who are not told of
COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (255, 200, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (170, 255, 0),
    (250, 150, 190),
)


def frame_sheet(paths: list[str], rows: int, seed: int, store: Store) -> Image.Image:
    """Return an image of frames, four a row, spread evenly over the shards.

    Bones and keypoints are those of COCO; those that are hidden are thin and hollow.

    Args:
        paths: tars, or URLs.  rows: of the sheet.  seed: of which frames.
    Raises:
        UserError: none of the frames can be shown.
    """
    files = FrameFiles(store)
    ends = np.cumsum([len(store.index(path)) for path in paths])
    count = min(rows * COLUMNS, int(ends[-1]))
    random = numbers(seed, PAIR, 1)
    borders = np.linspace(0, ends[-1], count + 1).astype(int)
    width = COLUMNS * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, -(-count // COLUMNS) * (TILE + CAPTION + GAP) + GAP), "white")
    shown = 0
    for place, (low, high) in enumerate(zip(borders[:-1], borders[1:], strict=True)):
        number = int(random.integers(low, high))
        shard = int(np.searchsorted(ends, number, "right"))
        index = number - int(ends[shard]) + len(store.index(paths[shard]))
        row, column = divmod(place, COLUMNS)
        at = GAP + column * (TILE + GAP), GAP + row * (TILE + CAPTION + GAP)
        try:
            tile, words = _draw_frame(files, paths[shard], index)
            sheet.paste(tile, at)
            shown += 1
        except BadSample as reason:
            words = str(reason)
        font = ImageFont.load_default(14)
        ImageDraw.Draw(sheet).text((at[0], at[1] + TILE + 4), words[:70], (24, 24, 27), font)
    if not shown:
        raise UserError(
            f"none of the {count} frames chosen from {paths[0]} and on can be shown: see "
            f"`python -m data verify`"
        )
    return sheet


def _draw_frame(files: FrameFiles, path: str, index: int) -> tuple[Image.Image, str]:
    frame, members = files.frame(path, index)
    pixels = files.pixels(path, frame, members)
    labels = files.labels(path, frame, members)
    ids = files.ids(path, frame, members)
    ignored = files.ignored(path, frame, members)
    if ignored is not None:
        pixels = pixels.copy()
        pixels[ignored] = pixels[ignored] // 2 + IGNORED // 2
    image = draw_people(pixels, frame, labels, ids)
    scale = TILE / max(image.size)
    size = round(image.width * scale), round(image.height * scale)
    shares = " ".join("?" if p.shown is None else f"{p.shown:.2f}" for p in frame.people)
    words = f"{frame.width} x {frame.height}, {len(frame.people)} people: {shares}"
    if frame.K is not None:
        words = f"{frame.width} x {frame.height}, f {frame.K[0][0]:.0f}, shown: {shares}"
    return image.resize(size, Image.Resampling.LANCZOS), words


def draw_people(
    pixels: np.ndarray, frame: Frame, labels: Labels | None, ids: np.ndarray | None
) -> Image.Image:
    """The frame (height, width, 3) uint8 with everybody's outline, box and skeleton on it."""
    image = pixels.copy()
    if ids is not None:
        edge = np.zeros(ids.shape, bool)
        edge[1:] |= ids[1:] != ids[:-1]
        edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        near = np.maximum(ids, np.maximum(np.roll(ids, 1, 0), np.roll(ids, 1, 1)))
        for number in range(len(frame.people)):
            image[edge & (near == number + 1)] = COLOURS[number % len(COLOURS)]
    out = Image.fromarray(image)
    draw = ImageDraw.Draw(out)
    for number, person in enumerate(frame.people):
        colour = COLOURS[number % len(COLOURS)]
        if person.box is not None:
            draw.rectangle([float(x) for x in person.box], outline=colour)
            x, y = np.clip(person.box[:2], 0, [frame.width - 24, frame.height - 14]).tolist()
            draw.text((x + 2, y), f"{person.track}", colour, ImageFont.load_default(14))
        if labels is not None and labels.keypoints is not None:
            _draw_skeleton(draw, labels.keypoints, number, colour)
    return out


def _draw_skeleton(
    draw: ImageDraw.ImageDraw, keypoints: Keypoints, row: int, colour: tuple[int, int, int]
) -> None:
    places = match_joint_sets(keypoints.joint_set, SHOWN_SET)
    points = keypoints.points[row][places]
    known = (places >= 0) & (keypoints.confidence[row][places] > 0)
    seen = np.ones(len(places), bool)
    if keypoints.visible is not None:
        known &= keypoints.visible[row][places] != OUTSIDE
        seen = keypoints.visible[row][places] == SEEN
    for chain in (LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG, TRUNK):
        for a, b in zip(chain[:-1], chain[1:], strict=True):
            if known[a] and known[b]:
                line = [*points[a].tolist(), *points[b].tolist()]
                draw.line(line, colour, 3 if seen[a] and seen[b] else 1)
    for at in np.flatnonzero(known).tolist():
        x, y = points[at].tolist()
        spot = [x - 3, y - 3, x + 3, y + 3]
        draw.ellipse(spot, fill=colour if seen[at] else None, outline=colour)
