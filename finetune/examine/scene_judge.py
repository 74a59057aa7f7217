"""How wrong whoever finds everybody in an image is on synthetic scenes of given parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg

from data.bodies.base import BodyModel
from data.format.frame import Frame, encode_frame
from data.format.labels import read_arrays
from data.people.steered_scene import SteeredSceneMaker
from finetune.evaluation.scene.frame_scores import FrameJudge, FrameScores
from finetune.evaluation.scene.truth import TrueFrame, list_people
from finetune.examine.points import Point, Sample
from finetune.scene.found import FindEverybody, FoundPerson

# Added to everybody in a scene, found without error: or one person alone who is missed would be as
# bad as a scene can be, and nothing would be left to search.
EASY = 2
LOST_MM = 300.0  # what somebody who is missed, or is nobody, counts as: an error as large says less


@dataclass
class SceneLook:
    """A sample with its frame: what is true of it, who was found in it, and what became of them."""

    sample: Sample
    true: TrueFrame
    found: list[FoundPerson]
    scores: FrameScores


class SceneExaminer:
    """Makes the scenes of points and judges by them whoever finds everybody.

    Args:
        find: what is judged; it is given the frames' intrinsics.
        body: the full body model of the labels and of who is found.
        maker: of the scenes.
        error: which one is searched for, of SCENE_ERRORS.
        shown_min: people of whom the frame shows less do not count.
    """

    def __init__(
        self,
        find: FindEverybody,
        body: BodyModel,
        maker: SteeredSceneMaker,
        error: str,
        shown_min: float,
    ) -> None:
        self.find, self.body, self.maker = find, body, maker
        self.error, self.shown_min = error, shown_min
        self.judge = FrameJudge(body)

    def ask(self, points: Sequence[Point]) -> list[Sample]:
        """Return the samples of a batch of points."""
        return [look.sample for look in self.look(points)]

    def look(self, points: Sequence[Point]) -> list[SceneLook]:
        """Return the samples of a batch of points with their frames."""
        return [self._look(point) for point in points]

    def make_sample(self, point: Point) -> tuple[str, dict[str, bytes]]:
        """Return (key, members) of a point's frame, as they lie in a shard."""
        frame = self.maker.make_frame(point.index, point.array)
        return frame.key, encode_frame(frame)

    def _look(self, point: Point) -> SceneLook:
        true = self._tell(self.maker.make_frame(point.index, point.array))
        found = self.find(true.image, true.K)
        scores = self.judge.judge(found, true)
        errors = measure_scene(scores)
        shown = float(scores.shown.mean()) if len(scores) else 0.0
        error = errors[self.error] if len(scores) else None
        return SceneLook(Sample(point, error, shown, errors), true, found, scores)

    def _tell(self, frame: Frame) -> TrueFrame:
        image = simplejpeg.decode_jpeg(frame.jpeg, "RGB")
        labels = None
        if frame.labels is not None:
            assert isinstance(frame.labels, dict)
            labels = read_arrays(frame.labels, len(frame.people))
        people = list_people(frame, labels, frame.ids, self.body, self.shown_min)
        return TrueFrame(frame.key, frame.scene, image, np.asarray(frame.K, np.float64), people)


def measure_scene(scores: FrameScores) -> dict[str, float]:
    """Return the errors of a scene by name.

    people (mm): the sum of the MPJPE of who was found, at most LOST_MM, of LOST_MM for each who was
    missed, and of LOST_MM for each who was found and is nobody, over all these people and EASY
    more. missed (%): missed people and those who are nobody, over the same. wanted, lost, false:
    how many people count, were missed, and are nobody.
    """
    wanted, false = len(scores), scores.false
    lost = int((~scores.hit).sum())
    near = np.minimum(scores.errors["mpjpe"][scores.hit], LOST_MM)
    every = wanted + false + EASY
    out = {
        "people": float(near.sum() + LOST_MM * (lost + false)) / every,
        "missed": 100.0 * (lost + false) / every,
        "wanted": float(wanted),
        "lost": float(lost),
        "false": float(false),
    }
    if scores.hit.any():
        out |= {name: float(scores.errors[name][scores.hit].mean()) for name in scores.errors}
    return out
