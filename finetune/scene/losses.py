"""What the answers about whole images are compared with.

Bodies are compared as those of single people are (finetune/losses.py), each in a camera that shows
about two metres around it: far people count as near ones. All terms are sums over an image's
people, or over what there is of it, so that the gradient does not depend on how a batch is divided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data.bodies.base import BodyModel
from data.format.joint_sets import find_joint_set
from data.format.labels import OUTSIDE
from data.loading.frames import KEYPOINT_SET
from finetune import losses
from finetune.crop_camera import focal_length
from finetune.heads.base import Term, Truth, pose_body
from finetune.scene.anchors import draw_heat
from finetune.scene.decode import decode_people, find_pixels, to_span
from finetune.scene.network import SceneAnswer
from finetune.scene.truth import SceneTruth

OF_IMAGES = ("heat", "confidence")
OF_ANCHORS = ("offset", "keypoints_2d", "track")
OF_BODIES = ("depth", "anchor", "rotation", "shape", "joints", "vertices", "face")
NAMES = (*OF_IMAGES, *OF_ANCHORS, *OF_BODIES)
SHARED: tuple[Term, ...] = tuple(
    term for term in losses.TERMS if term.name in (*OF_ANCHORS, *OF_BODIES)
)
PEOPLE = 4  # in an image, that one term of a person is divided by
AROUND_M = 2.2  # what the camera about a person shows
SIDE = 256  # its pixels
SHARPNESS = 0.1  # of who is who: cosines are divided by it
WRONG = 2.0  # power of the focal loss


@dataclass(eq=False)
class Pairing:
    """Which answers are about which people.

    Attributes:
        image, query, place: (n,) numbers; ``place`` of the person in the image's labels.
    """

    image: torch.Tensor
    query: torch.Tensor
    place: torch.Tensor

    def take(self, rows: torch.Tensor) -> "Pairing":
        """Return those of some rows."""
        return Pairing(self.image[rows], self.query[rows], self.place[rows])


def pair_people(there: torch.Tensor) -> Pairing:
    """Return who is answered by which query: those who are there by the first ones, in order."""
    image, place = there.nonzero().unbind(1)
    return Pairing(image, there.cumsum(1)[image, place] - 1, place)


def compare_scene(
    answer: SceneAnswer, truth: SceneTruth, body: BodyModel, patch: int
) -> dict[str, torch.Tensor]:
    """Return {term of NAMES: (B,) sums over an image's people} and "people", "bodies": (B,) counts.

    Args:
        answer: of a network that was asked for ``truth.anchors`` first.
        body: the coarse body model.
    """
    grid = tuple(side // patch for side in truth.frames.images.shape[-2:])
    count = len(answer.heat)
    heat = draw_heat(truth.anchors, (grid[0], grid[1]))
    there = truth.anchors.there
    pairs = pair_people(there)
    found = {
        "heat": compare_heat(answer.heat, heat, truth.counts),
        "confidence": compare_confidence(answer, there, truth.counts),
        "track": compare_tracks(answer, truth, pairs),
        "people": there.sum(1).float(),
        "bodies": truth.bodies.sum(1).float(),
    }

    def add(name: str, rows: Pairing, values: torch.Tensor) -> None:
        sums = found.get(name, answer.heat.new_zeros(count))
        found[name] = sums.index_add(0, rows.image, values.float())

    picked = answer.select(pairs.image, pairs.query)
    pixel = truth.anchors.pixel[pairs.image, pairs.place]
    apart = (find_pixels(picked, patch) - pixel).abs().mean(1) / patch
    add("offset", pairs, apart)
    known = truth.bodies[pairs.image, pairs.place]
    bodies, flat = pairs.take(known.nonzero()[:, 0]), pairs.take((~known).nonzero()[:, 0])
    for name in NAMES:
        found.setdefault(name, answer.heat.new_zeros(count))
    if len(bodies.image):
        for name, values in compare_bodies(answer, truth, bodies, body, patch).items():
            add(name, bodies, values)
    if len(flat.image):
        add("keypoints_2d", flat, compare_points(answer, truth, flat, body, patch))
    # Where nobody is seen the layers of bodies get a gradient too, of 0: ranks wait for all.
    found["confidence"] = found["confidence"] + 0 * answer.sum_all()
    return found


def compare_heat(logits: torch.Tensor, heat: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return (B,) the focal loss of a heat map (B, N, SLOTS), its sum over PEOPLE.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017. Where an error does not count
    (``counts`` (B, N) of SceneTruth) only people who are there tell something.
    """
    loss = F.binary_cross_entropy_with_logits(logits, heat, reduction="none")
    wrong = (logits.sigmoid() - heat).abs().pow(WRONG)
    told = (heat > 0) | counts[..., None]
    return (wrong * loss * told).sum((1, 2)) / PEOPLE


def compare_confidence(
    answer: SceneAnswer, there: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Return (B,) cross-entropy of whether queries are at somebody, its sum over PEOPLE.

    ``counts``: as in ``compare_heat``.
    """
    logits = answer.confidence
    number = torch.arange(logits.shape[1], device=logits.device)
    somebody = (number < there.sum(1, keepdim=True)).float()
    loss = F.binary_cross_entropy_with_logits(logits, somebody, reduction="none")
    told = (somebody > 0) | counts.gather(1, answer.token)
    return (loss * told).sum(1) / PEOPLE


def compare_tracks(answer: SceneAnswer, truth: SceneTruth, pairs: Pairing) -> torch.Tensor:
    """Return (B,) cross-entropy of who is who in the neighbouring image, 2k and 2k + 1.

    A sum over those people of an image who are in the other one too; chosen among all who are.
    """
    there, track = truth.anchors.there, truth.frames.track
    count, most, size = *there.shape, answer.embedding.shape[-1]
    if count % 2:
        return answer.heat.new_zeros(count) + 0 * answer.embedding.sum()
    said = answer.embedding.new_zeros(count, most, size)
    said = said.index_put((pairs.image, pairs.place), answer.embedding[pairs.image, pairs.query])
    said, there, track = (x.unflatten(0, (-1, 2)) for x in (said, there, track))
    both = there[:, 0, :, None] & there[:, 1, None]
    same = both & (track[:, 0, :, None] == track[:, 1, None])
    alike = (said[:, 0] @ said[:, 1].mT).float() / SHARPNESS
    alike = alike.masked_fill(~both, -1e4)
    sums = [-(alike.log_softmax(axis) * same).sum((1, 2)) for axis in (2, 1)]
    return torch.stack(sums, 1).flatten()


def look_around(K: torch.Tensor, centre: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
    """Return (n, 3, 3) cameras of SIDE pixels that show squares of images.

    Args:
        K: (n, 3, 3).  centre: (n, 2), side: (n,) in pixels of the images.
    """
    scale = SIDE / side
    out = K * 1.0
    out[:, :2] *= scale[:, None, None]
    out[:, :2, 2] += SIDE / 2 - centre * scale[:, None]
    return out


def compare_bodies(
    answer: SceneAnswer, truth: SceneTruth, pairs: Pairing, body: BodyModel, patch: int
) -> dict[str, torch.Tensor]:
    """Return {term of a body: (n,)} of people whose bodies are known."""
    image, place, query = pairs.image, pairs.place, pairs.query
    picked, K = answer.select(image, query), truth.K[image]
    joint, depth = truth.anchors.joint[image, place], truth.depth[image, place]
    with torch.no_grad():
        true = pose_body(body, truth.take_parameters(body, image, place))
        wide = AROUND_M * focal_length(K) / depth.clamp_min(0.3)
        around = look_around(K, truth.anchors.pixel[image, place], wide)
        span = to_span(depth, K, patch)
    found = decode_people(picked, K, joint, body, patch)
    terms = losses.compute_terms(SHARED, found, Truth(true, around, SIDE))
    apart = (picked.span - span).abs() + (picked.coarse_span - span).abs()
    return terms | {
        "depth": apart / 2,
        "anchor": F.cross_entropy(picked.anchor, joint, reduction="none"),
        "face": (picked.face - truth.frames.face[image, place]).square().mean(1),
    }


def list_places(names: Sequence[str], body: BodyModel) -> tuple[list[int], list[int]]:
    """Return which of some points a body has as landmarks, and as which."""
    there = [number for number, name in enumerate(names) if name in body.landmark_names]
    return there, [body.landmark_names.index(names[number]) for number in there]


def compare_points(
    answer: SceneAnswer, truth: SceneTruth, pairs: Pairing, body: BodyModel, patch: int
) -> torch.Tensor:
    """Return (n,) L1 of keypoints in the image of people of whom nothing else is known.

    Over the longer side of the person's box.
    """
    image, place = pairs.image, pairs.place
    joint, K = truth.anchors.joint[image, place], truth.K[image]
    joint = torch.full_like(joint, body.joint_names.index("head"))
    found = decode_people(answer.select(image, pairs.query), K, joint, body, patch)
    there, landmarks = list_places(find_joint_set(KEYPOINT_SET).joints, body)
    points = body.landmarks(found.vertices, found.joints)[:, landmarks]
    wanted = truth.frames.keypoints[image, place][:, there]
    visible = truth.frames.keypoint_visible[image, place][:, there] != OUTSIDE
    known = visible * wanted[..., 2]
    box = truth.frames.box[image, place]
    side = (box[:, 2:] - box[:, :2]).amax(1).nan_to_num(max(truth.frames.images.shape[-2:]))
    apart = (losses.project_points(points, K) - wanted[..., :2]).abs().mean(-1)
    return (apart * known).mean(1) / side.clamp_min(patch)
