"""Where a person is in the images of fixed, calibrated cameras.

Outlines to judge meshes by, without any network.

The person may cover the middle of the image for most of the take, so a median over time would
contain them. A *plate*, the empty scene, is grown instead: a pixel is taken from those instants at
which the known pixels around it show the plate, that is, when nobody stands there. A plate's colour
that is not steady (skin moves, walls do not) and is rather the person's is thrown out again. What
is then nobody's plate is known by colour alone.
"""

import dataclasses
from dataclasses import dataclass, field

import cv2
import numpy as np

from data.cropping.geometry import square_of_box
from data.cropping.host import cut_square
from data.sources.config import PairsConfig
from data.sources.multicam import plan_clips
from data.sources.probe import Problems
from data.sources.tables import read_track
from engine.config.parser import parse
from engine.errors import UserError
from engine.geometry import crop_intrinsics

SIZE = 480  # side of the images; a man 3.5 m from a camera of the treadmill is 190 px tall in them
# No instant's time is a multiple of it, so that clips of one instant that start so often hold each
# instant once.
STRIDE_S = 0.00141
BINS = 32  # of a colour histogram, for each channel
# Shares of the side of a crop's square (2.4 m for the treadmill's man): the person's axis is no
# farther than this to the side from any pixel of theirs but hands and feet; from their trunk.
NEAR, TRUNK = 0.22, 0.15
NEAR_HEIGHT = 0.4
SAME = (14, 7, 7)  # levels of L, a, b: less is the plate
WINDOW = 8  # px around a pixel that tell whether somebody stands there
LEVELS = (0.95, 0.9)  # shares of the window that show the plate
LEAST = 5  # instants a plate's pixel is made of
GROW_INSTANTS, STILL_INSTANTS = 50, 34
ROUNDS = 2  # more creep outwards: 0.5 % of the area each
# An outline whose area jumps by more than this against its neighbours in time is not used; nor one
# in pieces.
JUMP, NEIGHBOURS, WHOLE = 0.2, 7, 0.9


@dataclass
class View:
    """One camera's images, undistorted.

    Attributes:
        name: of the camera.  K: (3, 3) of the images.  Rt: (3, 4) world to camera.
        images: (n, SIZE, SIZE, 3) uint8, black where the camera saw nothing.  inside: (SIZE,
            SIZE) bool, where it did.
        squares: (n, 4) what ``python -m data pairs`` cuts out, in pixels of the images.
    """

    name: str
    K: np.ndarray
    Rt: np.ndarray
    images: np.ndarray
    inside: np.ndarray
    squares: np.ndarray


@dataclass
class Take:
    """A person before fixed cameras.

    Attributes:
        frames: n numbers.  track: (n, 3) world metres, a point on the person's axis.  up: (3,)
            unit, the world's.
        views: of all cameras that see the person in all frames.
        masks: (views, n, SIZE, SIZE) bool, the person.  usable: (views, n) bool, masks that can be
            relied on. Both are empty until ``prepare``.
    """

    frames: list[int]
    track: np.ndarray
    up: np.ndarray
    views: list[View]
    masks: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, SIZE, SIZE), bool))
    usable: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))


def prepare(
    videos: str,
    calibration: str,
    track: str,
    config: str = "configs/data/multicam_qualisys.yaml",
    every: int = 1,
) -> Take:
    """Return the Take with its outlines; 40 s of one core for 4 cameras x 100 frames of 1080p.

    Args:
        videos, calibration, track, config: as for ``python -m data pairs CONFIG``.  every: take
            every n-th frame.
    Raises:
        UserError: files that do not fit each other, cameras that do not see the person throughout.
    """
    take = read_take(videos, calibration, track, config, every)
    take.masks = np.stack([outlines(view) for view in take.views])
    take.usable = np.stack([usable(masks) for masks in take.masks])
    return take


