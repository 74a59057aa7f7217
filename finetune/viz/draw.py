"""Images of meshes: on the person, from the side, from above, and sheets of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.errors import UserError
from engine.geometry import crop_intrinsics
from finetune.person import Person, colour
from finetune.viz.clay import draw_clay

OPACITY = 0.94
# The two views: where in them the camera is, and their right, down and forward in the camera's
# frame.
VIEWS = (
    ("left", np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float32)),
    ("below", np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)),
)
BAR_M = {"body": 0.5, "left_hand": 0.05, "right_hand": 0.05}
ROOT = {"body": "pelvis", "left_hand": "wrist", "right_hand": "wrist"}
TILE, GAP, MARGIN = 300, 8, 20
INK, PALE, GRID, TRUTH, PAD = (
    (24, 24, 27),
    (113, 113, 122),
    (232, 233, 236),
    (214, 137, 52),
    (244, 244, 245),
)
COLUMNS = ("image", "mesh on the image", "from the side", "from above")


def overlay(image: np.ndarray, people: Sequence[Person]) -> np.ndarray:
    """The image with each person's mesh on it; a near mesh hides a far one.

    Args:
        image: (H, W, 3) uint8.  people: list of Person, with the intrinsics of this image.
    Returns:
        (H, W, 3) uint8.
    Raises:
        UserError: two people have different intrinsics.
    """
    return paint(image, people, [colour(i) for i in range(len(people))])


def paint(
    image: np.ndarray,
    people: Sequence[Person],
    colours: Sequence[tuple[int, int, int]],
    faces: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Returns the image with each person's mesh on it, as ``overlay`` does, in these colours.

    Args:
        colours: sRGB in 0 to 255, one a person, or as ``faces`` says.
        faces: of each person (F,) the number of each triangle's colour.
    Raises:
        UserError: two people have different intrinsics.
    """
    if not people:
        return image.copy()
    K = people[0].intrinsics
    for person in people[1:]:
        if not np.allclose(person.intrinsics, K):
            raise UserError(
                f"people of one image have different intrinsics: {K.tolist()} and "
                f"{person.intrinsics.tolist()}"
            )
    out = image.copy()
    x0, y0, x1, y1 = _bounds(people, K, image.shape[1], image.shape[0])
    if x0 < x1 and y0 < y1:
        inside = out[y0:y1, x0:x1]
        clay, cover = draw_clay(
            [(p.vertices, p.faces) for p in people],
            colours,
            crop_intrinsics(K, (x0, y0, x1, y1), (x1 - x0, y1 - y0)),
            (x1 - x0, y1 - y0),
            owners=None if faces is None else np.concatenate(faces),
        )
        inside[:] = blend(inside, clay, OPACITY * cover)
    return out


def views(person: Person, size: int, truth: Person | None = None) -> tuple[np.ndarray, ...]:
    """Draw the mesh from the side and from above, without perspective.

    On one scale, with a bar that tells it.

    From the side: from the camera's right, so the camera is on the left. From above: the camera is
    below.

    Args:
        person: Person.  size: pixels of a square's side.  truth: a Person that is shown as an
            outline, where it is.
    Returns:
        side, top: (size, size, 3) uint8.
    """
    points = person.vertices if truth is None else np.concatenate([person.vertices, truth.vertices])
    low, high = points.min(0), points.max(0)
    scale = 0.8 * size / max(float((high - low).max()), 1e-6)
    return tuple(
        _view(person, truth, axes, camera, (low + high) / 2, scale, size) for camera, axes in VIEWS
    )


