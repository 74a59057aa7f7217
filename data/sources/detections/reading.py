"""Where people are, from a file or folder of any known format."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from data.find.detection import Detection, Tracks, VideoTracks
from data.sources.detections.linking import link_boxes
from data.sources.detections.names import VideoNames, list_some
from data.sources.detections.registry import AUTO, READERS, recognise
from data.sources.detections.source import Found, Source
from data.sources.frames import Frames
from data.sources.probe import Problems
from data.sources.tables import quote
from engine.errors import UserError
from engine.logging.console import get_logger

MOST_OUTSIDE = 10  # a box's side over the image's: more is a mistake
SHARES_MOST_PX = 2  # of all coordinates of a video: no person is so small, so they are shares

Row = tuple[int, str | None, Detection]  # frame, person, who is there

log = get_logger(__name__)


def read_detections(
    path: str,
    videos: Mapping[str, Frames],
    format: str = AUTO,
    problems: Problems | None = None,
) -> VideoTracks:
    """The people of each video that a file, or a folder of files, tells of.

    Pixels of the upright image; frames from 0, and only those that the video has. A frame past the
    end of its video and a box outside the image are left out with a message. A file that lists
    nobody gives {}.

    Args:
        path: of the file or folder.
        videos: {path relative to the folder of videos: Frames}, as data.sources.probe lists them.
        format: a name of data.sources.detections.FORMATS.
        problems: takes the names that no video has; without it a warning tells them.
    Raises:
        UserError: the file cannot be read as its format, with its line; a name fits two videos;
            two boxes of one person in one frame; all boxes of a video lie outside the image, or are
            shares of it where pixels are wanted.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    names = VideoNames({key: video.path for key, video in videos.items()}, path)
    rows: dict[tuple[str, str], list[Row]] = defaultdict(list)
    late: Counter[str] = Counter()
    for found in _read(path, format):
        key, place = names.find(found.names)
        if key is None:
            continue
        frame = 0 if place < found.images else found.frame
        if frame >= videos[key].count:
            late[key] += 1
            continue
        detection = found.detection
        if found.normalised:
            detection = _to_pixels(detection, videos[key].width, videos[key].height)
        rows[key, found.names[place]].append((frame, found.person, detection))
    for key, name in names.misfits():
        if rows.pop((key, name), None) is not None:
            names.unknown.setdefault(name)
    _tell(path, names, videos, late, problems)
    by_video: dict[str, list[Row]] = defaultdict(list)
    for (key, _), listed in rows.items():
        by_video[key] += listed
    out = {}
    for key in [key for key in videos if key in by_video]:
        tracks = _check_inside(_tracks(by_video[key], key), key, videos[key])
        if tracks:
            out[key] = tracks
    return out


def _tracks(rows: list[Row], key: str) -> Tracks:
    """The Tracks of one video; who is named by nobody is linked."""
    tracks: Tracks = defaultdict(dict)
    loose: dict[int, list[Detection]] = defaultdict(list)
    for frame, person, detection in rows:
        if person is None:
            loose[frame].append(detection)
        elif frame in tracks[person]:
            raise UserError(
                f"{detection.where}: a second box for frame {frame} of {key}; the first is at "
                f"{tracks[person][frame].where}"
            )
        else:
            tracks[person][frame] = detection
    return {**tracks, **link_boxes(loose)}


def _read(path: str, format: str) -> Iterator[Found]:
    source = Source(path, os.path.basename(os.path.normpath(path)))
    name = recognise(source) if format == AUTO else format
    if not source.is_folder and name == "":
        raise UserError(f"{path} is empty: it has neither a header nor a box")
    reader = READERS[name]
    if not source.is_folder or reader.of_folders:
        yield from reader.read(source)
        return
    suffixes = (".csv", ".json", ".txt", ".tsv") if format == AUTO else reader.suffixes
    for file in source.files(suffixes):
        kind = recognise(file) if format == AUTO else format
        if kind:
            yield from READERS[kind].read(file)


def _to_pixels(detection: Detection, width: int, height: int) -> Detection:
    """The same person in pixels, of shares of the image."""
    size = np.array([width, height], np.float64)
    detection.box = detection.box * np.tile(size, 2)
    for one in (detection, *detection.hands.values()):
        if one.keypoints is not None:
            one.keypoints = np.concatenate([one.keypoints[:, :2] * size, one.keypoints[:, 2:]], 1)
    for hand in detection.hands.values():
        hand.box = hand.box * np.tile(size, 2)
    return detection


def _tell(
    path: str,
    names: VideoNames,
    videos: Mapping[str, Frames],
    late: Counter[str],
    problems: Problems | None,
) -> None:
    """Say what was left out, a line each."""
    for key, count in late.items():
        last = videos[key].count - 1
        words = (
            f"{path}: {count} boxes for {key} lie past its last frame, {last}; they are left out"
        )
        if problems is None:
            log.warning(words)
        else:
            problems.add(videos[key].path, words)
    for name in list(names.unknown) if problems is not None else ():
        assert problems is not None
        problems.add(quote(name), f"{path} has boxes for it, but it is not among the videos")
    if names.unknown and problems is None:
        log.warning(f"{path} has boxes for {list_some(list(names.unknown))}, which are not there")


def _check_inside(tracks: Tracks, key: str, video: Frames) -> Tracks:
    """The detections whose boxes meet the image.

    Raises:
        UserError: none does, one is far larger than the image, or all lie in its first pixels: they
            are in other units, or of another video.
    """
    found = [d for track in tracks.values() for d in track.values()]
    boxes = np.stack([d.box for d in found])
    size = np.array([video.width, video.height])
    if np.abs(boxes).max() <= SHARES_MOST_PX < size.min():
        raise UserError(
            f"{found[0].where}: the box {_text(found[0].box)} is in shares of the image, or so it "
            f"seems, as are all others of {key}; pixels of the image of {video.width}x"
            f"{video.height} are wanted (boxes_format=ultralytics alone has shares)"
        )
    sides = (boxes[:, 2:] - boxes[:, :2]) / size.max()
    if sides.max() > MOST_OUTSIDE:
        worst = found[int(sides.max(1).argmax())]
        raise UserError(
            f"{worst.where}: the box {_text(worst.box)} is over {MOST_OUTSIDE} times as large as "
            f"the image of {video.width}x{video.height}"
        )
    outside = (boxes[:, :2] >= size).any(1) | (boxes[:, 2:] <= 0).any(1)
    if outside.all():
        raise UserError(
            f"{found[0].where}: the box {_text(found[0].box)} lies outside the image of "
            f"{video.width}x{video.height}, as do all others of {key}"
        )
    if not outside.any():
        return {person: tracks[person] for person in sorted(tracks)}
    first = found[int(outside.argmax())]
    log.warning(
        f"{first.where}: {int(outside.sum())} of {len(found)} boxes of {key} lie outside the image "
        f"of {video.width}x{video.height}; they are left out"
    )
    gone = {id(found[i]) for i in np.flatnonzero(outside)}
    kept = {}
    for person in sorted(tracks):
        track = {frame: d for frame, d in tracks[person].items() if id(d) not in gone}
        if track:
            kept[person] = track
    return kept


def _text(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{v:g}" for v in box) + "]"
