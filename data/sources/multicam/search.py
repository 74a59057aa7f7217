"""What a search finds in each camera's video, and what lies between the searched frames."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from data.find.detection import SIDES, Detection, Tracks
from data.find.quality import LeftOut, choose_bodies, choose_hands
from data.find.search import Run, search_videos
from data.find.tracking import share_of
from data.find.turning import TurnedFrames, turn_detection
from data.sources.config import PairsConfig
from data.sources.frames import Frames
from data.sources.multicam.views import View
from data.sources.probe import Problems
from data.tools.work_split import Part
from engine.errors import UserError
from engine.logging.console import get_logger

_BRIDGE_S = 0.35  # between searched frames, as cameras whose clocks differ are searched apart

log = get_logger(__name__)


@dataclass
class Searched:
    """The people of one view.

    Attributes:
        tracks: in pixels of the video's own frames; between searched frames they are interpolated.
        measured: {track: sorted frames in which it was found, not interpolated}.
        good: {(track, frame)} of detections that are large, whole and sharp enough to be cut.
        good_hands: {(track, frame, side)} likewise of hands.
    """

    tracks: Tracks
    measured: dict[str, list[int]]
    good: set[tuple[str, int]]
    good_hands: set[tuple[str, int, str]] = field(default_factory=set)

    @classmethod
    def whole(cls, tracks: Tracks) -> "Searched":
        """Of tracks all of whose detections were found and are good."""
        measured = {name: sorted(track) for name, track in tracks.items()}
        good = set()
        for name, frames in measured.items():
            good |= {(name, frame) for frame in frames}
        return cls(tracks, measured, good)

    def is_measured(self, track: str, frame: int) -> bool:
        """Whether a track was found in a frame, and not interpolated."""
        known = self.measured[track]
        place = bisect.bisect_left(known, frame)
        return place < len(known) and known[place] == frame

    def is_good(self, track: str, frame: int) -> bool:
        """Whether a detection is worth a crop: itself, or both that it lies between."""
        known = self.measured[track]
        place = bisect.bisect_left(known, frame)
        near = [frame] if self.is_measured(track, frame) else known[max(0, place - 1) : place + 1]
        return bool(near) and all((track, f) in self.good for f in near)

    def with_good_hands(self, track: str, frame: int, found: Detection) -> Detection:
        """A detection with those of its hands that are worth a crop."""
        if not found.hands:
            return found
        hands = {s: h for s, h in found.hands.items() if (track, frame, s) in self.good_hands}
        return replace(found, hands=hands)


def search_views(cfg: PairsConfig, views: Sequence[View], problems: Problems) -> list[Searched]:
    """Return what is found in each view, from the output folder where it is there already.

    A camera on its side is searched as it is shown upright.

    Raises:
        UserError: nobody is found in any of the videos, or the networks are not there.
    """
    shown: dict[str, Frames] = {}
    for view in views:
        turns = view.camera.quarter_turns
        name = f"{view.stem}.turned{turns}" if turns else view.stem
        shown[name] = TurnedFrames(view.video, turns) if turns else view.video
    run = Run(cfg.found or cfg.out, cfg.workers, Part.of(cfg.part))
    found = search_videos(shown, cfg.find, cfg.kind != "body", run, problems)
    if not any(one.tracks for one in found.values()):
        raise UserError(
            f"nobody was found in videos={cfg.videos} ({len(views)} cameras, "
            f"{sum(one.searched for one in found.values())} frames searched): lower find.score_min "
            f"({cfg.find.score_min:g}), or bring boxes=FILE or track=FILE"
        )
    left_out = LeftOut.nothing()
    out = [
        _read_view(cfg, view, shown[name], found[name], left_out)
        if name in found
        else Searched.whole({})
        for view, name in zip(views, shown, strict=True)
    ]
    if said := left_out.describe(cfg.find):
        log.info(said)
    return out


def _read_view(cfg, view, frames, found, left_out):
    """What was found in a view, in pixels of its own frames."""
    left_out.still += found.still
    good, good_hands = set(), set()
    for person in found.tracks:
        chosen = choose_bodies(found, person, cfg.find, left_out)
        good |= {(person, frame) for frame in chosen}
        for side in SIDES if cfg.kind != "body" else ():
            chosen = choose_hands(found, person, side, cfg.find, left_out)
            good_hands |= {(person, frame, side) for frame in chosen}
    tracks = _bodies(found.tracks)
    if view.camera.quarter_turns:
        back = -view.camera.quarter_turns % 4
        tracks = _turn(tracks, back, frames.width, frames.height)
    measured = {person: sorted(track) for person, track in tracks.items()}
    return Searched(fill_between(tracks, frames.times), measured, good, good_hands)


def _bodies(tracks):
    """Tracks of people: hands that nobody's body is seen of are left out."""
    return {
        person: track
        for person, track in tracks.items()
        if any(one.joint_set != "hand21" for one in track.values())
    }


def _turn(tracks, back, width, height):
    out = {}
    for person, track in tracks.items():
        out[person] = {f: turn_detection(one, back, width, height) for f, one in track.items()}
    return out


def fill_between(tracks: Tracks, times: np.ndarray) -> Tracks:
    """Return tracks with a detection at each frame between two that are at most 0.35 s apart.

    Boxes and keypoints are interpolated in time; a keypoint is as sure as the less sure of its two.

    Args:
        times: (count,) seconds of the video's frames.
    """
    out: Tracks = {}
    for person, track in tracks.items():
        frames = sorted(track)
        filled = {frames[0]: track[frames[0]]} if frames else {}
        for before, after in zip(frames, frames[1:], strict=False):
            if times[after] - times[before] <= _BRIDGE_S:
                for frame in range(before + 1, after):
                    share = (times[frame] - times[before]) / (times[after] - times[before])
                    filled[frame] = _between(track[before], track[after], float(share))
            filled[after] = track[after]
        out[person] = filled
    return out


def _between(a, b, share):
    box = a.box + (b.box - a.box) * share
    points = None
    if a.keypoints is not None and b.keypoints is not None and a.joint_set == b.joint_set:
        points = a.keypoints + (b.keypoints - a.keypoints) * share
        points[:, 2] = np.minimum(a.keypoints[:, 2], b.keypoints[:, 2])
    return Detection(box, min(a.score, b.score), points, a.joint_set)


def list_others(
    searched: Searched, frame: int, own: Detection, square: np.ndarray
) -> list[Detection]:
    """Return who else of a frame reaches into a crop's square, in the frame's own pixels."""
    others = []
    for track in searched.tracks.values():
        one = track.get(frame)
        if one is not None and one is not own and share_of(one.box, square) > 0:
            others.append(replace(one, hands={}))
    return others
