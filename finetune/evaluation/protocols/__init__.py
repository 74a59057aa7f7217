"""Protocols of papers, by name: what is measured, in which joints, after which alignment.

    @PROTOCOLS.register("mine")
    class Mine(FrameProtocol): ...

A protocol is a file here. It states its facts as class attributes (docs/protocols.md prints them)
and computes the numbers of the public script that it names, in that script's order of averages and
with its degenerate cases. Two ways lead to one ``compute``: files of predictions in the data set's
own submission format (``finetune score``), and a run on labelled shards (``finetune evaluate
RUN protocol=NAME``).

Nothing here imports torch.
"""

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from engine.errors import UserError
from engine.registry import Registry

if TYPE_CHECKING:
    from finetune.evaluation.scoring.coco_files import CocoPeople
    from finetune.verb_config import EvaluateConfig, ScoreConfig

POINT = 1e-12  # metres; a spread below it is that of rounding


@dataclass(frozen=True)
class Value:
    """One number of a protocol.

    Attributes:
        key: as the script names it.
        name: for people.
        value: in ``unit``.
        unit: such as "mm"; "" for shares.
        digits: behind the point, as the script prints it.
        better: "lower" or "higher".
        by_script: false for what is usual beside it and the script itself does not print.
    """

    key: str
    name: str
    value: float
    unit: str
    digits: int
    better: str = "lower"
    by_script: bool = True

    def write(self) -> str:
        """Return the number as the script prints it."""
        return f"{self.value:.{self.digits}f}"


@dataclass(eq=False)
class Frames:
    """N frames of one person, or pair of hands, each.

    Attributes:
        joints: (N, J, 3) float64 metres, in the protocol's joint set and the camera's axes.
        vertices: (N, V, 3) float64 metres, or None.
        pelvis: (N, 3) root that is no joint of the set (a row of a regressor), or None.
        rotations: (N, R, 3, 3) orientations in the camera's axes, or None.
        pose: (N, 24, 3, 3) rotations of SMPL relative to the parents, and shape: (N, S), or None;
            variant: of that SMPL.
        valid: (N, J) bool, which joints are labelled; None: all.
        sequence: (N,) text or numbers of the sequence that each frame is of, in order; None: one.
        index: (N,) number of each frame in its sequence, or None.
        split: (N,) text, part of the data set, or None.
        hands: (N, 2) right and left: share of certainty that the hand is there; None: unknown.
        hands_valid: (N,) bool, where ``hands`` is labelled; None: all.
        name: of the file or run, for messages.
    """

    joints: np.ndarray
    vertices: np.ndarray | None = None
    pelvis: np.ndarray | None = None
    rotations: np.ndarray | None = None
    pose: np.ndarray | None = None
    shape: np.ndarray | None = None
    variant: str = ""
    valid: np.ndarray | None = None
    sequence: np.ndarray | None = None
    index: np.ndarray | None = None
    split: np.ndarray | None = None
    hands: np.ndarray | None = None
    hands_valid: np.ndarray | None = None
    name: str = ""

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.joints)


@dataclass
class Scores:
    """What a protocol says of predictions.

    Attributes:
        frames: how many were counted.
        values: in the order of the script.
        notes: sentences on what a reader has to know, such as degenerate frames.
    """

    frames: int
    values: list[Value]
    notes: list[str] = field(default_factory=list)


class Protocol(abc.ABC):
    """A protocol of a data set; see the module.

    Attributes:
        title: what it is called in papers.
        script: the public script that it follows.
        joint_set: a name of data.format.joint_sets, or words.
        root: what is put in one point before errors are measured.
        alignment: the alignments beside it.
        unit: of what is printed.
        counted: which frames count.
        averaging: in which order means are taken.
        kind: "body" or "hand".
        submission: the format of prediction files, in words.
        truth: which files hold the truth, in words.
    """

    title: ClassVar[str]
    script: ClassVar[str]
    joint_set: ClassVar[str]
    root: ClassVar[str]
    alignment: ClassVar[str]
    unit: ClassVar[str]
    counted: ClassVar[str]
    averaging: ClassVar[str]
    kind: ClassVar[str]
    submission: ClassVar[str]
    truth: ClassVar[str]

    @abc.abstractmethod
    def score_files(self, config: "ScoreConfig") -> Scores:
        """Return the numbers of a file of predictions.

        Raises:
            UserError: a file cannot be read, is of another format, or they do not fit together;
                predictions that are not finite.
        """


@dataclass(frozen=True, eq=False)
class RunJoints:
    """The joints that a protocol takes of a run and of labelled shards.

    Attributes:
        names: of the joints, in the protocol's order.
        pelvis: the root, where it is no joint of them.
        rows: of the joint regressor that are these joints; its row 0 is the pelvis.
        regressor: (R, V) of those rows; None: the user's own (regressor=), if any.
        rotations: SMPL's joints whose orientations count.
        may_lack: whether numbers of fewer joints make sense.
        untranslated: predictions of SMPL count as posed without a translation.
    """

    names: tuple[str, ...]
    pelvis: str | None = None
    rows: tuple[int, ...] = ()
    regressor: np.ndarray | None = None
    rotations: tuple[int, ...] = ()
    may_lack: bool = False
    untranslated: bool = False


