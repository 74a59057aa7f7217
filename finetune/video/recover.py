"""People of a video, stretch by stretch, in batches over frames and people.

Frames go through three stages, each on a thread of its own: their crops are cut, the networks are
asked about a batch of them, hands are put on bodies.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import torch

from data.bodies.base import BodyModel
from engine.errors import UserError
from engine.pipeline import Pipeline, Seconds
from finetune.heads.confidence import surround_vertices
from finetune.inference.fingers import JoiningRules, join_hands
from finetune.inference.predictor import BATCH, Predictor, check_boxes
from finetune.people import make_people
from finetune.person import Person
from finetune.prompts import PROMPTED
from finetune.video.asked import BODY, Asked, Plan, Who
from finetune.video.outlines import Outliner

SIDES = ("left", "right")


@dataclass(eq=False)
class Rows:
    """N people of single frames, of one body model.

    Attributes:
        who: (N,) int64 number of whom it is; see finetune.video.asked.plan_crops.
        frame: (N,) int64.  score: (N,) float32.  box: (N, 4) float32 pixels.
        pose: (N, J, 3, 3), shape: (N, S), translation: (N, 3) float32, of Person.
        uncertainty: (N, K), surface: (N, P) float32 metres, of Track; K and P are 0 where the
            network does not say.
        hands: (N, 2) bool, sides whose fingers come from the hand's own crop.
        found: (N, P, 3) float32 keypoints of the search, x and y in pixels and confidence, in the
            order of finetune.prompts.PROMPTED; confidence 0 where there are none.
        embedding: (N, E) float32 of length 1, of FoundPerson; E is 0 where nobody computes one.
    """

    who: np.ndarray
    frame: np.ndarray
    score: np.ndarray
    box: np.ndarray
    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray
    uncertainty: np.ndarray
    surface: np.ndarray
    hands: np.ndarray
    found: np.ndarray
    embedding: np.ndarray


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Return the Rows of several stretches as one."""
    return Rows(
        *(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Rows))
    )


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame of which something is asked.

    Attributes:
        stretch: which one it is of.  number: of the frame.  image: (H, W, 3) uint8 RGB.
        is_last: of those of its stretch.
    """

    stretch: int
    number: int
    image: np.ndarray
    is_last: bool


@dataclass
class _Group:
    """Crops of whole frames that wait to go through a network, of one kind."""

    images: list[torch.Tensor]
    cameras: list[torch.Tensor]
    prompts: list[torch.Tensor | None]
    masks: list[torch.Tensor | None]
    flip: list[torch.Tensor]
    asked: list[tuple[int, Asked]]
    boxes: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Crops of frames of a stretch, and whether it ends with them."""

    stretch: int
    is_last: bool
    groups: dict[str, _Group]


