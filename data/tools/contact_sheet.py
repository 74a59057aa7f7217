"""Contact sheets: pairs as they lie in the shards.

The person's mask is outlined, captions say what is known of them. Clips without a pair show their
crops and keypoints.
"""

import contextlib
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from data.format.clip import Clip, decode_masks
from data.format.index import PAIR_KINDS, Index, crop_kinds_of
from data.format.labels import SEEN, Keypoints, read_labels
from data.loading.reader import BadSample, ClipReader
from data.sampling.order import PAIR, numbers
from data.sampling.pairs import CROPS, PairRules, candidates, possible, view_angles
from data.storage.shard_store import Store
from engine.errors import UserError

TILE, GAP, MARGIN = 224, 6, 24  # pixels of the sheet
PAIR_GAP, TITLE, CAPTION = 28, 30, 26
PAIR_WIDTH = 2 * TILE + GAP
ROW = TITLE + TILE + CAPTION + 18
HEADER = 92
WIDTH = 2 * MARGIN + len(PAIR_KINDS) * PAIR_WIDTH + PAIR_GAP
INK, PALE, OUTLINE = (24, 24, 27), (113, 113, 122), (255, 45, 120)
KEYPOINT = (0, 200, 90)


def contact_sheet(
    paths: list[str], rows: int, seed: int, rules: PairRules, store: Store
) -> Image.Image:
    """Return an image of pairs, a row a clip.

    One cross-view pair on the left, one cross-pose pair on the right.

    The clips are spread evenly over the shards; which ones, and which of their pairs, follows from
    the seed.

    Args:
        paths: tars, or URLs.  rows: clips to show (all of them where there are fewer).  rules:
            data.sampling.pairs.PairRules.
        store: data.storage.shard_store.Store.
    Returns:
        PIL image, WIDTH wide, HEADER + ROW * rows high.
    Raises:
        UserError: a shard is damaged; all chosen samples are.
    """
    indexes = [store.index(path) for path in paths]
    if not any(_has_crops(index, CROPS[rules.crops]) for index in indexes):
        raise UserError(
            f"no clip that can be read has crops with pairs.crops={rules.crops}; "
            "try python -m data verify"
        )
    ends = np.cumsum([len(index) for index in indexes])
    rows = min(rows, int(ends[-1]))
    random = numbers(seed, PAIR, 0)
    # One draw from each of as many equal stretches: even over the shards, and no clip comes twice.
    borders = np.linspace(0, ends[-1], rows + 1).astype(int)
    chosen = [
        int(random.integers(low, high)) for low, high in zip(borders[:-1], borders[1:], strict=True)
    ]
    sheet = Image.new("RGB", (WIDTH, HEADER + ROW * rows), "white")
    reader, shown = ClipReader(store), 0
    for row, place in enumerate(chosen):
        shard = int(np.searchsorted(ends, place, "right"))
        index = place - int(ends[shard] - len(indexes[shard]))
        shown += _draw_row(sheet, HEADER + ROW * row, reader, rules, paths[shard], index, random)
    if not shown:
        raise UserError(
            f"none of the {rows} clips chosen from {paths[0]} and on can be shown: see `python -m "
            f"data verify`"
        )
    _draw_header(
        sheet,
        f"{rows} of {ends[-1]} clips in {len(paths)} shard{'s' * (len(paths) > 1)}, seed {seed}",
    )
    return sheet


def _has_crops(index: Index, kinds: tuple[str, ...]) -> bool:
    """Whether some clip of a shard has crops of these kinds."""
    bits = int(np.bitwise_or.reduce(index.offers))
    return not set(kinds).isdisjoint(crop_kinds_of(bits))