def sheet(
    image: np.ndarray,
    person: Person,
    captions: Sequence[str],
    truth: Person | None = None,
    title: str = "",
) -> Image.Image:
    """Image, mesh on the image, side and top in a row.

    A second row, where asked for, shows the truth in the same way.

    Args:
        image: (H, W, 3) uint8.  person: Person.  captions: the words under each row: one, or two
            for two rows.
        truth: Person, outlined in the first row's views after its joint 0 is moved onto the
            person's.  title: on top.
    Returns:
        PIL image, 4 tiles of 300 px wide.
    Raises:
        UserError: two captions without a truth.
    """
    if not 1 <= len(captions) <= (1 if truth is None else 2):
        raise UserError(
            f"{len(captions)} captions for a sheet {'without' if truth is None else 'with'} a "
            f"truth; "
            "a caption a row, and the second row is the truth"
        )
    moved = None if truth is None else _moved(truth, person.translation - truth.translation)
    rows = [(person, moved, captions[0])] + [(truth, None, words) for words in captions[1:]]
    width = 4 * TILE + 3 * GAP
    blocks = [_Text(title, 20, INK)] if title else []
    for shown, ghost, words in rows:
        blocks += [_tiles(image, person, shown, ghost), _Text(words, 15, INK)]
    if moved is not None:
        blocks.append(
            _Text(f"orange outline: the truth, moved onto the same {ROOT[person.kind]}", 14, TRUTH)
        )
    return _stack(blocks, width)


@dataclass
class _Text:
    words: str
    size: int
    colour: tuple

    def image(self, width: int) -> Image.Image:
        """The words on white, on as many lines as they need."""
        font = ImageFont.load_default(self.size)
        lines, height = _wrapped(self.words, font, width), round(1.35 * self.size)
        out = Image.new("RGB", (width, height * len(lines)), "white")
        for i, line in enumerate(lines):
            ImageDraw.Draw(out).text((0, height * i), line, self.colour, font)
        return out


def _stack(blocks, width):
    """Texts and PIL images below each other on a white page."""
    parts = [b.image(width) if isinstance(b, _Text) else b for b in blocks]
    out = Image.new(
        "RGB", (width + 2 * MARGIN, sum(p.height + GAP for p in parts) - GAP + 2 * MARGIN), "white"
    )
    y = MARGIN
    for part in parts:
        out.paste(part, (MARGIN, y))
        y += part.height + GAP
    return out


def _wrapped(words, font, width):
    """Lines of at most so many pixels; a word that is too long is broken."""
    lines = [""]
    for word in words.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _tiles(image, person, shown, ghost):
    """The four tiles of a row with their names, cut where ``person`` is."""
    square, K = _square(image, person)
    placed = replace(shown, intrinsics=K)
    head = 24
    out = Image.new("RGB", (4 * TILE + 3 * GAP, head + TILE), "white")
    for i, tile in enumerate((square, overlay(square, [placed]), *views(shown, TILE, ghost))):
        left = i * (TILE + GAP)
        ImageDraw.Draw(out).text((left, 0), COLUMNS[i], PALE, ImageFont.load_default(14))
        out.paste(Image.fromarray(tile), (left, head))
        ImageDraw.Draw(out).rectangle([left, head, left + TILE - 1, head + TILE - 1], outline=GRID)
    return out


def _square(image, person):
    """A square of TILE pixels around a person, and its intrinsics."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = person.box.astype(float)
    tight = max(x1 - x0, y1 - y0)
    # Room around the person, but no more empty border than the person itself needs.
    side = max(1, round(min(1.2 * tight, max(tight, min(width, height)))))
    left, top = _start((x0 + x1) / 2, side, width), _start((y0 + y1) / 2, side, height)
    right, bottom = left + side, top + side
    square = cv2.copyMakeBorder(
        image[max(top, 0) : bottom, max(left, 0) : right],
        max(-top, 0),
        max(bottom - height, 0),
        max(-left, 0),
        max(right - width, 0),
        cv2.BORDER_CONSTANT,
        value=PAD,
    )
    square = cv2.resize(
        square, (TILE, TILE), interpolation=cv2.INTER_AREA if side > TILE else cv2.INTER_CUBIC
    )
    return square, crop_intrinsics(person.intrinsics, (left, top, right, bottom), (TILE, TILE))


def _start(middle, side, most):
    """Return where a stretch of ``side`` pixels begins.

    Inside the image's ``most`` if it fits, else centred on them.
    """
    return (
        min(max(round(middle - side / 2), 0), most - side) if side <= most else (most - side) // 2
    )


def _moved(person, by):
    """The person shifted by (3,) metres, for the views: what is in pixels stays."""
    return replace(
        person,
        vertices=person.vertices + by,
        joints=person.joints + by,
        keypoints=person.keypoints + by,
        translation=person.translation + by,
    )


def _bounds(people, K, width, height):
    """x0, y0, x1, y1: whole pixels of the image that hold all meshes.

    The whole image for one that passes the camera.
    """
    points = np.concatenate([p.vertices for p in people]).astype(np.float64)
    if points[:, 2].min() < 0.05:
        return 0, 0, width, height
    xy = (points / points[:, 2:]) @ K[:2].T
    low, high = np.floor(xy.min(0)) - 1, np.ceil(xy.max(0)) + 1
    x0, y0 = np.clip(low, 0, (width, height)).astype(int)
    x1, y1 = np.clip(high, 0, (width, height)).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def blend(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return ``above`` over ``below``, by (H, W) alpha in 0 to 1; uint8."""
    out = np.array(below, np.uint8)
    there = np.flatnonzero(alpha)  # most pixels of an image show nobody
    under = below.reshape(-1, 3)[there]
    over = np.broadcast_to(above, below.shape).reshape(-1, 3)[there]
    mixed = under + (over - under) * alpha.ravel()[there, None]
    out.reshape(-1, 3)[there] = np.round(mixed).astype(np.uint8)
    return out