class Recoverer:
    """Recovers the people of a video's frames.

    Args:
        predictors: {"body", "hand": the network}, one of them or both.
        K: (3, 3) intrinsics of the frames.
        everybody: of whom there are crops; their place in the list is their number.
        rules: how hands are put on bodies; None: each stays a mesh of its own.
        outliner: finds the outlines of people for a network that takes them; None: it gets none.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        K: np.ndarray,
        everybody: Sequence[Who],
        rules: JoiningRules | None,
        outliner: Outliner | None = None,
    ) -> None:
        self.predictors, self.K, self.rules = predictors, K, rules
        self.outliner = outliner
        self.numbers = {who: number for number, who in enumerate(everybody)}

    @contextmanager
    def recover(
        self,
        frames: Iterable[Shown],
        plan: Plan,
        threads: bool = True,
        seconds: Seconds | None = None,
    ) -> Generator[Iterator[tuple[int, dict[str, Rows]]], None, None]:
        """Give an iterator of (stretch, {"body", "hand": Rows}) of those of which there are frames.

        Args:
            frames: in order, all that are asked of a stretch.
            plan: by frame.
            threads: decoding, cropping, the networks and what follows each on its own thread; the
                rows are equal without.
            seconds: as of Pipeline.
        """
        stages = {
            "crop": partial(self._cut_frames, plan=plan),
            "network": self._ask_batches,
            "hands": self._join_batches,
        }
        with Pipeline(stages, threads, seconds).run("decode", frames, "save") as done:
            yield self._gather(done)

    def _gather(
        self, done: Iterator[tuple[int, bool, dict[str, Rows]]]
    ) -> Iterator[tuple[int, dict[str, Rows]]]:
        """The rows of whole stretches, of those of batches."""
        rows: dict[str, list[Rows]] = {}
        for stretch, is_last, people in done:
            for kind, found in people.items():
                rows.setdefault(kind, []).append(found)
            if is_last:
                yield stretch, {kind: join_rows(parts) for kind, parts in rows.items()}
                rows = {}

    def _cut_frames(self, frames: Iterator[Shown], plan: Plan) -> Iterator["_Batch"]:
        """Yield the crops of some whole frames, as many as fill a batch or end a stretch."""
        waiting = self._open_groups()
        for shown in frames:
            for kind, group in waiting.items():
                mine = [one for one in plan.get(shown.number, []) if one.who.kind == kind]
                if mine:
                    self._cut(kind, shown.number, shown.image, mine, group)
            is_full = any(len(group.asked) >= BATCH for group in waiting.values())
            if is_full or shown.is_last:
                yield _Batch(shown.stretch, shown.is_last, waiting)
                waiting = self._open_groups()

    def _ask_batches(
        self, batches: Iterator["_Batch"]
    ) -> Iterator[tuple["_Batch", list["_Found"]]]:
        """Yield the batches with the people of their crops."""
        for batch in batches:
            groups = batch.groups.items()
            yield batch, [person for kind, group in groups for person in self._ask(kind, group)]

    def _join_batches(
        self, batches: Iterator[tuple["_Batch", list["_Found"]]]
    ) -> Iterator[tuple[int, bool, dict[str, Rows]]]:
        """Yield (stretch, whether it ends, rows) of batches."""
        for batch, found in batches:
            rows = self._pack(self._join(found) if self.rules else found)
            yield batch.stretch, batch.is_last, rows

    def _open_groups(self) -> dict[str, _Group]:
        return {kind: _Group([], [], [], [], [], [], []) for kind in self.predictors}

    def _cut(
        self, kind: str, number: int, image: np.ndarray, mine: list[Asked], group: _Group
    ) -> None:
        """Add the crops of one frame; a box that lies outside of it is nobody's."""
        predictor = self.predictors[kind]
        height, width = image.shape[:2]
        inside = [one for one in mine if is_inside(one.region.box, width, height)]
        if not inside:
            return
        config = predictor.config
        boxes = [one.region.box for one in inside]
        squares, checked = check_boxes(boxes, width, height, config.margin, config.model.size)
        flip = torch.tensor(
            [one.who.part == "left_hand" for one in inside], device=predictor.device
        )
        images, cameras = predictor.cut_crops(image, self.K, squares, flip)
        keypoints = [one.region.keypoints for one in inside]
        group.images.append(images)
        group.cameras.append(cameras)
        group.prompts.append(predictor.place_prompts(keypoints, squares, flip))
        outlines = None
        if self.outliner is not None and kind == BODY and config.head.prompt_mask:
            everybody = [one.region for one in mine]
            outlines = self.outliner.find_masks(image, [one.region for one in inside], everybody)
        group.masks.append(predictor.place_masks(outlines, squares, flip, (height, width)))
        group.flip.append(flip)
        group.asked += [(number, one) for one in inside]
        group.boxes.append(checked)

    @torch.no_grad()
    def _ask(self, kind: str, group: _Group) -> list["_Found"]:
        """The people of a group's crops."""
        predictor, found = self.predictors[kind], []
        if not group.asked:
            return found
        images, cameras, flip = (
            torch.cat(parts) for parts in (group.images, group.cameras, group.flip)
        )
        prompts, masks = _join_known(group.prompts), _join_known(group.masks)
        boxes = np.concatenate(group.boxes)
        K = torch.from_numpy(self.K).float().to(predictor.device)
        for first in range(0, len(images), BATCH):
            part = slice(first, first + BATCH)
            asked = group.asked[part]
            answer = predictor.model(
                images[part],
                cameras[part],
                predictor.body,
                None if prompts is None else prompts[part],
                masks=None if masks is None else masks[part],
            )
            if answer.parameters is None:
                raise UserError(
                    f"{predictor.checkpoint}: its head, {predictor.config.head.name}, answers "
                    "without a body model's parameters, which videos are kept as"
                )
            kinds = [one.who.part for _, one in asked]
            people = make_people(
                answer, flip[part], predictor.body, K.expand(len(asked), 3, 3), boxes[part], kinds
            )
            for (number, one), person in zip(asked, people, strict=True):
                found.append(_Found(number, one, person))
        return found

    def _join(self, found: list["_Found"]) -> list["_Found"]:
        """Hands are put on bodies frame by frame; those of a known body that fit not are dropped.

        A hand that comes and goes beside its body is no person.
        """
        if set(self.predictors) != {"body", "hand"}:
            return found
        out = []
        by_frame: dict[int, list[_Found]] = {}
        for one in found:
            by_frame.setdefault(one.frame, []).append(one)
        body, hand = self.predictors["body"].body, self.predictors["hand"].body
        for people in by_frame.values():
            marked = [replace(one.person, track=place) for place, one in enumerate(people)]
            wrists = [one.asked.region.find_wrists(one.asked.who.kind) for one in people]
            for joined in join_hands(marked, body, hand, self.rules, wrists):
                one = people[joined.track or 0]
                if one.asked.who.part == BODY or Who(one.asked.who.person) not in self.numbers:
                    out.append(replace(one, person=joined))
        return out

    def _pack(self, found: list["_Found"]) -> dict[str, Rows]:
        out = {}
        for kind in self.predictors:
            mine = [one for one in found if one.asked.who.kind == kind]
            if mine:
                out[kind] = self._pack_kind(mine)
        return out

    def _pack_kind(self, mine: list["_Found"]) -> Rows:
        return pack_people(
            [one.person for one in mine],
            self.predictors[mine[0].asked.who.kind].body,
            [self.numbers[one.asked.who] for one in mine],
            [one.frame for one in mine],
            [one.asked.score for one in mine],
            [one.asked.region.keypoints for one in mine],
        )


