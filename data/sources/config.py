"""Keys of ``python -m data pairs``."""

from dataclasses import dataclass, field

from data.find.config import FindConfig
from data.format.clip import KINDS
from data.format.index import PAIR_KINDS
from data.sources.cameras import AUTO, FORMATS, UNITS
from data.sources.detections import FORMATS as DETECTION_FORMATS
from data.tools.work_split import HELP, Part
from engine.config.parser import key, section
from engine.errors import UserError

# Readers of still images, and the keys that say where those are.
SOURCE_KEYS = {"image_folders": "images", "pair_list": "pair_list"}
STILL_READERS = tuple(SOURCE_KEYS)
UP = ("x", "y", "z", "-x", "-y", "-z")


@dataclass
class CameraKeys:
    """Names a camera's video and how it is cut from the calibrated image."""

    video: str | None = key(
        None, "file name of this camera's video without suffix, where it is not the camera's name"
    )
    offset_x: float = key(0.0, "pixels cut off the left of the calibrated image in the video")
    offset_y: float = key(0.0, "pixels cut off its top")
    turn: int | None = key(
        None,
        "degrees, clockwise, that turn its image upright: 0, 90, 180 or 270; empty: as the "
        "calibration says, else 0",
    )

    def quarter_turns(self, name: str) -> int | None:
        """Turns by 90 degrees that ``turn`` asks for; None: the calibration's."""
        if self.turn not in (None, 0, 90, 180, 270, -90):
            raise UserError(f"cameras.{name}.turn={self.turn} is none of 0, 90, 180, 270")
        return None if self.turn is None else self.turn // 90 % 4


@dataclass
class Person:
    """Where the person is, for calibrated cameras without boxes: a vertical cylinder."""

    track_point: str = key(
        "head",
        "what a row of track= is: the top of the head, or the middle of the body",
        choices=("head", "middle"),
    )
    up: str = key("z", "the world axis that points up", choices=UP)
    floor_m: float = key(
        0.0, "height of the floor on that axis; a head's cylinder reaches down to it"
    )
    height_m: float = key(1.8, "height of the cylinder where no head is tracked", low=0.05)
    radius_m: float = key(0.6, "radius of the cylinder", low=0.01)


