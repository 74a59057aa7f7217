"""The network that ``predict`` asks about whole images, and which keys it does not take."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.bodies.base import BodyModel
from engine.config.parser import is_assignment
from engine.errors import UserError
from finetune.scene.found import FindEverybody
from finetune.scene.predictor import THRESHOLD, ScenePredictor
from finetune.video.parts import digest_weights, digest_words

# Of people who are searched for, or given by boxes, before a network sees them.
OF_BOXES = (
    "boxes",
    "whole_image",
    "side",
    "join_hands",
    "hand_px",
    "refine",
    "lens",
    "video.search_hz",
    "video.tiles",
    "video.workers",
)


@dataclass(frozen=True, eq=False)
class Everybody:
    """What finds everybody in whole images.

    Attributes:
        find: who is in an image.  body: whose parameters they have, the full body model.
        digest: changes with anything that its answers depend on.
    """

    find: FindEverybody
    body: BodyModel
    digest: str


def open_everybody(run: str, device: str, least_score: float | None = None) -> Everybody:
    """Return the network of a run of task=scene.

    Args:
        least_score: of those who are told of; None: as the network has it.
    Raises:
        UserError: there is no such run, or it is of another task.
    """
    threshold = THRESHOLD if least_score is None else least_score
    predictor = ScenePredictor(run, device, threshold=threshold)
    digest = digest_words(digest_weights(predictor.model), threshold, predictor.side)
    return Everybody(predictor, predictor.body, digest)


def refuse_keys(run: str, runs: Sequence[str], argv: Sequence[str]) -> None:
    """UserError where a run of task=scene is asked for what it does not do.

    Args:
        run: of task=scene.  runs: all that are named.  argv: the words of the command.
    """
    if len(runs) > 1:
        others = ", ".join(other for other in runs if other != run) or "it twice"
        raise UserError(
            f"run={','.join(runs)}: {run} finds everybody in whole images (task=scene): name it "
            f"alone, without {others}"
        )
    named = {word.partition("=")[0]: word for word in argv if is_assignment(word)}
    wrong = [named[key] for key in OF_BOXES if key in named]
    if wrong:
        raise UserError(
            f"{' '.join(wrong)}: of people who are searched for or given by boxes, and run={run} "
            "finds everybody in whole images by itself (task=scene): leave out "
            f"{'it' if len(wrong) == 1 else 'them'}"
        )
    if named.get("colour") == "colour=confidence":
        raise UserError(
            f"colour=confidence: run={run} (task=scene) says how sure it is of each person, not of "
            "their vertices"
        )
