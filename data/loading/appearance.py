"""Strong appearance augmentation on the device: from numbers drawn on the host, a batch at once.

An image's changes depend on the uniform numbers of its slot, on the keys, and on the images of
its block of up to BLOCK neighbouring rows, out of which backgrounds and occluders are cut; so they
are the same after a resume, with any number of workers, and on any number of processes that have
whole blocks. Only pixels change: cameras and labels stay as they are.
"""

import functools
import math

import torch
import torch.nn.functional as F

from data.cropping.batch import crop_padded, crop_squares
from data.cropping.geometry import Size, find_longer, find_sides, find_size
from data.loading import appearance_keys as columns
from data.loading.appearance_keys import AppearanceKeys, BackgroundKeys
from data.loading.augment import unpack_masks
from data.loading.backdrops import draw_backdrops, read_photos
from data.loading.degrade import change_tone, degrade
from data.loading.occluders import choose_rows, find_free, hide_parts, put_rows

SMOOTHING = (1 / 6, 4 / 6, 1 / 6)  # of a mask's cells along and across
OWN_SHARE = 0.3  # of pairs with other backgrounds: those whose images have one each
BLOCK = 8  # neighbouring rows that take pieces of each other; see _neighbours


class Appearance:
    """Replaces backgrounds, hides parts of people, and spoils images.

    Args:
        keys: which of this, and how often.  device: where the batches are.
    Raises:
        UserError: ``data.augment.backgrounds`` holds nothing that can be read.
    """

    def __init__(self, keys: BackgroundKeys, device: torch.device) -> None:
        self.keys = keys
        self.drawn = _draw_bank(device)
        self.photos = _to_bank(read_photos(keys.backgrounds), device) if keys.backgrounds else None

    def __call__(
        self,
        images: torch.Tensor,
        look: torch.Tensor,
        bits: torch.Tensor,
        squares: torch.Tensor,
        sizes: torch.Tensor,
        angle: torch.Tensor,
    ) -> torch.Tensor:
        """Return the images, changed.

        Args:
            images: (B, 3, S, S) float in [0, 1], the squares of their crops, or (B, 3, rows,
                columns), the middles of these; overwritten.
            look: (B, DRAWS) uniform numbers.
            bits: (B, 512) uint8, the crops' masks.
            squares, angle: (B, 3) and (B,) as data.cropping.batch.crop_squares has them.
            sizes: (B,) pixels of each crop's side.
        """
        keys, size = self.keys, find_size(images)
        whole = isinstance(keys, AppearanceKeys)
        u = look[:, columns.BACKGROUND]
        replaced = (u[:, 0] < keys.background_share) & find_known(bits)
        donors = _neighbours(u[:, 1])
        hidden = look[:, columns.OCCLUDER][:, 0] < (keys.occluder_share if whole else 0)
        cut = look[:, columns.TRUNCATE][:, 0] < (keys.truncate_share if whole else 0)
        rows = choose_rows(replaced | hidden | cut)
        person = images.new_zeros(len(images), 1, *find_sides(size))
        if len(rows):
            person[rows] = crop_person(bits[rows], squares[rows], sizes[rows], size, angle[rows])
        rows = choose_rows(replaced)
        if keys.background_share and len(rows):
            inside = find_inside(squares[rows], sizes[rows], size, angle[rows])
            away = (1 - person[rows]) * inside
            behind = self.make_backdrops(images, donors[rows], u[rows, 2:])
            changed = torch.lerp(images[rows], behind, away)
            images = put_rows(images, rows, replaced, changed)
        if not isinstance(keys, AppearanceKeys):
            return images
        covered = images.new_zeros(len(images))
        if keys.occluder_share:
            u = look[:, columns.OCCLUDER][:, 1:]
            images, covered = hide_parts(images, u, hidden, donors, person)
        if keys.degrade_share:
            images = degrade(images, look[:, columns.DEGRADE], keys.degrade_share)
        if keys.tone or keys.hue_deg or keys.grey_share:
            hue = math.radians(keys.hue_deg)
            images = change_tone(images, look[:, columns.TONE], keys.tone, hue, keys.grey_share)
        if keys.truncate_share:
            u = look[:, columns.TRUNCATE][:, 1:]
            images = truncate(images, u, cut, person, covered)
        return images

    def find_clear(
        self,
        look: torch.Tensor,
        bits: torch.Tensor,
        squares: torch.Tensor,
        sizes: torch.Tensor,
        angle: torch.Tensor,
        size: Size,
    ) -> torch.Tensor:
        """Return (B, 1, S, S) in [0, 1]: how far each pixel shows what it showed before.

        Of what is painted over people: shapes and bands. Backgrounds do not count.

        Args:
            look, bits, squares, sizes, angle: as ``__call__`` has them.  size: of the images.
        """
        keys = self.keys
        clear = torch.ones(len(look), 1, *find_sides(size), device=look.device)
        if not isinstance(keys, AppearanceKeys):
            return clear
        hidden = look[:, columns.OCCLUDER][:, 0] < keys.occluder_share
        cut = look[:, columns.TRUNCATE][:, 0] < keys.truncate_share
        rows = choose_rows(hidden | cut)
        if not len(rows):
            return clear
        person = torch.zeros_like(clear)
        person[rows] = crop_person(bits[rows], squares[rows], sizes[rows], size, angle[rows])
        clear, covered = find_free(look[:, columns.OCCLUDER][:, 1:], hidden, person)
        return truncate(clear, look[:, columns.TRUNCATE][:, 1:], cut, person, covered)

    def change_pairs(
        self,
        images: torch.Tensor,
        look: torch.Tensor,
        bits: torch.Tensor,
        squares: torch.Tensor,
        sizes: torch.Tensor,
    ) -> torch.Tensor:
        """Return the images of pairs of pre-training with other backgrounds.

        All images of a row show one backdrop, from places near each other: what a masked patch of
        it hides is told by the other image, as in a scene. In OWN_SHARE of the rows each has its
        own, and only the person tells how they belong together. The person must be known in all.

        Args:
            images: (R, I, 3, S, S) float in [0, 1], the squares of I images of R rows.
            look: (R, DRAWS) uniform numbers.  bits: (R, I, 512) uint8.
            squares: (R, I, 3).  sizes: (R,) pixels of each image's side.
        """
        size, count = find_size(images), images.shape[1]
        u, own = look[:, columns.BACKGROUND], look[:, columns.OCCLUDER]
        known = find_known(bits.flatten(0, 1)).unflatten(0, (-1, count)).all(1)
        replaced = (u[:, 0] < self.keys.background_share) & known
        rows = choose_rows(replaced)
        if not len(rows):
            return images
        donors, first, changed = _neighbours(u[:, 1])[rows], images[:, 0], []
        apart = (own[rows, 0] < OWN_SHARE)[:, None]
        for number in range(count):
            # Along and across by up to a seventh of the way there is; an image of its own takes
            # other numbers for all.
            numbers = u[rows, 2:].clone()
            moved = own[rows][:, 1 + 2 * number % 32 :][:, :2] - 0.5
            numbers[:, 4:6] = (numbers[:, 4:6] + 0.15 * moved).clamp(0, 1)
            others = (numbers + 0.618 * number) % 1
            behind = self.make_backdrops(first, donors, torch.where(apart, others, numbers))
            square, angle = squares[rows, number], torch.zeros_like(sizes[rows])
            person = crop_person(bits[rows, number], square, sizes[rows], size, angle)
            away = (1 - person) * find_inside(square, sizes[rows], size, angle)
            changed.append(torch.lerp(images[rows, number], behind, away))
        return put_rows(images, rows, replaced, torch.stack(changed, 1))

    def make_backdrops(
        self, images: torch.Tensor, donors: torch.Tensor, u: torch.Tensor
    ) -> torch.Tensor:
        """(n, 3, S, S) in [0, 1]: photographs, pieces of other images, and drawn ones.

        Args:
            images: (B, 3, S, S) in [0, 1].  donors: (n,) indices of images, for pieces.
            u: (n, 14) uniform numbers.
        """
        size = find_size(images)
        photo = 0.0 if self.photos is None else 0.5
        from_batch = u[:, 0] >= photo + (1 - photo) / 2
        out = images.new_zeros(len(donors), *images.shape[1:])
        rows = choose_rows(from_batch)
        if len(rows):
            squares = _place_piece(u[rows], size)
            found = crop_squares(images[donors[rows]], squares, size)
            out = put_rows(out, rows, from_batch, found)
        from_photos = u[:, 0] < photo
        out = self._put_bank(out, self.drawn, ~(from_batch | from_photos), u)
        if self.photos is not None:
            out = self._put_bank(out, self.photos, from_photos, u)
        # As a lens leaves what is far behind.
        soft = u[:, 7] < 0.3
        rows = choose_rows(soft)
        if len(rows):
            small = F.avg_pool2d(out[rows], 4, ceil_mode=True)
            out = put_rows(out, rows, soft, F.interpolate(small, size=size, mode="bilinear"))
        return out.mul_(0.6 + 0.7 * u[:, 8, None, None, None]).clamp_(0, 1)

    @staticmethod
    def _put_bank(textures, bank, chosen, u):
        """Textures of which the chosen are pieces of images of a bank."""
        rows = choose_rows(chosen)
        if not len(rows):
            return textures
        u, size, side = u[rows], find_size(textures), bank.shape[-1]
        # Its digits beyond those that the choice of the kind used.
        index = (u[:, 0] * 64 % 1 * len(bank)).long().clamp(max=len(bank) - 1)
        cut = side * (0.4 + 0.6 * u[:, 1])
        spot = cut[:, None] / 2 + (side - cut)[:, None] * u[:, 4:6]
        images = bank[index].float().div_(255)
        found = crop_squares(images, torch.cat([spot, cut[:, None]], 1), size)
        return put_rows(textures, rows, chosen, found)


