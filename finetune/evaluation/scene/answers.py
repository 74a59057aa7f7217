"""How a run answers to whole frames: a finder and crops, or a network for scenes at once."""

from collections.abc import Callable, Sequence

import numpy as np

from data.find.finder import Finder
from data.format.joint_sets import find_joint_set
from engine.errors import UserError
from engine.run.run_folder import find_weights_file
from finetune.evaluation.scene.truth import KEYPOINT_SET, TrueFrame, cut_box
from finetune.fit.refine import make_keys
from finetune.fit.refine_people import PeopleRefiner
from finetune.inference.predictor import Predictor, find_checkpoint
from finetune.inference.search import Region, find_regions
from finetune.prompts import PROMPTED
from finetune.released.locate import locate_network
from finetune.scene.found import FindEverybody, FoundPerson
from finetune.scene.network_file import KEY
from pretrain.files import read_metadata

Answer = Callable[[TrueFrame], list[FoundPerson]]
KIND = "body"
LEAST_SCORE = 0.3  # of who is found by a finder, as predict takes it


class CropPath:
    """A finder of people, and a network that recovers each from a crop, as ``predict`` does.

    Args:
        predictor: of bodies.
        finder: None where boxes are given.
        least_score: people who are found with a lower score are left out.
        refine: whether bodies are moved onto the keypoints that were found.
    """

    def __init__(
        self,
        predictor: Predictor,
        finder: Finder | None,
        least_score: float = LEAST_SCORE,
        refine: bool = True,
    ) -> None:
        self.predictor, self.finder, self.least_score = predictor, finder, least_score
        self.masks = predictor.config.head.prompt_mask
        self.refiner = PeopleRefiner({KIND: predictor.body}, make_keys()) if refine else None

    def __call__(self, image: np.ndarray, K: np.ndarray | None) -> list[FoundPerson]:
        """Return everybody who is found, the surest first; see finetune.scene.found."""
        regions = self.find(image)
        return self.refine(self.recover(image, regions, K), regions)

    def find(self, image: np.ndarray) -> list[Region]:
        """Return where people are in an image (H, W, 3) uint8, the surest first."""
        if self.finder is None:
            raise ValueError("this CropPath was opened without a finder")
        return find_regions(self.finder, image, (KIND,), self.least_score, self.masks)[KIND]

    def recover(
        self, image: np.ndarray, regions: Sequence[Region], K: np.ndarray | None
    ) -> list[FoundPerson]:
        """Return the person of each region, by the network alone."""
        if not regions:
            return []
        people = self.predictor(
            image,
            [region.box for region in regions],
            K,
            None,
            [region.keypoints for region in regions],
            [region.mask for region in regions] if self.finder is not None else None,
        )
        return [
            FoundPerson(person, region.score)
            for person, region in zip(people, regions, strict=True)
        ]

    def refine(self, found: Sequence[FoundPerson], regions: Sequence[Region]) -> list[FoundPerson]:
        """Return people moved onto the keypoints of their regions, if that is wanted."""
        if self.refiner is None or not found:
            return list(found)
        points = [region.keypoints for region in regions]
        moved = self.refiner.refine([one.person for one in found], points, KIND)
        return [FoundPerson(person, one.score) for person, one in zip(moved, found, strict=True)]


def is_scene_run(run: str) -> bool:
    """Return whether a run, one of its checkpoints or a file is a network for whole images.

    Raises:
        UserError: there is no such run, or it has no complete checkpoint.
    """
    place = locate_network(run)
    file = place if place.is_file() else find_weights_file(find_checkpoint(place, "run")[1])
    return KEY in read_metadata(file)


def open_body_predictor(run: str, device: str, command: str) -> Predictor:
    """Return the Predictor of a run that recovers anny's bodies from crops.

    Args:
        command: that wants it, for messages.
    Raises:
        UserError: it recovers no meshes, hands, or another body model.
    """
    predictor = Predictor(run, device).require_mesh(command)
    if predictor.body.name != "anny":
        raise UserError(
            f"run={run} recovers {predictor.body.name}; labels of whole frames are of anny"
        )
    return predictor


def give_image(find: FindEverybody, known: bool) -> Answer:
    """Return what answers to a frame by its image.

    Args:
        known: whether the frame's intrinsics are given.
    """
    return lambda true: find(true.image, true.K if known else None)


def give_regions(path: CropPath, known: bool) -> Answer:
    """Return what answers to a frame by what a perfect finder says; see ``list_true_regions``.

    Args:
        known: whether the network is given the frame's intrinsics.
    """

    def answer(true: TrueFrame) -> list[FoundPerson]:
        regions = list_true_regions(true)
        return path.refine(path.recover(true.image, regions, true.K if known else None), regions)

    return answer


def list_true_regions(true: TrueFrame) -> list[Region]:
    """Return where the people who count are: boxes as far as they lie in the frame, and keypoints.

    Keypoints outside of the frame are unknown, those that something hides are not.
    """
    height, width = true.image.shape[:2]
    names = find_joint_set(KEYPOINT_SET).joints
    order = [names.index(name) for name in PROMPTED[KIND]]
    regions = []
    for person in true.people:
        if person.counts:
            box = cut_box(person.box, width, height)
            middle = np.clip((box[:2] + box[2:]) / 2, 0.5, [width - 0.5, height - 0.5])
            box[:2], box[2:] = np.minimum(box[:2], middle - 0.5), np.maximum(box[2:], middle + 0.5)
            points = np.column_stack([person.points, person.labelled])[order]
            regions.append(Region(box, keypoints=points))
    return regions