@dataclass
class PairsConfig:
    """Holds the keys of ``python -m data pairs``."""

    out: str = key(
        "", "folder for the shards; empty, missing, or made by this very config", path="one"
    )
    videos: str = key("", "folder of videos, or one video", path="one")
    reader: str = key(
        "video",
        "video: clips of single cameras; multicam: of synchronised, calibrated cameras; "
        "image_folders: of a folder of images a person; pair_list: of two images a line",
        choices=("video", "multicam", *STILL_READERS),
    )
    images: str | None = key(
        None, "image_folders: folder of folders of images, one a person or scene", path="one"
    )
    images_per_clip: int = key(8, "image_folders: most images of a clip", low=2, high=100)
    pair_list: str | None = key(
        None,
        "pair_list: text or CSV of two images' paths a line, perhaps with a subject",
        path="one",
    )
    pair_kind: str = key(
        "cross_pose",
        "image_folders and pair_list: whether the images of a clip are other moments of one "
        "camera, or one moment of other cameras",
        choices=PAIR_KINDS,
    )
    crop: str = key(
        "image",
        "image_folders and pair_list, without boxes=: what a crop shows, the whole image or the "
        "largest person found in it",
        choices=("image", "person"),
    )
    boxes: str | None = key(
        None,
        "file or folder of detections: who is where in each frame (docs/detections.md)",
        path="one",
    )
    boxes_format: str = key("auto", "its format", choices=DETECTION_FORMATS)
    find: FindConfig = section(FindConfig)
    found: str | None = key(
        None, "folder whose videos `data find` has searched; default: out=", path="one"
    )
    fill_gaps_frames: int = key(
        0, "interpolate between boxes up to this many frames apart; 0: no box, no crop", low=0
    )
    calibration: str | None = key(None, "multicam: the calibration file", path="one")
    calibration_format: str = key(
        AUTO, "who wrote it; auto: told by what the file holds", choices=FORMATS
    )
    calibration_unit: str | None = key(
        None,
        "unit of its lengths, for formats that leave it open; empty: metres",
        choices=tuple(UNITS),
    )
    calibration_part: str | None = key(
        None, "which of several calibrations in one file: a capture, a subject, a type of camera"
    )
    cameras: dict[str, CameraKeys] = field(
        default_factory=dict, metadata={"help": "multicam: per camera"}
    )
    size_slack_px: int = key(
        16, "multicam: a video may differ from its calibration's image by this many pixels", low=0
    )
    timestamps: str | None = key(
        None,
        "multicam: CSV sync_index, cam_id, frame_time; without it frame i is with frame i",
        path="one",
    )
    track: str | None = key(
        None, "multicam: CSV frame, x_m, y_m, z_m: a point of the person in the world", path="one"
    )
    people: str = key(
        "find",
        "multicam without boxes= and track=: find: people are searched for in every camera and "
        "matched; axes: one person stands where all cameras point",
        choices=("find", "axes"),
    )
    bystanders: str = key(
        "leave_out",
        "multicam: people whom one camera alone shows, or who are far less present than others",
        choices=("leave_out", "keep"),
    )
    bystander_share: float = key(
        0.4,
        "multicam: presence below which a person is a bystander, over that of the most present; "
        "presence: sum over frames and cameras of the box's side over the image's",
        low=0,
        high=1,
    )
    synchronise: bool = key(
        False, "multicam: correct the cameras' clocks by how late the people's motion says they are"
    )
    synchronise_most_s: float = key(
        1.0, "multicam: the most that a camera is tried to be late", low=0, high=60
    )
    person: Person = section(Person)
    kind: str = key(
        "body",
        "what the crops show; hand: both hands; all: bodies and hands",
        choices=(*KINDS, "hand", "all"),
    )
    keypoints: bool = key(
        True, "store the 2D keypoints of those who were found as labels, with their confidence"
    )
    blur_faces: bool = key(
        False, "blur every face that is found in a frame before anything is cut from it"
    )
    source: str = key("real", "name of the source, stored with each clip")
    licence: str = key("unknown", "licence of the images, stored with each clip")
    subject: str | None = key(
        None, "name of the person where all videos show one; empty: SOURCE/VIDEO/PERSON"
    )
    instants: int = key(4, "instants of a clip", low=1)
    gap_min_s: float = key(0.2, "least time from one instant of a clip to its next", low=0)
    gap_max_s: float = key(1.0, "most", low=0)
    stride_s: float = key(
        2.0, "time from the start of one clip to the start of the next", low=0.001
    )
    margin: float = key(1.25, "side of a crop over the longer side of the person's box", low=1.25)
    min_inside: float = key(
        0.7, "least share of the person's box inside the image; less is left out", low=0, high=1
    )
    size: int = key(256, "side of a crop in pixels", low=32)
    quality: int = key(92, "JPEG quality", low=1, high=100)
    clips_per_shard: int = key(500, "clips of a shard", low=1)
    seed: int = key(0, "draws the gaps", low=0)
    workers: int = key(1, "processes that decode; each holds one shard's crops in memory", low=1)
    part: str | None = key(None, HELP)

    @property
    def find_masks(self) -> bool:
        """Whether outlines are searched for in the crops that bring none."""
        return self.boxes is None if self.find.masks is None else self.find.masks

    def check(self) -> None:
        """Raises UserError for keys that do not go together."""
        asked = SOURCE_KEYS.get(self.reader, "videos")
        for name in ("out", asked):
            if not getattr(self, name):
                raise UserError(f"{name}= must be given")
        others = {"videos", *SOURCE_KEYS.values()} - {asked}
        for name in sorted(name for name in others if getattr(self, name)):
            raise UserError(
                f"{name}={getattr(self, name)} is of another reader: reader={self.reader} reads "
                f"{asked}="
            )
        Part.of(self.part)
        for name, camera in self.cameras.items():
            camera.quarter_turns(name)  # says what is none, before a video is read
        if self.found and self.boxes:
            raise UserError(f"found={self.found} and boxes={self.boxes}: give one of them")
        if self.gap_min_s > self.gap_max_s:
            raise UserError(f"gap_min_s={self.gap_min_s} is above gap_max_s={self.gap_max_s}")
        unused = [n for n in ("calibration", "timestamps", "track") if getattr(self, n)]
        if self.reader in STILL_READERS:
            if unused or self.cameras:
                raise UserError(
                    f"{unused[0] if unused else 'cameras'}= is for reader=multicam, but "
                    f"reader={self.reader}"
                )
        elif self.reader == "video":
            if self.instants < 2:
                raise UserError(f"instants={self.instants}: a clip of one camera needs at least 2")
            if unused or self.cameras:
                raise UserError(
                    f"{unused[0] if unused else 'cameras'}= is for reader=multicam, but "
                    f"reader={self.reader}"
                )
        elif not self.calibration:
            raise UserError("reader=multicam needs calibration=FILE")
        if self.track and self.boxes:
            raise UserError(f"track={self.track} and boxes={self.boxes}: give one of them")