def read_take(
    videos: str,
    calibration: str,
    track: str,
    config: str = "configs/data/multicam_qualisys.yaml",
    every: int = 1,
) -> Take:
    """Return the Take without outlines; see ``prepare``."""
    cfg = parse(
        PairsConfig,
        [
            config,
            f"videos={videos}",
            f"calibration={calibration}",
            f"track={track}",
            "out=none",
            "instants=1",
            f"stride_s={STRIDE_S}",
        ],
        "data pairs",
    )
    problems = Problems()
    plans, readers = plan_clips(cfg, problems)
    if problems.skipped:
        raise UserError("; ".join(f"{path}: {reason}" for path, reason in problems.skipped.items()))
    seen = [{crop.name: crop for crop in plan.crops} for plan in plans]
    names = [name for name in seen[0] if all(name in crops for crops in seen)] if seen else []
    if len(names) < 2:
        raise UserError(
            f"videos={videos}: {len(names)} cameras see the person in all {len(seen)} frames; 2 "
            f"are needed"
        )
    seen = seen[::every]
    # Cameras that number their frames apart are matched by the track's own numbers, which are those
    # of the instants.
    numbers = [int(plan.key.rsplit("-", 1)[1]) for plan in plans[::every]]
    points = read_track(track)
    views = [_view(name, [crops[name] for crops in seen], readers) for name in names]
    up = np.zeros(3)
    up["xyz".index(cfg.person.up[-1])] = -1.0 if cfg.person.up[0] == "-" else 1.0
    return Take(numbers, np.stack([points[number] for number in numbers]), up, views)


def _view(name, crops, readers):
    camera, places = crops[0].camera, {crop.frame: i for i, crop in enumerate(crops)}
    scale = SIZE / max(camera.width, camera.height)
    width, height = round(camera.width * scale), round(camera.height * scale)
    # Shrunk first, so that undistorting costs a sixteenth; a corner at 0 makes that a scale of the
    # intrinsics alone.
    shrunk = dataclasses.replace(
        camera,
        K=crop_intrinsics(camera.K, (0, 0, camera.width, camera.height), (width, height)),
        width=width,
        height=height,
    )
    left, top = (width - SIZE) / 2, (height - SIZE) / 2
    box = np.array([left, top, left + SIZE, top + SIZE])
    square = square_of_box(box)
    images = np.empty((len(crops), SIZE, SIZE, 3), np.uint8)
    for frame, image in readers[crops[0].path].get(places):
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        images[places[frame]] = cut_square(small, square, SIZE, shrunk)
    white = np.full((height, width, 3), 255, np.uint8)
    inside = cut_square(white, square, SIZE, shrunk)[..., 0] > 250
    ratio = np.array([width / camera.width, height / camera.height] * 2)
    squares = np.stack([crop.box for crop in crops]) * ratio - np.array([left, top] * 2)
    return View(
        name, crop_intrinsics(shrunk.K, box, (SIZE, SIZE)), camera.Rt, images, inside, squares
    )


def usable(masks: np.ndarray) -> np.ndarray:
    """(n,) bool: masks in one piece whose area is near that of the frames around them.

    Knows nothing of any prediction.
    """
    area = masks.sum((1, 2)).astype(float)
    out = []
    for i, mask in enumerate(masks):
        around = np.median(area[max(0, i - NEIGHBOURS) : i + NEIGHBOURS + 1])
        sizes = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2][
            1:, cv2.CC_STAT_AREA
        ]
        out.append(
            area[i] > 0
            and abs(area[i] - around) <= JUMP * around
            and sizes.max() >= WHOLE * area[i]
        )
    return np.array(out)


def outlines(view: View) -> np.ndarray:
    """(n, SIZE, SIZE) bool: the person in each image of a View."""
    part = _part(view)
    scene = _Scene(view, part)
    plate, known = scene.plate()
    for _ in range(ROUNDS):
        masks = scene.masks(plate, known)
        plate, known = scene.plate_around(masks)
    out = np.zeros(view.images.shape[:3], bool)
    out[(slice(None), *part)] = scene.masks(plate, known) & view.inside[part]
    return out


def _part(view):
    """(rows, columns) that hold all squares and are inside."""
    rows, columns = np.flatnonzero(view.inside.any(1)), np.flatnonzero(view.inside.any(0))
    x0, y0 = np.maximum(np.floor(view.squares[:, :2].min(0)).astype(int), (columns[0], rows[0]))
    x1, y1 = np.minimum(
        np.ceil(view.squares[:, 2:].max(0)).astype(int), (columns[-1] + 1, rows[-1] + 1)
    )
    return slice(y0, y1), slice(x0, x1)


