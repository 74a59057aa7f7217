"""The keys of ``counterpose fit``. Imports no torch."""

from dataclasses import dataclass

from engine.config.parser import key, section
from engine.errors import UserError
from finetune.verb_config import refuse_two_cameras

AXES = ("", "x", "-x", "y", "-y", "z", "-z")
NOBODY = "none"  # as run=: no network says where a fit begins


@dataclass
class FitKeys:
    """How a body is fitted to keypoints, ``fit.*``."""

    max_error: float = key(
        0.05,
        "instants whose keypoints are farther than this from the fit, on average, are left out; "
        "as a share of the person's size in the image",
        low=0,
    )
    min_points: int = key(
        6, "fewest keypoints of an image that count; with fewer it is left out", low=1
    )
    sigma: float = key(
        0.015, "how far a right keypoint is off, as a share of the person's size", low=0.001
    )
    confidence_min: float = key(
        0.3, "keypoints of a lower confidence are not looked at", low=0, high=1
    )
    prior: float = key(0.3, "weight of which poses are likely", low=0)
    shape: float = key(1.0, "weight of which shapes are likely, for each image", low=0)
    start: float = key(
        1.0, "weight of the network's pose where one camera alone sees the person", low=0
    )
    acceleration: float = key(
        10.0, "usual acceleration of a joint, m/s^2; smaller is smoother; 0: not smoothed", low=0
    )
    frozen: bool = key(
        False,
        "people hold still before cameras that move: all images of a person are of one pose",
    )
    steps: int = key(120, "steps of a fit, at most", low=1)


@dataclass
class TrainedFitKeys(FitKeys):
    """How clips are fitted while a network trains, ``fit.*`` of ``finetune train``."""

    people: int = key(
        0, "people that are fitted anew each time, in turn (fit_every); 0: all of them", low=0
    )


@dataclass
class FitConfig:
    """Holds the keys of ``counterpose fit``."""

    out: str = key("", "folder for the labelled shards", path="one")
    body: str = key("anny", "body model that is fitted (docs/bodies.md)")
    variant: str = key("", "of that model, such as neutral; default: its own")
    run: str = key(
        "",
        "the network that a fit begins with: a run, or weights (docs/weights.md); default: those "
        "that ship for bodies or hands; none: fits begin with the mean pose",
        path="one",
    )
    up: str = key(
        "",
        "axis of the cameras' world that points up: then feet that stand neither slide nor sink; "
        "default: nobody knows",
        choices=AXES,
    )
    intrinsics: list[float] = key(
        [],
        "fx,fy,cx,cy in pixels of the images that uncalibrated crops were cut from; default, of a "
        "video: calibration=, else the focal length is the image's diagonal",
    )
    calibration: str = key(
        "",
        "file of the cameras of photographs or of a video (docs/cameras.md); default, of a "
        "photograph: what its EXIF says of the focal length",
        path="one",
    )
    camera: str = key(
        "", "name in calibration= of the camera that took them all; default: by the files' names"
    )
    rate_hz: float = key(10.0, "frames of a second of a video that are fitted", low=0.1)
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))
    fit: FitKeys = section(FitKeys)

    def check(self) -> None:
        """UserError where ``out`` is not set, or intrinsics are not four numbers."""
        if not self.out:
            raise UserError("out= is not set: out=DIR names the folder of the labelled shards")
        if self.intrinsics and len(self.intrinsics) != 4:
            raise UserError(f"intrinsics={self.intrinsics}: fx,fy,cx,cy are four numbers")
        if self.camera and not self.calibration:
            raise UserError(f"camera={self.camera} is a name in a file: set calibration= too")
        refuse_two_cameras(self.intrinsics, self.calibration)
