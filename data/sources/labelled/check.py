"""``python -m data labels NAME --check root=DIR``: ten people of a data set with their labels.

They come from all over the data set, and no shard is written. An image shows them with their 2D
keypoints, their 3D joints through the stored camera, their outline and mesh; a few lines say how
far 3D and 2D lie apart and how large the people are. So a wrong unit, axis or order is seen before
it is trained on.
"""

import math
from dataclasses import dataclass

import numpy as np

from data.format.clip import Crop
from data.format.joint_sets import JOINT_SETS, match_joint_sets
from data.format.labels import CropLabels, Joints
from data.sources.label_cut import CutPerson, CutStyle, cut_person, image_name, read_pixels
from data.sources.labelled import LabelledImage, LabelledSource
from data.sources.labelled.check_sheet import TILE, draw_sheet
from data.sources.labelled.rows import Rows
from engine.errors import UserError, explain, failure_of

SAMPLES = 10
READ_MOST = 2000  # people that are read to choose them from
DOCS = "docs/labelled.md"
# Shares of a box's longer side by which 3D joints miss the 2D keypoints.
FINE, NEAR = 0.03, 0.1
# {kind: metres that the joints of a person, or of a hand, may span}
SPANS = {"body": (0.3, 2.8), "left_hand": (0.05, 0.35), "right_hand": (0.05, 0.35)}
UNITS = ((1000.0, "millimetres"), (100.0, "centimetres"), (0.01, "hundreds of metres"))
TURNED = (
    ((1, -1, -1), "y and z are negated, as OpenGL's cameras have them"),
    ((-1, -1, 1), "x and y are negated"),
    ((-1, 1, 1), "x is negated, as in a mirror"),
    ((1, -1, 1), "y is negated: it points up"),
)


@dataclass
class Sample:
    """One person who was looked at.

    Attributes:
        image: as the reader gives it.
        part: the crop of TILE pixels; None where it cannot be cut, which ``reason`` says.
        projected: (J, 2) pixels of the crop where the 3D joints fall, or None.
        error_px: median distance of those from the 2D keypoints, in pixels of the data set's image.
        error_share: the same over the longer side of the box.
        hint: what would bring them together, or "".
        span_m: longest distance between two joints.
        inside: share of the labelled 2D keypoints that lie near the box; None where there are none.
    """

    image: LabelledImage
    part: CutPerson | None = None
    reason: str = ""
    projected: np.ndarray | None = None
    error_px: float | None = None
    error_share: float = 0.0
    hint: str = ""
    span_m: float | None = None
    inside: float | None = None


def check_labels(source: LabelledSource) -> int:
    """Draw ten people of a data set to ``source.out``, FILE.png, and say what is known of them.

    Returns:
        0, or 1 where a person cannot be cut or 3D and 2D labels lie far apart.
    Raises:
        UserError: out= is no image, no labelled person.
    """
    if not source.out.endswith(".png"):
        raise UserError(f"out={source.out}: --check draws an image, FILE.png; it writes no shards")
    people = choose_people(source)
    if not people:
        raise UserError(
            f"root={source.root}: no labelled person is found; box_min_px={source.box_min_px:g} "
            f"leaves smaller boxes out"
        )
    samples = [look_at(person, source) for person in people]
    sheet = draw_sheet(source.name, samples)
    try:
        sheet.save(source.out)
    except OSError as error:
        raise failure_of(error, f"out={source.out} cannot be written: {explain(error)}") from None
    lines, fine = describe_samples(samples)
    print("\n".join([f"{len(samples)} people of {source.name} drawn to {source.out}", *lines]))
    return 0 if fine else 1


