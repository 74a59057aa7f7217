"""What the network sees of a crop and where its camera then is: the device half of augmentation.

An image that is cut, scaled and rotated is the image of another camera: same centre, other
intrinsics, rotated about its optical axis. So labels follow exactly, whatever the crop. A mirrored
image is that of a mirrored person.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from data.bodies.base import BodyModel, BodyParameters
from data.cropping.batch import crop_cameras, crop_squares, fit_rectangles, mirror_cameras
from data.cropping.geometry import Size
from data.loading.appearance import Appearance, crop_person, find_inside
from data.loading.augment import jitter, normalise, unpack_masks
from data.loading.crops import CENTRE_X, FLIP, ROTATION, SIDE, TAGS


@dataclass
class View:
    """B images for the network and their cameras.

    Attributes:
        images: (B, 3, S, S) or (B, 3, rows, columns) normalised, or None where the camera alone
            is wanted.
        K: (B, 3, 3) intrinsics in their pixels.
        rotation: (B, 3, 3) rotation from the crop's camera to the image's.  flip: (B,) bool,
            mirrored after that.
        squares: (B, 3) centre and side in pixels of the crops: what was cut, the images being its
            middle; None where the camera alone is wanted.
        find_clear: gives (B, 1, S, S) in [0, 1], how far each pixel of the images shows what the
            crop shows there, not what augmentation painted over it; None where it painted nothing.
        find_person: gives (B, 1, S, S) in [0, 1], how far each pixel of the images shows the
            person, by the crops' masks; None of a view of labels alone.
    """

    images: torch.Tensor | None
    K: torch.Tensor
    rotation: torch.Tensor
    flip: torch.Tensor
    squares: torch.Tensor | None = None
    find_clear: Callable[[], torch.Tensor] | None = None
    find_person: Callable[[], torch.Tensor] | None = None

    def require_squares(self) -> torch.Tensor:
        """Return ``squares``; ValueError of a view of labels alone."""
        if self.squares is None:
            raise ValueError("the view does not say which squares were cut")
        return self.squares

    def require_images(self) -> torch.Tensor:
        """Return ``images``; ValueError of a view of labels alone."""
        if self.images is None:
            raise ValueError("the batch has no pixels, so the view has no images")
        return self.images


def view(
    batch: Mapping[str, torch.Tensor], size: Size, appearance: Appearance | None = None
) -> View:
    """Returns the View of a batch of data.loading.crops arrays as tensors.

    Rectangular images show the middle of each square, which is grown first so that a person who is
    wider than the rectangle fits in (data.cropping.batch.fit_rectangles), black beyond the crop.

    Args:
        size: side S in pixels, or (rows, columns).
        appearance: changes rows that have the numbers for it, ``look``.
    """
    numbers = batch["numbers"]
    boxes, angle, flip = (
        numbers[:, CENTRE_X : SIDE + 1],
        numbers[:, ROTATION],
        numbers[:, FLIP] > 0.5,
    )
    if not isinstance(size, int):
        boxes = fit_rectangles(boxes, unpack_masks(batch["mask"])[:, 0], size)
    images = crop_squares(batch["pixels"].permute(0, 3, 1, 2).float().div_(255), boxes, size, angle)
    find_clear = None
    if appearance is not None and "look" in batch:
        sizes = batch["tags"][:, TAGS.index("size")].float()
        images = appearance(images, batch["look"], batch["mask"], boxes, sizes, angle)

        def find_clear() -> torch.Tensor:
            found = appearance.find_clear(batch["look"], batch["mask"], boxes, sizes, angle, size)
            return torch.where(flip[:, None, None, None], found.flip(-1), found)

    def find_person() -> torch.Tensor:
        sizes = batch["tags"][:, TAGS.index("size")].float()
        found = crop_person(batch["mask"], boxes, sizes, size, angle)
        found = found * find_inside(boxes, sizes, size, angle)
        found = torch.where(flip[:, None, None, None], found.flip(-1), found)
        return found if find_clear is None else found * find_clear()

    images = normalise(jitter(images, numbers[:, FLIP + 1 :]))
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    K, rotation = crop_cameras(batch["K"], boxes, angle, size)
    camera = mirror_cameras(K, flip, size)
    return View(images, camera, rotation, flip, boxes, find_clear, find_person)


class Targets:
    """Turns labels into what is to be recovered: a body model's parameters in the images' cameras.

    Args:
        body: the run's body model, coarse or full.
    """

    def __init__(self, body: BodyModel) -> None:
        # In a list, so that a module which holds this does not take the mesh for its own part.
        self._body = [body]

    def __call__(self, labels: Mapping[str, torch.Tensor], seen: View) -> BodyParameters:
        """Returns the parameters, in the frame of each image's camera.

        Args:
            labels: data.loading.crops arrays as tensors; ``pose`` as (B, 104, 3, 3) matrices.
            seen: how the images show the crops.
        """
        (body,) = self._body
        found = body.read_labels(labels, seen.flip)
        camera = seen.rotation @ labels["Rt"][:, :, :3]
        offset = (seen.rotation @ labels["Rt"][:, :, 3:])[..., 0]
        root = camera @ found.pose[:, 0]
        in_camera = BodyParameters(
            found.body,
            torch.cat([root[:, None], found.pose[:, 1:]], 1),
            found.shape,
            (camera @ found.translation[..., None])[..., 0] + offset,
        )
        return body.mirror_parameters(in_camera, seen.flip)