@dataclass(frozen=True)
class RunHands:
    """Both hands of an image that a protocol takes of a run.

    Attributes:
        joint_set: of each hand, right before left.
    """

    joint_set: str


class RunProtocol(Protocol):
    """A protocol whose numbers a run on labelled shards has.

    Attributes:
        run: what it takes of a run.
        bodies: names of the body models whose runs it measures; none: of its kind all.
    """

    run: ClassVar[RunJoints | RunHands]
    bodies: ClassVar[tuple[str, ...]] = ()

    def open_run(self, config: "EvaluateConfig", body: str) -> RunJoints | RunHands:
        """Return what it takes of runs on a body model, after it has read what it needs.

        Raises:
            UserError: a file that it needs is not named or cannot be read.
        """
        return self.run

    @abc.abstractmethod
    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return the numbers of frames that were checked."""

    def write(self, path: str, found: Frames) -> None:
        """Write predictions as the data set's submission.

        Raises:
            UserError: there is no such file of this protocol, or it cannot be written.
        """
        raise UserError(f"submission={path}: {self.title} has no file that runs can be written to")

    def score(self, found: Frames, true: Frames) -> Scores:
        """Return the numbers of frames, after a check that they fit together."""
        check_frames(found, true)
        return self.compute(found, true)


class FrameProtocol(RunProtocol):
    """A protocol on frames of one person, or pair of hands, each."""

    @abc.abstractmethod
    def read_files(self, config: "ScoreConfig") -> tuple[Frames, Frames]:
        """Return predicted and true frames of files, in one order.

        Raises:
            UserError: as of ``score_files``.
        """

    def score_files(self, config: "ScoreConfig") -> Scores:
        """Return the numbers of a file of predictions; see Protocol."""
        return self.score(*self.read_files(config))


class KeypointProtocol(Protocol):
    """A protocol on keypoints of people in images.

    Attributes:
        points: the joint set of a person's keypoints, a name of data.format.joint_sets.
        fields: {field of COCO's JSON: how many of these keypoints it holds}, in their order.
    """

    points: ClassVar[str]
    fields: ClassVar[dict[str, int]]

    @abc.abstractmethod
    def score_people(self, people: "CocoPeople") -> Scores:
        """Return the numbers of people and detections."""

    def score_files(self, config: "ScoreConfig") -> Scores:
        """Return the numbers of a file of results; see Protocol."""
        from finetune.evaluation.scoring.coco_files import read_coco_files

        return self.score_people(read_coco_files(config.truth, config.predictions))


PROTOCOLS: Registry[type[Protocol]] = Registry("protocol", __name__)


def check_frames(found: Frames, true: Frames) -> None:
    """Check that predictions are those of the truth, and finite.

    Raises:
        UserError: they differ in number or shape, or a prediction is NaN or infinite; a mean that
            left it out would be too good, and the scripts end in a traceback.
    """
    if len(found) != len(true):
        raise UserError(
            f"{found.name} holds predictions of {len(found)} frames, {true.name} the truth of "
            f"{len(true)}"
        )
    if not len(true):
        raise UserError(f"{true.name} holds no frame")
    if found.joints.shape != true.joints.shape:
        raise UserError(
            f"{found.name} holds {found.joints.shape[1]} joints a frame, {true.name} "
            f"{true.joints.shape[1]}"
        )
    for frames in (found, true):
        for part in ("joints", "vertices", "pelvis", "rotations", "hands"):
            _check_finite(frames, part)


def _check_finite(frames: Frames, part: str) -> None:
    values = getattr(frames, part)
    if values is None:
        return
    counts = np.isfinite(values).reshape(len(values), len(values) and -1)
    if part == "joints" and frames.valid is not None:
        whole = counts.reshape(*frames.valid.shape, -1).all(-1) | ~frames.valid
        bad = ~whole.all(1)
    else:
        bad = ~counts.all(1)
    if bad.any():
        raise UserError(
            f"{frames.name}: {part} of {int(bad.sum())} of {len(bad)} frames hold NaN or infinity, "
            f"the first is frame {int(bad.argmax())}, counted from 0"
        )


def describe_points(found: Frames, effect: str) -> list[str]:
    """Return a sentence where all predicted joints of a frame lie in one point.

    Args:
        effect: what the script gives for those, in words.
    """
    spread = np.ptp(found.joints, axis=1).max(-1)
    count = int((spread < POINT).sum())
    if not count:
        return []
    return [f"In {count} of {len(found)} frames all predicted joints lie in one point: {effect}."]