class _Scene:
    """The images of one camera, in L*a*b*, with what the squares say of where the person can be.

    Attributes:
        lab: (n, H, W, 3) uint8.  near, square: (n, H, W) bool, near the person's axis; in the
            square around them.
        never: (H, W) bool, in a square but never near.  trusted: (H, W) bool, the trunk is
            elsewhere for most of the time.
        person, scene: colour histograms.
    """

    def __init__(self, view: View, part: tuple[slice, slice]) -> None:
        self.lab = np.stack(
            [cv2.cvtColor(p, cv2.COLOR_RGB2LAB) for p in view.images[(slice(None), *part)]]
        )
        height, width = self.lab.shape[1:3]
        x = np.arange(part[1].start, part[1].start + width)[None] + 0.5
        y = np.arange(part[0].start, part[0].start + height)[None] + 0.5
        side = view.squares[:, 2:3] - view.squares[:, :1]
        dx = np.abs(x - (view.squares[:, :1] + view.squares[:, 2:3]) / 2) / side
        dy = np.abs(y - (view.squares[:, 1:2] + view.squares[:, 3:4]) / 2) / side
        self.near = (dx < NEAR)[:, None] & (dy < NEAR_HEIGHT)[:, :, None]
        self.square = (dx < 0.5)[:, None] & (dy < 0.5)[:, :, None]
        self.never = ~self.near.any(0) & self.square.any(0)
        self.trusted = ~self.near.any(0) | ((dx < TRUNK).mean(0) < 0.4)[None]
        self.scene = histogram(self.lab[::10][:, self.never])
        self.person = np.zeros(0, np.float32)

    def plate(self) -> tuple[np.ndarray, np.ndarray]:
        """(plate (H, W, 3) uint8, known (H, W) bool), grown from what stays as it is."""
        some = self.lab[:: max(1, len(self.lab) // GROW_INSTANTS)]
        spread = np.ptp(
            np.percentile(self.lab[:: max(1, len(self.lab) // STILL_INSTANTS)], (5, 95), axis=0),
            axis=0,
        ).max(-1)
        known = cv2.erode((spread < SAME[0]).astype(np.uint8), np.ones((3, 3))) > 0
        plate, known = _grow(some, np.median(self.lab, 0).astype(np.uint8), known & self.trusted)
        self.person = self._moving(plate, known)
        doubtful = self._doubtful(plate)
        known &= ~doubtful
        self.person = self._moving(plate, known)
        # Where the plate was the person who stood still, the next best is looked for.
        plate, known = _grow(some, plate, known, _same(some, plate) & doubtful)
        known &= ~self._doubtful(plate)
        self.person = self._moving(plate, known)
        return plate, known

    def plate_around(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As ``plate``, of the instants at which masks leave a pixel free."""
        cross = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
        free = np.stack([cv2.dilate(m.astype(np.uint8), cross) == 0 for m in masks])
        known = free.sum(0) >= LEAST
        plate = np.median(self.lab, 0)
        y, x = np.nonzero(known)
        plate[y, x] = _median(self.lab[:, y, x], free[:, y, x])
        plate = plate.astype(np.uint8)
        self.person = histogram(self.lab[masks])
        return plate, known & ~self._doubtful(plate)

    def _moving(self, plate, known):
        """Histogram of what is near the axis and is not the plate."""
        differs = np.abs(self.lab.astype(np.int16) - plate).max(-1) > 25
        return histogram(self.lab[differs & known & self.near])

    def _doubtful(self, plate):
        """Return (H, W) bool: a plate that is not steady and not clearly the scene's.

        It is not steady in time, and not clearly of the scene's colours: skin shades as it moves.
        """
        off = np.abs(self.lab.astype(np.int16) - plate).max(-1)
        steady = (off <= 3).sum(0) / np.maximum((off <= 12).sum(0), 1)
        odds = np.log(look_up(self.person, plate)) - np.log(look_up(self.scene, plate))
        return (
            (cv2.boxFilter(steady.astype(np.float32), -1, (5, 5)) < 0.6) & (odds > -1) & ~self.never
        )

    def masks(self, plate: np.ndarray, known: np.ndarray) -> np.ndarray:
        """(n, H, W) bool: the person, against a plate where there is one."""
        out, five = [], cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        for lab, square, near in zip(self.lab, self.square, self.near, strict=True):
            odds = np.where(square, self._odds(lab, plate.astype(np.float32), known), -6).astype(
                np.float32
            )
            mask = (smooth(odds, lab[..., 0].astype(np.float32) / 255) > 0).astype(np.uint8)
            mask = cv2.morphologyEx(
                mask, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
            )
            # The piece that is most around the axis, with what lies within two pixels of it.
            pieces = cv2.connectedComponents(cv2.dilate(mask, five), connectivity=4)[1]
            sizes = np.bincount(pieces[(mask > 0) & near], minlength=1)
            sizes[0] = 0
            out.append((mask > 0) & (pieces == np.argmax(sizes)) & (pieces > 0))
        return np.stack(out)

    def _odds(self, lab, plate, known):
        """Return (H, W) log odds, -6 to 6, of the person.

        By their colours, against the plate's, darker in shadow, or the scene's.
        """
        off = lab.astype(np.float32) - plate
        light, tint = off[..., 0], off[..., 1] ** 2 + off[..., 2] ** 2
        lit = np.exp(-(light**2 / 8**2 + tint / 5**2) / 2) / (8 * 5 * 5 * (2 * np.pi) ** 1.5)
        deepest = 0.4 * np.maximum(plate[..., 0], 20)
        shadow = np.where(
            (light < 0) & (light > -deepest),
            np.exp(-tint / 4**2 / 2) / (4 * 4 * 2 * np.pi * deepest),
            0,
        )
        cell = (256 / BINS) ** 3
        other = look_up(self.scene, lab) / cell
        empty = np.where(known, 0.89 * lit + 0.1 * shadow + 0.01 * other, other)
        return np.clip(
            np.log(look_up(self.person, lab) / cell + 1e-12) - np.log(empty + 1e-12), -6, 6
        )


def _grow(lab, plate, known, barred=None):
    """The plate, pixel by pixel inwards from what is known of it.

    Args:
        lab: (n, H, W, 3) uint8.  plate: (H, W, 3) uint8.  known: (H, W) bool.  barred: (n, H, W)
            bool, not to be taken.
    Returns:
        plate, known.
    """
    plate, known, window = plate.copy(), known.copy(), (2 * WINDOW + 1,) * 2
    for level in LEVELS:
        while True:
            share = cv2.boxFilter(known.astype(np.float32), -1, window)
            y, x = np.nonzero(~known & (share > 0.2))
            if not len(y):
                break
            empty = np.stack(
                [
                    cv2.boxFilter(seen.astype(np.float32), -1, window)[y, x]
                    for seen in _same(lab, plate) & known
                ]
            )
            good = empty >= level * share[y, x]
            if barred is not None:
                good &= ~barred[:, y, x]
            values, count = lab[:, y, x], good.sum(0)
            middle = _median(values, good)
            agree = (good & (np.abs(values - middle).max(-1) < 10)).sum(0)
            ok = (count >= LEAST) & (agree >= 0.6 * count)
            if ok.sum() < 5:
                break
            plate[y[ok], x[ok]] = middle[ok]
            known[y[ok], x[ok]] = True
    return plate, known


def _same(lab, plate):
    off = np.abs(lab.astype(np.int16) - plate)
    return (off[..., 0] < SAME[0]) & (off[..., 1] < SAME[1]) & (off[..., 2] < SAME[2])


def _median(values, good):
    """(p, 3) lower median over the first axis of values (n, p, 3) where good (n, p).

    255 where there are none.

    numpy's nanmedian takes twenty times as long.
    """
    ordered = np.sort(np.where(good[..., None], values, 255), 0)
    return np.take_along_axis(ordered, (np.maximum(good.sum(0), 1) - 1)[None, :, None] // 2, 0)[
        0
    ].astype(np.float32)


def histogram(colours: np.ndarray) -> np.ndarray:
    """Return (BINS, BINS, BINS) float32 of colours (k, 3) uint8 or more axes.

    It sums to 1, is nowhere 0, and is blurred by a bin.
    """
    q = (colours.reshape(-1, 3).astype(np.int32) * BINS) >> 8
    out = (
        np.bincount((q[:, 0] * BINS + q[:, 1]) * BINS + q[:, 2], minlength=BINS**3)
        .reshape((BINS,) * 3)
        .astype(np.float32)
    )
    kernel = cv2.getGaussianKernel(7, 1.0).ravel()
    for axis in range(3):
        out = np.apply_along_axis(np.convolve, axis, out, kernel, "same").astype(np.float32)
    out += 1e-6 * max(out.sum(), 1)
    return out / out.sum()


def look_up(table: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return (...) entries of a histogram for colours (..., 3) uint8."""
    q = (colours.astype(np.int32) * BINS) >> 8
    return table[q[..., 0], q[..., 1], q[..., 2]]


def smooth(
    values: np.ndarray, guide: np.ndarray, radius: int = 3, floor: float = 2e-3
) -> np.ndarray:
    """Return (H, W) values smoothed but not across edges of ``guide`` (0 to 1).

    The guided filter (He et al., ECCV 2010).
    """

    def mean(x):
        return cv2.boxFilter(x, -1, (2 * radius + 1,) * 2)

    guide_mean, mean_value = mean(guide), mean(values)
    slope = (mean(guide * values) - guide_mean * mean_value) / (
        mean(guide * guide) - guide_mean**2 + floor
    )
    return mean(slope) * guide + mean(mean_value - slope * guide_mean)