def pack_people(
    people: Sequence[Person],
    body: BodyModel,
    who: Sequence[int],
    frames: Sequence[int],
    scores: Sequence[float],
    keypoints: Sequence[np.ndarray | None],
    embeddings: Sequence[np.ndarray | None] | None = None,
) -> Rows:
    """Return the Rows of people of one body model, who have its parameters.

    Args:
        keypoints: as a Region has them.  embeddings: as a FoundPerson has them; None: of nobody.
    """
    unsure = [np.zeros(0) if one.uncertainty is None else one.uncertainty for one in people]
    surface = [_pick_surface(one, body) for one in people]
    looks = [np.zeros(0) if one is None else one for one in embeddings or [None] * len(people)]
    return Rows(
        who=np.array(who, np.int64),
        frame=np.array(frames, np.int64),
        score=np.array(scores, np.float32),
        box=np.stack([one.box for one in people]).astype(np.float32),
        pose=np.stack([_known(one.pose) for one in people]).astype(np.float32),
        shape=np.stack([_known(one.shape) for one in people]).astype(np.float32),
        translation=np.stack([one.translation for one in people]).astype(np.float32),
        uncertainty=np.stack(unsure).astype(np.float32),
        surface=np.stack(surface).astype(np.float32),
        hands=np.array([[side in one.hands for side in SIDES] for one in people]),
        found=np.stack([_list_found(body.kind, points) for points in keypoints]),
        embedding=np.stack(looks).astype(np.float32),
    )


@dataclass(frozen=True)
class _Found:
    """A Person, in which frame, and what was asked."""

    frame: int
    asked: Asked
    person: Person


def _join_known(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    """Of all crops of a group, or None: a network takes them or it does not."""
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None


def _known(values: np.ndarray | None) -> np.ndarray:
    """The parameters of a person: ``_ask`` has refused heads without them."""
    if values is None:
        raise ValueError("a person without parameters has no row")
    return values


def _pick_surface(person: Person, body: BodyModel) -> np.ndarray:
    """(P,) of Rows.surface."""
    if person.vertex_uncertainty is None:
        return np.zeros(0)
    return person.vertex_uncertainty[surround_vertices(body).rows.cpu().numpy()]


def _list_found(kind: str, keypoints: np.ndarray | None) -> np.ndarray:
    if keypoints is None:
        return np.zeros((len(PROMPTED[kind]), 3), np.float32)
    return keypoints.astype(np.float32)


def is_inside(box: np.ndarray, width: int, height: int) -> bool:
    """Whether a pixel or more of a box lies in an image."""
    x0, y0, x1, y1 = box.tolist()
    return min(x1, width) - max(x0, 0) >= 1 and min(y1, height) - max(y0, 0) >= 1
