"""The true maps of crops: drawn from their labels, and seen as far as the person masks say.

Depth and normals are about the ray through the image's middle, as all that a head answers is
(finetune/crop_camera.py), so that equal crops ask for equal maps wherever in an image they were cut
out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from data.bodies.base import BodyModel, BodyParameters
from data.cropping.geometry import Size, find_longer, find_sides, find_size
from data.loading.appearance import crop_person, find_inside, find_known
from data.loading.crops import CENTRE_X, ROTATION, SIDE, TAGS
from finetune.crop_camera import find_ray_rotation
from finetune.heads.base import Truth
from finetune.maps.raster import Samples, draw_samples
from finetune.maps.surface import Surface, describe_surface

if TYPE_CHECKING:
    from finetune.views import View

HALF = 0.5  # of a sample: from there on it is the person


@dataclass(eq=False)
class TrueMaps:
    """Maps of B crops, (B, rows, columns) each.

    Attributes:
        silhouette: in [0, 1], how far a sample is the person, or the hand, as far as nothing hides
            them; of a person clothes and hair included where the clip has a mask.
        parts: int64, 0 where the person is not, else 1 to P; -1 where nobody knows, on clothes and
            hair that the body does not reach.
        seen: bool, where the body's surface is seen; what follows is known there alone.
        depth: metres along the middle's ray, about the root joint.
        normals: (B, 3, rows, columns) unit vectors, about the middle's ray.
        surface: (B, 3, rows, columns) metres, finetune.maps.surface.Surface.canonical.
    """

    silhouette: torch.Tensor
    parts: torch.Tensor
    seen: torch.Tensor
    depth: torch.Tensor
    normals: torch.Tensor
    surface: torch.Tensor


class MapDrawer:
    """Draws true maps; made once for a body model.

    Args:
        body: the full body model.
        vertices: of the mesh that is drawn, about; 0: all of them.
    """

    def __init__(self, body: BodyModel, vertices: int = 0) -> None:
        drawn = body.coarse(vertices) if 0 < vertices < len(body.vertex_ids) else body
        self.body = drawn.to(body.vertex_ids.device)
        self.surface: Surface = describe_surface(body, self.body)

    @torch.no_grad()
    def __call__(self, truth: Truth, size: Size) -> TrueMaps:
        """Returns the maps of ``size`` px of what crops show, of the shape of their images."""
        if truth.mesh.parameters is None:
            raise ValueError("maps are drawn of a posed body model")
        K = scale_camera(truth.K, find_longer(size) / find_longer(truth.size))
        samples = self.draw(truth.mesh.parameters, K, size)
        person = find_person(truth.batch, truth.seen, samples.drawn)
        if truth.seen is not None and truth.seen.find_clear is not None:
            clear = F.interpolate(truth.seen.find_clear(), size=find_sides(size), mode="area")
            person = person * clear[:, 0]
        # A mask is the whole person's, arm and all: of a hand the mesh says where it ends.
        is_hand = self.body.kind == "hand"
        silhouette = person * samples.drawn if is_hand else person
        return make_maps(samples, silhouette, truth.mesh.joints[:, 0], K, size)

    def draw(self, parameters: BodyParameters, K: torch.Tensor, size: Size) -> Samples:
        """Returns the Samples of posed bodies. ``K``: in pixels of maps of ``size`` px."""
        surface = self.surface.to(K.device)
        self.surface, self.body = surface, self.body.to(K.device)
        vertices, _ = self.body(parameters.pose, parameters.translation, parameters.shape)
        return draw_samples(vertices, surface, K, size)


def scale_camera(K: torch.Tensor, factor: float) -> torch.Tensor:
    """Returns (B, 3, 3) intrinsics of images that are resized by a factor."""
    return K * K.new_tensor([[factor], [factor], [1.0]])


def make_maps(
    samples: Samples, silhouette: torch.Tensor, root: torch.Tensor, K: torch.Tensor, size: Size
) -> TrueMaps:
    """Returns the TrueMaps of what is drawn and what is seen.

    Args:
        silhouette: (B, rows, columns) in [0, 1].  root: (B, 3) metres, camera's frame.
        K: (B, 3, 3) in pixels of the maps.  size: of the maps.
    """
    person = silhouette > HALF
    seen = samples.drawn & person
    nobody_knows = person & ~samples.drawn
    rotation = find_ray_rotation(K, size)
    points = (samples.points - root[:, None, None]) @ rotation[:, None]
    normals = samples.normals @ rotation[:, None]
    parts = torch.where(seen, samples.parts.long(), torch.where(nobody_knows, -1, 0))
    return TrueMaps(
        silhouette,
        parts,
        seen,
        points[..., 2] * seen,
        (normals * seen[..., None]).permute(0, 3, 1, 2),
        (samples.surface * seen[..., None]).permute(0, 3, 1, 2),
    )


def find_person(
    batch: Mapping[str, torch.Tensor], seen: "View | None", drawn: torch.Tensor
) -> torch.Tensor:
    """Returns (B, rows, columns) in [0, 1]: how far each sample is the person who is seen.

    By the clip's mask, in which whatever stood before the person is missing; where there is none,
    by the mesh. What lies beyond the crop's image is not seen.

    Args:
        batch: data.loading.crops arrays as tensors.
        seen: how the images show the crops; None: the squares of the batch, no image mirrored.
        drawn: (B, rows, columns) bool, where the mesh is.
    """
    size, angle = find_size(drawn), batch["numbers"][:, ROTATION]
    squares = batch["numbers"][:, CENTRE_X : SIDE + 1] if seen is None else seen.require_squares()
    sizes = batch["tags"][:, TAGS.index("size")].float()
    inside = find_inside(squares, sizes, size, angle)[:, 0].float()
    person = crop_person(batch["mask"], squares, sizes, size, angle)[:, 0] * inside
    if seen is not None:
        turned = seen.flip[:, None, None]
        person = torch.where(turned, person.flip(-1), person)
        inside = torch.where(turned, inside.flip(-1), inside)
    known = find_known(batch["mask"])[:, None, None]
    return torch.where(known, person, drawn.float() * inside)
