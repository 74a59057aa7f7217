"""Labelled datasets that users own, each one file here: a reader of its images and labels.

    @LABELLED.register("mine")
    @dataclass
    class MyDataset(LabelledSource):
        annotations: str = key("labels.json", "file of the labels, inside root=")

        def read(self) -> Iterator[LabelledImage]:
            for row in self.follow(json.load(...)):
                yield LabelledImage(image=..., clip=..., subject=..., box=..., labels=...)

``python -m data labels mine out=DIR root=DIR`` then cuts a crop around each person and writes
shards; the fields of the dataclass are the command's keys. Labels are given in the one schema of
data/format/labels.py, keypoints in pixels of the image they were marked in.

With ``frames=true`` the people of an image become one whole frame (data/format/frame.py). A reader
then also yields the places of people whom its labels do not tell one by one, as ``unlabelled``.

What a reader makes of a label that is no finite number does not matter: the person is left out and
told of. A file that is missing or of another format it raises a UserError for.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from data.format.labels import CropLabels
from data.sources.labelled.archives import ArchiveMember
from data.sources.labelled.rows import Rows
from data.tools.work_split import HELP, Part
from engine.config.parser import key
from engine.errors import UserError
from engine.registry import Registry

Row = TypeVar("Row")


@dataclass
class LabelledImage:
    """One person in one image.

    Attributes:
        image: path of the file, a member of an archive, or the file's bytes.
        clip: name of the clip; images that follow each other with one name become the crops of one
            clip, and no other clip of the data set has the name. The crops of a clip show one
            person, by several cameras or at several instants, in one world.
        subject: who it is, as far as the data set tells: what is split by person is split by this.
        box: (4,) x0, y0, x1, y1 around the person (or hand), in pixels of the undistorted image;
            the first pixel's corner is at (0, 0).
        labels: what is known of the person. Keypoints are in pixels of the image as it is, the
            first pixel's centre at (0.5, 0.5); joints and vertices in metres, in the world of Rt,
            or with frame "root" in the camera's axes where nobody knows where the person stands.
        kind: "body", "left_hand" or "right_hand".
        name: what the data set calls the image; by default the end of its path.
        size: (width, height) of the image that the labels are about; where the file has another,
            it is skipped, unless its EXIF tag turns it to that size. None: not known, and the
            labels are about the pixels as they are stored.
        quarter_turns: how often the file's pixels are turned by a quarter, clockwise, to be the
            image that box, labels, size and K are about.
        camera, time_s: which camera took it, and when on the clip's clock (of the track, if any).
        K: (3, 3) intrinsics, the first pixel's centre at (0.5, 0.5); None: not calibrated.
        Rt: (3, 4) world to camera, metres; where K is given and this is not, the world is the
            camera.
        distortion: (8,) k1, k2, p1, p2, k3, k4, k5, k6 as in OpenCV; None: none.
        mask: where the person is: (H, W) bool, or polygons, each (n, 2) pixels; None: not known.
        licence: of the image; "": that of the source.
        split: such as "train"; None: not told.
        track: the recording of one person that the clip is part of, see data.format.clip.Clip.
        scene: of whole frames, the recording that several images are of, in which equal tracks are
            one person; None: the image is alone.
        unlabelled: there is somebody, or a crowd, within mask or else box, of whom nothing is
            labelled. Only asked for, and only allowed, where ``frames`` is set.
    """

    image: str | bytes | ArchiveMember
    clip: str
    subject: str
    box: np.ndarray
    labels: CropLabels = field(default_factory=CropLabels)
    kind: str = "body"
    name: str | None = None
    size: tuple[int, int] | None = None
    quarter_turns: int = 0
    camera: str = "camera"
    time_s: float = 0.0
    K: np.ndarray | None = None
    Rt: np.ndarray | None = None
    distortion: np.ndarray | None = None
    mask: np.ndarray | list[np.ndarray] | None = None
    licence: str = ""
    split: str | None = None
    track: str | None = None
    scene: str | None = None
    unlabelled: bool = False


@dataclass
class LabelledSource(ABC):
    """The keys that all labelled datasets have, and what one has to do."""

    out: str = key("", "folder for the shards; empty, missing, or of this command", path="one")
    root: str = key(
        "", "folder of the data set, as its owners pack it", path="one", renamed_from="source"
    )
    name: str = key("", "name of the source, stored with each clip; default: the reader's")
    licence: str = key("", "licence of the images, stored with each clip that says nothing else")
    size: int = key(256, "side of a crop in pixels", low=32)
    margin: float = key(
        1.25, "side of a crop over the longer side of the person's box", low=1, high=10
    )
    quality: int = key(92, "JPEG quality", low=1, high=100)
    box_min_px: float = key(
        32.0, "people whose box has a shorter longer side than this are left out", low=1
    )
    blur_faces: bool = key(
        False, "blur every face that is found in an image, or labelled, before anything is cut"
    )
    clips_per_shard: int = key(1000, "clips, or frames, of a shard", low=1)
    frames: bool = key(
        False, "write whole images with everybody in them, docs/scenes.md, in place of crops"
    )
    frame_px: int = key(
        1280, "longer side of a whole frame at most; smaller images stay as they are", low=64
    )
    workers: int = key(1, "processes that cut; each holds one shard's crops in memory", low=1)
    part: str | None = key(None, HELP)

    def __post_init__(self) -> None:
        self.rows = Rows()

    def check(self) -> None:
        """Raises UserError for keys that are missing."""
        for name in ("out", "root"):
            if not getattr(self, name):
                raise UserError(f"{name}= is not set: {name}=DIR")
        Part.of(self.part)

    def follow(self, rows: Sequence[Row]) -> Iterator[Row]:
        """Yield rows of the data set, and note how far the reader is.

        ``--check`` gets a few of them, from all over.
        """
        return self.rows.follow(rows)

    @abstractmethod
    def read(self) -> Iterator[LabelledImage]:
        """Yield every labelled person of the data set, always in the same order.

        Goes through the rows by ``follow``. May be called again, and then yields the same.

        Raises:
            UserError: a file is missing or is not of the format.
        """


LABELLED: Registry[type[LabelledSource]] = Registry("data labels NAME", __name__)
