"""The people of a take: found in each camera, matched across cameras, followed over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from data.cropping.geometry import square_around
from data.find.detection import Detection
from data.sources.cameras import Camera
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.multicam.affinity import Windows, score_views
from data.sources.multicam.appearance import Colours, read_colours
from data.sources.multicam.associate import (
    NOBODY,
    group_windows,
    link_windows,
    place_groups,
)
from data.sources.multicam.boxes import ideal_box
from data.sources.multicam.clock import shift_views
from data.sources.multicam.health import (
    measure_best_errors,
    measure_pair_errors,
    tell_calibration,
    tell_strangers,
)
from data.sources.multicam.join import join_identities
from data.sources.multicam.refine import refine_identities
from data.sources.multicam.search import Searched, list_others
from data.sources.multicam.sight import Sight
from data.sources.multicam.sightings import LEAST_CONFIDENCE, Sightings, collect_sightings
from data.sources.multicam.synchronise import estimate_synchrony, tell_synchrony
from data.sources.multicam.ties import settle_ties
from data.sources.multicam.views import View
from engine.errors import UserError
from engine.logging.console import get_logger

LEAST_FOUND = 5  # keypoints below which a camera does not show enough of a person

log = get_logger(__name__)


@dataclass
class Found:
    """A person whom at least one camera shows.

    Attributes:
        seen: {instant: {view: Detection}}.
        views: the cameras that show them, by number.
        presence: sum over all detections of the box's longer side over the image's, so that who is
            near, long and in many cameras has most.
        bystander: whether they are left out where bystanders are.
        measured: instants at which one camera at least was searched.
    """

    seen: dict[int, dict[int, Detection]]
    views: list[int]
    presence: float
    bystander: bool = False
    measured: set[int] = field(default_factory=set)


def match_people(
    cfg: PairsConfig,
    times: Mapping[int, float],
    views: Sequence[View],
    searched: Sequence[Searched],
) -> tuple[list[Found], list[View]]:
    """Return the people, the most present first, and the views with the clock that is used.

    People are matched with the cameras' clocks corrected by what their motion says; the clips keep
    to the given clock unless ``synchronise=true``.

    Args:
        searched: what was found in each view's video.
    Raises:
        UserError: nobody is seen by two cameras.
    """
    names = [view.camera.name for view in views]
    cameras = [view.camera for view in views]
    step_s = _step(times)
    tracks = [one.tracks for one in searched]
    sightings = _collect(views, tracks)
    synchrony = estimate_synchrony(
        sightings, cameras, max(1, round(cfg.synchronise_most_s / step_s))
    )
    for sentence in tell_synchrony(synchrony, names):
        log.info(sentence)
    aligned = shift_views(views, synchrony.whole.tolist())
    if synchrony.whole.any():
        log.info(
            "the clips' instants are corrected by it (synchronise=true)"
            if cfg.synchronise
            else "the clips' instants are as the clock says; synchronise=true corrects them"
        )
        sightings = _collect(aligned, tracks)
    colours = _colour_reader([view.video for view in views], sightings)
    identities = identify(sightings, cameras, step_s, colours)
    _check_calibration(identities, sightings, cameras, names, cfg)
    clock = aligned if cfg.synchronise else views
    people = _gather(identities, sightings, clock, searched)
    mark_bystanders(people, cfg.bystander_share)
    _tell_people(people, names, cfg.bystanders)
    if cfg.bystanders != "keep":
        people = [person for person in people if not person.bystander]
    return people, list(clock)


def identify(
    sightings: Sequence[Sightings],
    cameras: Sequence[Camera],
    step_s: float,
    colours: Colours | None = None,
) -> list[np.ndarray]:
    """Return for each view the (n,) person of each sighting, NOBODY: of none.

    Args:
        sightings: of each view.  cameras: as the videos show them.  step_s: seconds between
            instants.
        colours: {(view, row): description} of the sightings asked for; None: looks are not used.
    """
    windows = Windows.of_step(step_s)
    affinities = score_views(sightings, cameras, windows)
    if colours is not None:
        affinities = settle_ties(affinities, sightings, windows, colours)
    groups = group_windows(sightings, affinities, windows)
    place_groups(groups, sightings, cameras, windows)
    owners = link_windows(groups, windows.length * step_s)
    identities = []
    for view, seen in enumerate(sightings):
        whens = windows.of(seen.instants).tolist()
        who = [owners[view, t, w] for t, w in zip(seen.tracks.tolist(), whens, strict=True)]
        identities.append(np.array(who, np.int64))
    identities = join_identities(identities, sightings, cameras, colours)
    return refine_identities(identities, sightings, cameras, step_s)


def _step(times):
    ordered = sorted(times.values())
    return float(np.median(np.diff(ordered))) if len(ordered) > 1 else 1.0


def _collect(views, tracks) -> list[Sightings]:
    return [
        collect_sightings(view.camera, view.frames, own)
        for view, own in zip(views, tracks, strict=True)
    ]


def _colour_reader(videos: Sequence[Frames], sightings):
    """A function that describes the colours of (view, row) sightings."""

    def read(asked):
        wanted: dict[int, dict[int, list]] = {}
        for view, row in asked:
            frame = int(sightings[view].frames[row])
            entry = ((view, row), sightings[view].detections[row])
            wanted.setdefault(view, {}).setdefault(frame, []).append(entry)
        return read_colours(videos, wanted)

    return read


def _check_calibration(identities, sightings, cameras, names, cfg):
    best = measure_best_errors(sightings, cameras)
    matched = measure_pair_errors(identities, sightings, cameras)
    for sentence in tell_calibration(best, names):
        log.warning(sentence)
    if not matched:
        why = (
            f"those who fit best miss each other by {100 * min(best.values()):.0f} % of a person's "
            f"box; is calibration={cfg.calibration} that of these videos?"
            if best
            else "no two cameras show somebody at one instant"
        )
        raise UserError(f"videos={cfg.videos}: nobody is seen by two cameras: {why}")
    for sentence in tell_strangers(best, matched, names):
        log.warning(sentence)
    log.info(
        "epipolar error of one person in two cameras, median, share of the box: "
        + ", ".join(
            f"{names[a]}/{names[b]} {100 * error:.1f} %" for (a, b), error in matched.items()
        )
    )


def _gather(identities, sightings, views, searched) -> list[Found]:
    """The people in order of number; who is shown too little of is left out of that camera."""
    people: dict[int, Found] = {}
    for view, (own, seen) in enumerate(zip(identities, sightings, strict=True)):
        instant_of = {frame: instant for instant, frame in views[view].frames.items()}
        size = max(views[view].camera.width, views[view].camera.height)
        for row in np.flatnonzero(own != NOBODY).tolist():
            detection, frame = seen.detections[row], int(seen.frames[row])
            track, instant = seen.names[seen.tracks[row]], instant_of.get(int(seen.frames[row]))
            good = searched[view].is_good(track, frame)
            if instant is None or not good or not shows_enough(detection):
                continue
            person = people.setdefault(int(own[row]), Found({}, [], 0.0))
            if searched[view].is_measured(track, frame):
                person.measured.add(instant)
                detection = searched[view].with_good_hands(track, frame, detection)
            else:
                detection = _doubted(detection)
            person.seen.setdefault(instant, {})[view] = detection
            person.presence += float(seen.sides[row]) / size
            if view not in person.views:
                person.views.append(view)
    for person in people.values():
        person.seen = {i: by for i, by in sorted(person.seen.items()) if i in person.measured}
    return sorted(people.values(), key=lambda person: -person.presence)


def _doubted(detection):
    """An interpolated detection: its keypoints are half as sure."""
    if detection.keypoints is None:
        return detection
    return replace(detection, keypoints=detection.keypoints * [1, 1, 0.5])


def shows_enough(detection: Detection) -> bool:
    """Whether a detection has LEAST_FOUND keypoints, or is a box without any."""
    points = detection.keypoints
    return points is None or int((points[:, 2] >= LEAST_CONFIDENCE).sum()) >= LEAST_FOUND


def mark_bystanders(people: Sequence[Found], share: float) -> None:
    """Mark who is a bystander: one camera alone shows them, or they have too little presence.

    Args:
        share: of the greatest presence, below which a person is a bystander.
    """
    most = max((person.presence for person in people), default=0.0)
    for person in people:
        person.bystander = len(person.views) < 2 or person.presence < share * most


def _tell_people(people, names, bystanders):
    main = [person for person in people if not person.bystander]
    seen = ", ".join(f"{len(p.seen)} instants in {len(p.views)} cameras" for p in main[:8])
    log.info(f"{len(main)} people: {seen}{' ...' if len(main) > 8 else ''}")
    rest = [person for person in people if person.bystander]
    if rest:
        where = "; ".join(
            f"{', '.join(names[v] for v in person.views)}: {len(person.seen)} instants"
            for person in rest[:8]
        )
        kept = "kept" if bystanders == "keep" else "left out; bystanders=keep keeps them"
        log.info(f"{len(rest)} bystanders ({where}) are {kept}")


def box_people(
    people: Sequence[Found],
    views: Sequence[View],
    searched: Sequence[Searched],
    margin: float,
) -> dict[str, dict[int, list[Sight]]]:
    """Return {person: {instant: Sights}}.

    Args:
        margin: side of a crop over the longer side of the person's box.
    """
    out: dict[str, dict[int, list[Sight]]] = {}
    for number, person in enumerate(people):
        seen = out.setdefault(str(number), {})
        for instant, by_view in person.seen.items():
            seen[instant] = [
                _box(views[view], found, instant, searched[view], margin)
                for view, found in sorted(by_view.items())
            ]
    return out


def _box(view, found, instant, searched, margin):
    square = square_around(found.box, margin).box
    others = list_others(searched, view.frames[instant], found, square)
    return Sight(view, ideal_box(view.camera, found.box), found, others)
