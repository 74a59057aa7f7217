"""How wrong a network is on synthetic humans of given parameters, as evaluation computes it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch

from data.config import CropPairDataConfig
from data.format.clip import KINDS, Clip, encode
from data.loading.crop_labels import find_label_kind
from data.loading.crops import TAGS, CropReader, layout
from data.people.config import population
from data.people.steered import SteeredMaker
from engine.errors import UserError
from finetune.evaluation.own_judge import OwnJudge, refuse_keypoints
from finetune.examine.points import Point, Sample
from finetune.inference.predictor import Predictor
from finetune.person import Person

PCK = 0.1  # of the longer side of the box around the true keypoints


@dataclass
class Look:
    """A sample with its image: (S, S, 3) uint8, what was found in it, and what is true."""

    sample: Sample
    image: np.ndarray
    found: Person
    truth: Person


class Examiner:
    """Makes the clips of points and judges a run by them.

    Args:
        predictor: of the run.  maker: of the clips.  error: which one is searched for, of ERRORS.
        given: whether the run is given the true keypoints.
        visible_min: least share of the surface that is seen.

    Raises:
        UserError: the run takes no keypoints, or no single image.
    """

    def __init__(
        self,
        predictor: Predictor,
        maker: SteeredMaker,
        error: str,
        given: bool,
        visible_min: float,
    ) -> None:
        self.predictor, self.maker, self.error = predictor, maker, error
        self.given, self.visible_min = given, visible_min
        refuse_misfits(predictor, given)

    def ask(self, points: Sequence[Point]) -> list[Sample]:
        """Return the samples of a batch of points."""
        return [sample for sample, _, _ in self._judge(points)[0]]

    def look(self, points: Sequence[Point]) -> list[Look]:
        """Return the samples of a batch of points with their images."""
        found, pixels = self._judge(points)
        return [
            Look(sample, image, person, truth)
            for (sample, person, truth), image in zip(found, pixels, strict=True)
        ]

    def make_sample(self, point: Point) -> tuple[str, dict[str, bytes]]:
        """Return (key, members) of a point's clip, as they lie in a shard."""
        name = f"{population(self.maker.config)}-{point.index}"
        clip = self.maker.make_clip(point.index, point.array, name)
        return clip.key, encode(clip)

    def _judge(
        self, points: Sequence[Point]
    ) -> tuple[list[tuple[Sample, Person, Person]], np.ndarray]:
        clips = [self.maker.make_clip(point.index, point.array) for point in points]
        arrays = fill_arrays(clips, self.predictor.body.label_choice.model)
        judge = OwnJudge(self.predictor, masks=True, given=self.given)
        batch = {n: torch.from_numpy(a).to(self.predictor.device) for n, a in arrays.items()}
        judge.add(batch)
        found, truth = judge.found[0], judge.truth[0]
        out = []
        for i, point in enumerate(points):
            errors = {key: float(judge.values["model"][key][0][i]) for key in judge.columns}
            errors["pck"] = measure_missed(found[i], truth[i])
            labels = clips[i].labels
            assert isinstance(labels, dict)
            visible = float(labels["visible"][0])
            error = errors[self.error] if visible >= self.visible_min else None
            out.append((Sample(point, error, visible, errors), found[i], truth[i]))
        return out, arrays["pixels"]


def refuse_misfits(predictor: Predictor, given: bool) -> None:
    """Raise UserError where a run cannot be examined so."""
    if isinstance(predictor.config.data, CropPairDataConfig):
        raise UserError(
            f"{predictor.checkpoint} takes two images of a person, and examine looks at one"
        )
    refuse_keypoints(predictor, given)


def fill_arrays(clips: Sequence[Clip], model: str) -> dict[str, np.ndarray]:
    """Return the arrays of data.loading.crops.layout of clips of one crop, each whole.

    Args:
        model: the body model whose labels are read.
    """
    size, kind = clips[0].size, find_label_kind(model)
    shapes = layout(len(clips), size, model)
    arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    for row, clip in enumerate(clips):
        crop = clip.crops[0]
        arrays["pixels"][row] = simplejpeg.decode_jpeg(clip.jpegs[0], "RGB")
        assert clip.masks is not None
        arrays["mask"][row] = np.packbits(clip.masks[0])
        arrays["K"][row], arrays["Rt"][row] = crop.K, crop.Rt
        labels = kind.read(encode(clip)["labels.npz"], 1, "")
        for name in kind.shapes:
            is_of_instant = name in kind.per_instant
            arrays[name][row] = labels[name][0] if is_of_instant else labels[name]
        arrays["tags"][row, TAGS.index("index")] = row
        arrays["tags"][row, TAGS.index("part")] = KINDS.index(crop.kind)
        arrays["tags"][row, TAGS.index("size")] = size
        CropReader.whole(arrays, row)
    return arrays


def measure_missed(found: Person, truth: Person) -> float:
    """Percentage of keypoints that lie farther off than PCK of the longer side of the true box."""
    true = truth.keypoints_2d
    side = float(np.ptp(true, axis=0).max())
    away = np.linalg.norm(found.keypoints_2d - true, axis=1)
    return float(100 * (away >= PCK * side).mean())