def _draw_header(sheet, words):
    _write(sheet, (MARGIN, 16), words, 20)
    for p, kind in enumerate(PAIR_KINDS):
        left = MARGIN + p * (PAIR_WIDTH + PAIR_GAP)
        name = kind.replace("_", "-")
        for tile, meaning in enumerate((f"{name}: a, to be completed", "b, the reference")):
            _write(sheet, (left + tile * (TILE + GAP), 52), meaning, 15, PALE)
    top = HEADER - 14
    ImageDraw.Draw(sheet).line([(MARGIN, top), (WIDTH - MARGIN, top)], (212, 212, 216), 1)


def _draw_row(sheet, top, reader, rules, path, index, random):
    """One clip's pairs; whether it could be read."""
    key = str(reader.store.index(path).keys[index])
    shard = path.rsplit("/", 1)[-1]
    try:
        clip, members = reader.clip(path, index)
        if rules.visible_min:
            reader.note_visible(path, clip, members)
    except BadSample as reason:
        _write(sheet, (MARGIN, top), f"{key}  in {shard}: {reason}", 15, OUTLINE)
        return False
    count = len(clip.crops)
    facts = [
        clip.source,
        clip.licence,
        f"subject {clip.subject}",
        f"{count} crop{'s' if count != 1 else ''} of {clip.size} px",
        shard,
    ]
    facts = "   " + ", ".join(facts + ["no masks"] * ("masks.bin" not in members))
    _write(sheet, (MARGIN, top), key, 16)
    _write(
        sheet,
        (MARGIN + _width(key, 16), top + 1),
        facts,
        15,
        PALE,
        most=WIDTH - 2 * MARGIN - _width(key, 16),
    )
    masks = None
    if "masks.bin" in members:
        masks = decode_masks(reader.store.read(path, *members["masks.bin"]), len(clip.crops))
    if not any(possible(clip, kind, CROPS[rules.crops]) for kind in PAIR_KINDS):
        _draw_crops(sheet, top + TITLE, reader, rules, path, clip, members, masks)
        return True
    for p, kind in enumerate(PAIR_KINDS):
        at = MARGIN + p * (PAIR_WIDTH + PAIR_GAP), top + TITLE
        pairs = candidates(clip, kind, rules)
        if not pairs:
            _draw_absent(sheet, at, f"no {kind.replace('_', '-')} pair")
            continue
        a, b = pairs[int(random.integers(len(pairs)))]
        try:
            images = [reader.image(path, members, crop) for crop in (a, b)]
        except BadSample as reason:
            _draw_absent(sheet, at, str(reason))
            continue
        _draw_pair(sheet, at, images, None if masks is None else masks[a])
        _write(sheet, (at[0], at[1] + TILE + 4), caption(clip, a, b, kind), 14, most=PAIR_WIDTH)
    return True


def _draw_crops(
    sheet: Image.Image,
    top: int,
    reader: ClipReader,
    rules: PairRules,
    path: str,
    clip: Clip,
    members: dict[str, tuple[int, int]],
    masks: np.ndarray | None,
) -> None:
    """Draw the first crops of a clip that has no pair, with masks and keypoints.

    Such as a labelled photograph.
    """
    wanted = CROPS[rules.crops]
    numbers_of = [n for n, crop in enumerate(clip.crops) if crop.kind in wanted]
    labels = None
    if "labels.npz" in members:
        with contextlib.suppress(ValueError):  # `verify` names them
            data = reader.store.read(path, *members["labels.npz"])
            labels = read_labels(data, len(clip.crops))
    for tile, number in enumerate(numbers_of[: 2 * len(PAIR_KINDS)]):
        pair, side = divmod(tile, 2)
        left = MARGIN + pair * (PAIR_WIDTH + PAIR_GAP) + side * (TILE + GAP)
        try:
            pixels = reader.image(path, members, number)
        except BadSample as reason:
            _write(sheet, (left, top), str(reason), 14, OUTLINE, most=TILE)
            continue
        image = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.LANCZOS)
        if masks is not None:
            image = outlined(image, masks[number])
        known = None if labels is None else labels.at(number)
        if known is not None and known.keypoints is not None:
            _draw_keypoints(image, known.keypoints, TILE / clip.size)
        sheet.paste(image, (left, top))
        words = [clip.crops[number].kind.replace("_", " ")]
        if known is not None:
            words += [name for name, there in known.present().items() if there]
        _write(sheet, (left, top + TILE + 4), "  ·  ".join(words), 14, most=TILE)