def open_appearance(keys: BackgroundKeys, device: torch.device) -> Appearance | None:
    """The Appearance of a run's keys, or None where all are off."""
    return Appearance(keys, device) if keys.draws else None


@functools.cache
def _make_smoothing(device):
    """(1, 1, 3, 3) kernel over a mask's cells, kept on the device."""
    line = torch.tensor(SMOOTHING, device=device)
    return (line[:, None] * line)[None, None]


@functools.cache
def _draw_bank(device):
    return _to_bank(draw_backdrops(), device)


def _to_bank(images, device):
    """(N, 3, S, S) uint8 on the device of (N, S, S, 3)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)


def _neighbours(u):
    """(B,) another row of each row's block: of BLOCK rows, or of what divides the batch."""
    block = math.gcd(len(u), BLOCK)
    row = torch.arange(len(u), device=u.device)
    step = 1 + (u * (block - 1)).long().clamp(max=max(0, block - 2))
    return row - row % block + (row % block + step) % block


def _place_piece(u, size):
    """(n, 3) squares about corners of images of a Size, for pieces that are enlarged.

    A person in such a piece is cut, and too large to be taken for the one who is meant.
    """
    (rows, columns), longer = find_sides(size), find_longer(size)
    side = longer * (0.3 + 0.35 * u[:, 1:2])
    corner = (u[:, 2:4] > 0.5).float()
    spots = []
    for axis, length in enumerate((columns, rows)):
        at = corner[:, axis] + (0.5 - corner[:, axis]) * (0.3 + 0.5 * u[:, 4 + axis])
        half = side[:, 0] / 2 * (length / longer)
        spots.append(torch.minimum(torch.maximum(length * at, half), length - half))
    return torch.cat([torch.stack(spots, 1), side], 1)