def choose_people(source: LabelledSource, count: int = SAMPLES) -> list[LabelledImage]:
    """Return people from all over a data set, of which only a few rows are read.

    Of a reader that does not ``follow`` its rows they are among the first READ_MOST.
    """
    source.rows = rows = Rows(spread=True)
    chosen: list[LabelledImage] = []
    first: list[LabelledImage] = []
    taken, row, step = 0, -1, 1
    for number, image in enumerate(source.read()):
        if number >= READ_MOST:
            break
        if not rows.outer:
            if number % step == 0:
                first.append(image)
            if len(first) >= 2 * count:  # of a longer way every other one is enough
                first, step = first[::2], 2 * step
            continue
        if rows.place != row:
            taken, row = 0, rows.place
        if taken < math.ceil(count / rows.outer) and _is_large(image, source):
            chosen.append(image)
            taken += 1
            if len(chosen) == count:
                break
        rows.enough = taken >= math.ceil(count / rows.outer)
    return chosen or [first[place * len(first) // count] for place in range(min(count, len(first)))]


def _is_large(image: LabelledImage, source: LabelledSource) -> bool:
    x0, y0, x1, y1 = np.asarray(image.box, np.float64).tolist()
    return not max(x1 - x0, y1 - y0) < source.box_min_px


def look_at(image: LabelledImage, source: LabelledSource) -> Sample:
    """Return a person with what their labels say of each other."""
    sample = Sample(image)
    style = CutStyle(source.name, source.licence, TILE, source.margin, 92)
    try:
        sample.part = part = cut_person(image, read_pixels(image), style)
    except ValueError as error:
        sample.reason = str(error)
        return sample
    sample.inside = _share_near_box(part)
    joints = part.labels.joints
    if joints is None:
        return sample
    labelled = np.asarray(joints.confidence) > 0
    points = np.asarray(joints.points, np.float64)
    sample.span_m = _span(points[labelled])
    local = _to_camera(points, part.crop, part.labels)
    box = np.asarray(part.crop.box)
    # A pixel of the crop in pixels of the image, and the box's longer side in those.
    scale, side = (box[2] - box[0]) / TILE, (box[2] - box[0]) / source.margin
    pairs = _pair(joints, part.labels, labelled)
    sample.projected = _project(local, part, pairs)
    if sample.projected is None:
        return sample
    if len(pairs[0]) >= 2:
        error = _median_distance(sample.projected[pairs[0]], pairs[1]) * scale
        sample.error_px, sample.error_share = error, error / side
        if sample.error_share > NEAR:
            sample.hint = _find_hint(local, part, pairs, NEAR * side / scale)
    return sample


def _share_near_box(part: CutPerson) -> float | None:
    """Of a crop's labelled 2D keypoints, those at most half its side outside of it."""
    keypoints = part.labels.keypoints
    if keypoints is None:
        return None
    points = np.asarray(keypoints.points, np.float64)[np.asarray(keypoints.confidence) > 0]
    if not len(points):
        return None
    return float((np.abs(points - TILE / 2) <= TILE).all(1).mean())


Pairs = tuple[np.ndarray, np.ndarray]


def _pair(joints: Joints, labels: CropLabels, labelled: np.ndarray) -> Pairs:
    """((P,) joints that are labelled in 2D too, (P, 2) where) of one crop."""
    keypoints = labels.keypoints
    none = np.zeros(0, np.int64), np.zeros((0, 2))
    if keypoints is None:
        return none
    if joints.joint_set not in JOINT_SETS or keypoints.joint_set not in JOINT_SETS:
        return none
    places = match_joint_sets(keypoints.joint_set, joints.joint_set)
    both = labelled & (places >= 0) & (np.asarray(keypoints.confidence)[places] > 0)
    return np.flatnonzero(both), np.asarray(keypoints.points, np.float64)[places[both]]


def _to_camera(points: np.ndarray, crop: Crop, labels: CropLabels) -> np.ndarray:
    """(J, 3) in the camera's axes."""
    if crop.Rt is None or labels.frame == "root":
        return points
    Rt = np.asarray(crop.Rt, np.float64)
    return points @ Rt[:, :3].T + Rt[:, 3]


def _project(local: np.ndarray, part: CutPerson, pairs: Pairs) -> np.ndarray | None:
    """(J, 2) pixels of the crop, NaN behind the camera.

    Through its camera; where nobody knows where the person stands, by the scale and the place that
    bring them nearest to the 2D keypoints. None where there is neither.
    """
    if part.labels.frame == "root":
        return _fit_flat(local, pairs)
    if part.crop.K is None:
        return None
    K = np.asarray(part.crop.K, np.float64)
    depth = np.where(local[:, 2] > 1e-9, local[:, 2], np.nan)
    return (local / depth[:, None] @ K.T)[:, :2]


def _fit_flat(local: np.ndarray, pairs: Pairs) -> np.ndarray | None:
    """(J, 2): x and y times a scale plus an offset, least squares."""
    joints, goals = pairs
    if len(joints) < 3:
        return None
    flat = local[:, :2]
    middle, goal = flat[joints].mean(0), goals.mean(0)
    spread = ((flat[joints] - middle) ** 2).sum()
    if not spread > 0:
        return None
    scale = ((flat[joints] - middle) * (goals - goal)).sum() / spread
    return (flat - middle) * max(scale, 0.0) + goal


def _median_distance(points: np.ndarray, goals: np.ndarray) -> float:
    """Pixels; infinite where most points lie behind the camera."""
    distances = np.linalg.norm(points - goals, axis=1)
    return float(np.median(np.where(np.isnan(distances), np.inf, distances)))


def _find_hint(local: np.ndarray, part: CutPerson, pairs: Pairs, most: float) -> str:
    """What would bring 3D joints to within ``most`` pixels of the 2D ones; "" where nothing."""
    for signs, words in TURNED:
        turned = _project(local * np.array(signs), part, pairs)
        if turned is not None and _median_distance(turned[pairs[0]], pairs[1]) <= most:
            return f"they would be near if in the camera's axes {words}"
    found = _project(local, part, pairs)
    if found is not None and part.labels.frame == "world":
        apart = np.linalg.norm(found[pairs[0]][:, None] - pairs[1], axis=-1)
        if np.isfinite(apart).all() and np.median(apart.min(1)) <= most / 2:
            return "they lie on each other, but another joint's: the order of the joints is wrong"
    return ""


def _span(points: np.ndarray) -> float | None:
    if len(points) < 2:
        return None
    return float(np.linalg.norm(points[:, None] - points, axis=-1).max())


def describe_samples(samples: list[Sample]) -> tuple[list[str], bool]:
    """Return (lines that say what was found, whether nothing is wrong)."""
    lines = [_describe_parts(samples)]
    fine = True
    for sample in samples:
        if sample.reason:
            lines.append(f"{image_name(sample.image)} would be skipped: {sample.reason}")
            fine = False
    strays = [sample for sample in samples if sample.inside is not None and sample.inside < 0.5]
    if strays:
        fine = False
        lines.append(
            f"2D keypoints of {len(strays)} of {len(samples)} people lie far from their box, as "
            f"{image_name(strays[0].image)}: their unit or order, or the box, is wrong, see {DOCS}"
        )
    errors = [sample for sample in samples if sample.error_px is not None]
    if errors:
        words, near = _describe_errors(errors)
        lines.append(words)
        fine = fine and near
    elif any(sample.span_m is not None for sample in samples):
        lines.append("3D joints cannot be held beside 2D ones: one of the two is not labelled")
    for kind in SPANS:
        spans = [s.span_m for s in samples if s.image.kind == kind and s.span_m is not None]
        if spans:
            words, right = _describe_span(kind, float(np.median(spans)))
            lines.append(words)
            fine = fine and right
    return lines, fine


def _describe_parts(samples: list[Sample]) -> str:
    """How many of the people have which labels."""
    counts: dict[str, int] = {}
    for sample in samples:
        labels, image = sample.image.labels, sample.image
        found = [f"{what}" for what, there in labels.present().items() if there]
        if labels.body is not None:
            found.append(f"{labels.body.model} {labels.body.variant}".strip())
        found += ["outline"] * (image.mask is not None) + ["camera"] * (image.K is not None)
        for what in found:
            counts[what] = counts.get(what, 0) + 1
    there = ", ".join(f"{what} {count}" for what, count in counts.items())
    return f"labelled, of {len(samples)}: {there or 'nothing'}"


def _describe_errors(samples: list[Sample]) -> tuple[str, bool]:
    error = float(np.median([s.error_px for s in samples if s.error_px is not None]))
    share = float(np.median([s.error_share for s in samples]))
    how = "through the camera"
    if samples[0].image.labels.frame == "root":
        how = "at the best scale and place"
    words = f"3D joints {how} fall {error:.1f} px from the 2D ones ({share:.1%} of the box"
    words += f", median of {len(samples)})"
    if math.isinf(error):
        words = "3D joints lie behind the camera"
    if share <= FINE:
        return words, True
    if share <= NEAR:
        return f"{words}: near, as labels are that were made apart", True
    hints = [sample.hint for sample in samples if sample.hint]
    hint = f"; {max(set(hints), key=hints.count)}" if hints else ""
    return f"{words}: far, unit, axes or order is wrong, see {DOCS}{hint}", False


def _describe_span(kind: str, span_m: float) -> tuple[str, bool]:
    low, high = SPANS[kind]
    who = "people" if kind == "body" else f"{kind.replace('_', ' ')}s"
    words = f"joints of {who} span {span_m:.3g} m"
    if low <= span_m <= high:
        return words, True
    for factor, unit in UNITS:
        if low <= span_m / factor <= high:
            return f"{words}: the unit is wrong, it looks like {unit}; see {DOCS}", False
    return f"{words}, not {low:g} to {high:g}: the unit is wrong, see {DOCS}", False