def _draw_keypoints(image: Image.Image, keypoints: Keypoints, scale: float) -> None:
    """Dots where keypoints are labelled; hollow ones are hidden.

    Args:
        scale: pixels of the image a pixel of the crop.
    """
    draw = ImageDraw.Draw(image)
    visible = keypoints.visible
    for joint in np.flatnonzero(keypoints.confidence).tolist():
        x, y = (keypoints.points[joint] * scale).tolist()
        hidden = visible is not None and visible[joint] != SEEN
        spot = [x - 3, y - 3, x + 3, y + 3]
        draw.ellipse(spot, fill=None if hidden else KEYPOINT, outline=KEYPOINT)


def caption(clip: Clip, a: int, b: int, kind: str) -> str:
    """Return what is known of a pair, in a line.

    Kind of crop, cameras or instants, angle or gap, overlap.
    """
    one, other = clip.crops[a], clip.crops[b]
    words = [one.kind.replace("_", " ")]
    if kind == "cross_view":
        angle = view_angles(clip)[a, b]
        words.append("angle not known" if math.isnan(angle) else f"angle {angle:.0f}°")
        words.append(f"{one.camera} | {other.camera}")
    else:
        words.append(f"gap {abs(one.time_s - other.time_s):.2f} s")
        words.append(one.camera)
    overlap = "overlap not known"
    if clip.overlap is not None and not np.isnan(clip.overlap[a, b]):
        overlap = f"{clip.overlap[a, b]:.0%} of a seen in b"
    words.insert(2, overlap)
    return "  ·  ".join(words)


def _draw_pair(sheet, at, images, mask):
    for tile, pixels in enumerate(images):
        image = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.LANCZOS)
        if tile == 0 and mask is not None:
            image = outlined(image, mask)
        sheet.paste(image, (at[0] + tile * (TILE + GAP), at[1]))


def outlined(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """A copy of a square PIL image with the border of a (64, 64) bool mask drawn on it."""
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BICUBIC)
    whole = soft.filter(ImageFilter.GaussianBlur(image.width / 90)).point(
        lambda value: 255 * (value > 127)
    )
    for colour, width in (("white", 7), (OUTLINE, 3)):
        # A pale seam under the line keeps it visible on clothes of its own colour.
        border = ImageChops.subtract(
            whole.filter(ImageFilter.MaxFilter(width)), whole.filter(ImageFilter.MinFilter(width))
        )
        image = Image.composite(
            Image.new("RGB", image.size, colour),
            image,
            border.filter(ImageFilter.GaussianBlur(0.6)),
        )
    return image


def _draw_absent(sheet, at, words):
    draw = ImageDraw.Draw(sheet)
    draw.rectangle([at, (at[0] + PAIR_WIDTH - 1, at[1] + TILE - 1)], (244, 244, 245))
    words = _fitted(words, 15, PAIR_WIDTH - 2 * GAP)
    draw.text(
        (at[0] + PAIR_WIDTH // 2, at[1] + TILE // 2), words, PALE, ImageFont.load_default(15), "mm"
    )


def _write(sheet, at, words, size, colour=INK, most=WIDTH - 2 * MARGIN):
    ImageDraw.Draw(sheet).text(at, _fitted(words, size, most), colour, ImageFont.load_default(size))


def _width(words, size):
    return math.ceil(ImageFont.load_default(size).getlength(words))


def _fitted(words, size, most):
    """The words, cut with an ellipsis where they are wider than so many pixels."""
    if _width(words, size) <= most:
        return words
    while words and _width(words + "…", size) > most:
        words = words[:-1]
    return words + "…"