def find_known(bits: torch.Tensor) -> torch.Tensor:
    """(B,) bool: whether it is known where the person is. ``bits``: (B, 512) uint8 masks."""
    return (bits != 255).any(1)


def crop_person(
    bits: torch.Tensor,
    squares: torch.Tensor,
    sizes: torch.Tensor,
    size: Size,
    angle: torch.Tensor,
) -> torch.Tensor:
    """(B, 1, S, S) in [0, 1]: how far each pixel of the crops is the person.

    The mask's edge runs where half of a cell is the person. Its steps are smoothed, and the edge is
    soft over about a cell. Grown by half a cell, it kept a bright rim of the old background around
    dark scenes' people, which a network could find them by; limbs of one cell stay as it is.

    Args:
        bits: (B, 512) uint8.  squares, angle: of the crops.  sizes: (B,) pixels that a mask covers.
        size: side S of the result, or its (rows, columns).
    """
    squares = squares * (64 / sizes)[:, None]
    padded = F.pad(unpack_masks(bits), (1, 1, 1, 1), mode="replicate")
    smooth = F.conv2d(padded, _make_smoothing(bits.device))
    masks = crop_padded(smooth, squares, size, "border", angle)
    return masks.sub_(0.3).mul_(2).clamp_(0, 1)


def find_inside(
    squares: torch.Tensor, sizes: torch.Tensor, size: Size, angle: torch.Tensor
) -> torch.Tensor:
    """(B, 1, S, S) bool: which pixels of the squares lie in their images, of ``sizes`` (B,).

    Of a rectangular size (B, 1, rows, columns).
    """
    longer, lines = find_longer(size), []
    for length in find_sides(size):
        line = (torch.arange(length, device=squares.device) + 0.5) / longer - length / (2 * longer)
        lines.append(line * squares[:, 2:])
    x, y = lines[1][:, None, :], lines[0][:, :, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    u = cos * x - sin * y + squares[:, 0, None, None]
    v = sin * x + cos * y + squares[:, 1, None, None]
    half = sizes[:, None, None] / 2
    return (torch.maximum((u - half).abs(), (v - half).abs()) <= half)[:, None]


def truncate(
    images: torch.Tensor,
    u: torch.Tensor,
    chosen: torch.Tensor,
    person: torch.Tensor,
    covered: torch.Tensor,
) -> torch.Tensor:
    """Blacken bands along one or two sides, where at least half of the person stays to be seen.

    Args:
        images: (B, 3, H, W); overwritten.  u: (B, 3) uniform numbers.  chosen: (B,) bool.
        person: (B, 1, H, W).  covered: (B,) share of the person that is hidden already.
    """
    rows = choose_rows(chosen)
    u, person = u[rows], person[rows]
    lines = []
    for size in images.shape[-2:]:
        line = (torch.arange(size, device=images.device) + 0.5) / size
        lines.append(torch.where((u[:, 0] % 0.5 < 0.25)[:, None], line, 1 - line))
    wide, high = 0.08 + 0.3 * u[:, 1], 0.08 + 0.3 * u[:, 2]
    both, upright = u[:, 0] * 64 % 1 < 0.25, u[:, 0] < 0.5
    cut_x = (lines[1] < wide[:, None]) & (upright | both)[:, None]
    cut_y = (lines[0] < high[:, None]) & (~upright | both)[:, None]
    band = (cut_x[:, None, :] | cut_y[:, :, None])[:, None]
    lost = (person * band).sum((1, 2, 3)) / person.sum((1, 2, 3)).clamp(min=1e-6)
    band = band & (lost + covered[rows] <= 0.5)[:, None, None, None]
    return put_rows(images, rows, chosen, images[rows].masked_fill(band, 0))