def _view(person, truth, axes, camera, centre, scale, size):
    """One square; see ``views``."""
    K = np.array([[scale, 0, size / 2], [0, scale, size / 2], [0, 0, 1]])
    meshes = [((p.vertices - centre) @ axes.T, p.faces) for p in (person, truth) if p is not None]
    bar = _bar(person.kind, scale, size)
    out = _grid(axes @ centre, bar, scale, size)
    clay, cover = draw_clay(meshes[:1], [colour(0)], K, (size, size), perspective=False)
    if truth is None:
        out = blend(out, clay, cover)
    else:
        _, ghost = draw_clay(meshes[1:], [colour(0)], K, (size, size), perspective=False)
        out = blend(out, np.array(TRUTH, np.float32), 0.14 * ghost)
        out = blend(out, clay, cover)
        cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        out = blend(
            out,
            np.array(TRUTH, np.float32),
            0.9 * (cv2.dilate(ghost, cross) - cv2.erode(ghost, cross)),
        )
    return _ruled(out, bar, scale, camera)


def _bar(kind, scale, size):
    """Return the metres of the bar and of the grid.

    Those of the kind, unless the mesh is far from a person's size.
    """
    bar = BAR_M[kind]
    while bar * scale > size / 2:
        bar /= 2
    while bar * scale < size / 25:
        bar *= 10
    return bar


def _grid(centre, step, scale, size):
    """Lines at whole steps of the camera's frame, on white.

    Args:
        centre: (3,) metres right, down and forward of the square's middle.  step: metres.  scale:
            pixels a metre.
    """
    out = Image.new("RGB", (size, size), "white")
    half = size / 2 / scale
    for axis in (0, 1):
        first, last = np.ceil((centre[axis] - half) / step), np.floor((centre[axis] + half) / step)
        for number in np.arange(first, last + 1):
            at = round((number * step - centre[axis]) * scale + size / 2)
            ImageDraw.Draw(out).line(
                [(at, 0), (at, size)] if axis == 0 else [(0, at), (size, at)], GRID
            )
    return np.asarray(out)


def _ruled(image, bar, scale, camera):
    """The bar at the bottom left with its length, and at the bottom right where the camera is."""
    out = Image.fromarray(image)
    draw, font, size = ImageDraw.Draw(out), ImageFont.load_default(13), out.width
    x, y, length = 10, size - 10, bar * scale
    draw.line([(x, y), (x + length, y)], INK, 2)
    for end in (x, x + length):
        draw.line([(end, y - 3), (end, y + 3)], INK, 1)
    draw.text((x, y - 5), f"{bar:g} m" if bar >= 0.1 else f"{100 * bar:g} cm", INK, font, "lb")
    draw.text((size - 8, size - 6), "camera", PALE, font, "rb")
    left = size - 8 - font.getlength("camera") - 12
    if camera == "left":
        draw.polygon([(left, size - 13), (left + 7, size - 17), (left + 7, size - 9)], PALE)
    else:
        draw.polygon([(left + 4, size - 9), (left, size - 16), (left + 8, size - 16)], PALE)
    return np.asarray(out)
