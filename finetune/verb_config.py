"""The keys of ``python -m finetune evaluate|score|predict|report|release|weights``.

Nothing here imports torch: help and completion take a fraction of a second.
"""

from dataclasses import dataclass

from engine.config.parser import key, section
from engine.errors import UserError


@dataclass
class EvaluateDataConfig:
    """Names the labelled shards of an evaluation."""

    shards: str = key(
        "",
        "labelled shards of clips, or of whole frames (docs/scenes.md); what the run was trained "
        "on is left out; default: those of the run",
        path="several",
    )


@dataclass
class EvaluateSceneConfig:
    """Says how whoever is found in whole frames is judged (docs/scenes.md)."""

    perfect_finder: bool = key(
        False,
        "of a run on crops: the people's true boxes and keypoints, as far as they lie in the "
        "frame, in place of those that are found; an upper bound",
    )
    intrinsics: bool = key(
        True, "give the network the frames' intrinsics; false: nobody knows them"
    )
    refine: bool = key(
        True, "of a run on crops: move bodies onto the keypoints that were found, as predict does"
    )
    least_score: float | None = key(
        None,
        "people who are found with a lower score are left out; default: what predict takes, 0.3 "
        "of a finder's and 0.35 of a network for scenes",
        low=0,
        high=1,
    )
    shown_min: float = key(
        0.1,
        "people of whom the frame shows less count neither as missed nor, found, as false",
        low=0,
        high=1,
    )


@dataclass
class EvaluateConfig:
    """Holds the keys of ``python -m finetune evaluate``."""

    run: str = key(
        "",
        "a fine-tuning run, one of its checkpoints, or weights (docs/weights.md)",
        path="one",
        positional="RUN",
    )
    without: str = key(
        "", "the same training without pre-training, for a row of the table", path="one"
    )
    beside: str = key(
        "",
        "another network on the same body model, such as weights that ship, for a row of the "
        "table; of whole frames the folder of its results on the same frames",
        path="one",
    )
    out: str = key("", "folder for the results; default: RUN/evaluation", path="one")
    attack: float = key(
        0.0,
        "a row for images changed against the run by one step with noise (N-FGSM) of so many of "
        "255 levels; 0: none",
        low=0,
        high=255,
    )
    protocol: str = key(
        "", "a paper's protocol instead of the table, such as freihand; docs/protocols.md"
    )
    regressor: str = key("", "joint regressor (.npy) of the protocol, such as H36M's", path="one")
    indices: str = key(
        "",
        "folder of files that number hands', face's, body's vertices, for EHF, AGORA",
        path="one",
    )
    submission: str = key("", "file for the predictions, in the protocol's format", path="one")
    plausibility: bool = key(False, "with protocol=: also measure parts of meshes in each other")
    up: str = key(
        "",
        "with plausibility=true: axis of the labels' world that points up, for feet in the ground",
        choices=("", "x", "-x", "y", "-y", "z", "-z"),
    )
    log: bool = key(
        False,
        "put the numbers into the run's log too, at the checkpoint's step; out is then "
        "RUN/evaluations/step-X",
    )
    clips: int = key(64, "clips, or whole frames, at most", low=1)
    examples: int = key(
        2,
        "of the best, of the median and of the worst crops that are drawn; whole frames",
        low=1,
    )
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))
    allow_commands: bool = key(False, "run the commands (pipe:) that RUN's config names as shards")
    data: EvaluateDataConfig = section(EvaluateDataConfig)
    scene: EvaluateSceneConfig = section(EvaluateSceneConfig)

    def check(self) -> None:
        """UserError where keys of a protocol come without one."""
        for name in ("regressor", "indices", "submission", "plausibility"):
            if getattr(self, name) and not self.protocol:
                raise UserError(f"{name}={getattr(self, name)} is of a protocol: set protocol= too")
        if self.up and not self.plausibility:
            raise UserError(f"up={self.up} is read with plausibility=true alone")


@dataclass
class ScoreConfig:
    """Holds the keys of ``python -m finetune score``."""

    predictions: str = key(
        "",
        "predictions in the submission format of the protocol (docs/protocols.md)",
        path="one",
        positional="PREDICTIONS",
    )
    truth: str = key("", "the truth: a file or folder of the data set", path="one")
    protocol: str = key("", "whose numbers are computed, such as freihand; docs/protocols.md")
    split: str = key("", "part of the data set, where the truth holds several")
    regressor: str = key("", "joint regressor (.npy) for protocols of meshes' joints", path="one")
    indices: str = key(
        "", "folder of files that number hands', face's, body's vertices", path="one"
    )
    out: str = key("", "JSON file for the numbers, unrounded", path="one")

    def check(self) -> None:
        """UserError where the truth or the protocol is not named."""
        for name in ("protocol", "truth"):
            if not getattr(self, name):
                raise UserError(f"{name}= is not set; docs/protocols.md lists what each takes")


@dataclass
class CompareConfig:
    """Holds the keys of ``python -m finetune compare``."""

    out: str = key(
        "", "JSON file for the results; default: compare.json in the first run's folder", path="one"
    )
    clips: int = key(64, "clips, at most", low=2)
    given: bool = key(False, "give the runs the true keypoints beside the image, as evaluate's row")
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))
    allow_commands: bool = key(
        False, "run the commands (pipe:) that the first run's config names as shards"
    )
    data: EvaluateDataConfig = section(EvaluateDataConfig)


@dataclass
class PredictConfig:
    """Holds the keys that ``predict`` and ``predict_pair`` share."""

    run: str = key(
        "",
        "a fine-tuning run, or one of its checkpoints; the name of weights that ship, a file, a "
        "URL or a hub repository; one for bodies and one for hands may be named; default: body and "
        "hand, as far as they ship",
        path="several",
    )
    out: str = key("predictions", "folder for overlays, meshes and numbers", path="one")
    boxes: str = key(
        "",
        "CSV or JSON with image,x0,y0,x1,y1 and perhaps side, a row a person; of videos any file "
        "of docs/detections.md; default: people, or hands, are found (pip install -e '.[find]')",
        path="one",
    )
    whole_image: bool = key(False, "each image shows one person or hand: nobody is looked for")
    least_score: float = key(
        0.3, "people and hands that are found with a lower score are left out", low=0, high=1
    )
    intrinsics: list[float] = key(
        [],
        "fx,fy,cx,cy of the images in pixels; default: calibration=, else what a photograph's EXIF "
        "tells, else what lens= tells, else the focal length is the diagonal",
    )
    lens: str = key(
        "",
        "what tells the focal length by the people in an image or video where nothing else does: a "
        "run of head.name=lens, or weights; none: nothing; default: lens, where it ships",
        path="one",
    )
    side: str | None = key(
        None,
        "which hands are kept of those that are found (default: both), or which those are whose "
        "side boxes= does not say and those of whole images (default: right)",
        choices=("right", "left"),
    )
    colour: str = key(
        "person",
        "what overlays and GLB files are coloured by: who it is, or how sure the network is "
        "(head.confidence=true), from blue over green to red",
        choices=("person", "confidence"),
    )
    join_hands: bool = key(
        True,
        "hands are put on the bodies that they belong to: one mesh with fingers; false: each is a "
        "mesh of its own",
    )
    hand_px: float = key(24.0, "side of a hand's box in pixels below which it is not joined", low=0)
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))

    def check(self) -> None:
        """UserError where two keys say where people are."""
        if self.whole_image and self.boxes:
            raise UserError(f"whole_image=true and boxes={self.boxes}: only one can be followed")


@dataclass
class VideoConfig:
    """Says how videos are gone through."""

    search_hz: float = key(
        30.0,
        "frames of a second of video that people are searched in; in the others, boxes and "
        "keypoints are those between",
        low=0.1,
    )
    tiles: bool = key(True, "search in tiles of the image too, for small people and crowds")
    lost_s: float = key(1.5, "longest time that a person may be hidden and stay the same", low=0)
    smooth: str = key(
        "one_euro",
        "what takes the jitter of single frames out of rotations and places: the one-euro filter "
        "(docs/video.md), a motion module that also fills short gaps, or nothing",
        choices=("one_euro", "learned", "none"),
    )
    motion: str = key(
        "",
        "video.smooth=learned: the motion module, a run of finetune train motion_body or a file of "
        "one",
        path="one",
    )
    fill_s: float = key(
        0.5,
        "video.smooth=learned: longest time between two sightings of somebody that is filled; 0: "
        "none",
        low=0,
    )
    smooth_hz: float = key(
        1.0, "video.smooth=one_euro: cutoff of joints that rest; lower is smoother", low=0.01
    )
    smooth_rise: float = key(
        4.0, "hertz that this cutoff rises by for each rad/s; lower is smoother and slower", low=0
    )
    overlay: bool = key(True, "write the video with the meshes on it, and its sound")
    maps: list[str] = key(
        [],
        "videos of the people alone, for image generators: depth, normals, parts, skeleton; "
        "separated by commas",
    )
    side_by_side: bool = key(False, "the overlay's video beside the source's")
    size_px: int = key(1280, "longer side of the drawn video at most; 0: as the source", low=0)
    stretch: int = key(
        100, "frames that are recovered, and drawn, at a time; a kill costs no more", low=1
    )
    threads: bool = key(
        True,
        "decode, crop, recover, draw and encode each on a thread of its own; results are equal "
        "without",
    )
    workers: int = key(0, "processes that search for people; 0: one for each core", low=0)

    def check(self) -> None:
        """UserError where a motion module is asked for and none is named."""
        if self.smooth == "learned" and not self.motion:
            raise UserError(
                "video.smooth=learned and video.motion is not set: name a motion module, a run of "
                "finetune train motion_body"
            )


@dataclass
class LiveConfig:
    """Says how a camera is shown."""

    search_hz: float = key(
        10.0,
        "searches for people a second at most; between them their boxes go with the meshes",
        low=0.01,
    )
    tiles: bool = key(False, "search in tiles of the image too, for small people: slower")
    size_px: int = key(960, "longer side of what is shown at most; 0: as the camera", low=0)
    port: int = key(
        8011, "of the page, on this machine alone; 0: any that is free", low=0, high=65535
    )
    seconds: float = key(0.0, "end after so many; 0: at Ctrl-C, or where a file ends", low=0)


@dataclass
class PredictFilesConfig(PredictConfig):
    """Holds the keys of ``python -m finetune predict``: of images, videos and cameras."""

    formats: list[str] = key(
        ["npz", "json"],
        "files of animation that are written of a video, separated by commas; docs/animation.md "
        "lists them",
    )
    calibration: str = key(
        "",
        "file of the cameras of the images and videos (docs/cameras.md), whose lenses are then "
        "undistorted",
        path="one",
    )
    camera: str = key(
        "",
        "without images: a camera's number, a URL (rtsp, http) or a video's path, whose people are "
        "shown live; with images: the name in calibration= of the camera that took them all",
    )
    overlay_px: int = key(
        0, "longer side of an image's overlay in pixels, at most; 0: as the image", low=0
    )
    refine: bool = key(
        True,
        "move bodies and hands onto the keypoints that were found (docs/video.md); false: they "
        "stay as the network sees them",
    )
    video: VideoConfig = section(VideoConfig)
    live: LiveConfig = section(LiveConfig)

    def check(self) -> None:
        """UserError where a camera is given twice; see PredictConfig."""
        super().check()
        refuse_two_cameras(self.intrinsics, self.calibration)


def refuse_two_cameras(intrinsics: list[float], calibration: str) -> None:
    """UserError where the camera is given by two keys."""
    if intrinsics and calibration:
        raise UserError(f"intrinsics= and calibration={calibration}: the file says them already")


@dataclass
class PredictPairConfig(PredictConfig):
    """Holds the keys of ``python -m finetune predict_pair``."""

    calibration: str = key(
        "",
        "file that says how the two cameras stand (docs/cameras.md); default: nobody knows",
        path="one",
    )
    cameras: list[str] = key(
        [], "names in it of the first and the second image's camera; default: by the images' names"
    )

    def check(self) -> None:
        """UserError where cameras are named or given twice; see PredictConfig."""
        super().check()
        if self.cameras and (len(self.cameras) != 2 or not self.calibration):
            raise UserError(
                f"cameras={','.join(self.cameras)}: two names of calibration= are wanted, those of "
                "the first and of the second image's camera"
            )
        refuse_two_cameras(self.intrinsics, self.calibration)


@dataclass
class FingersConfig:
    """Holds the keys of ``python -m finetune fingers``."""

    body: str = key("body", "a run or weights that recover whole bodies", path="one")
    hand: str = key("hand", "a run or weights that recover hands of that body model", path="one")
    clips: int = key(64, "clips, at most", low=1)
    hand_px: float = key(24.0, "side of a hand's box in pixels below which it is left out", low=0)
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))


@dataclass
class ReleaseConfig:
    """Holds the keys of ``python -m finetune release``."""

    run: str = key("", "a fine-tuning run, or one of its checkpoints", path="one", positional="RUN")
    name: str = key("", "by which the weights are asked for, such as body or hand")
    out: str = key("weights", "folder of the weights, their cards and their index", path="one")
    dtype: str = key(
        "float16",
        "of the matrices; vectors and means stay in float32",
        choices=("float16", "float32"),
    )
    machine: str = key("", "words on the machine that trained, for the card; default: the runs'")
    notes: str = key("", "a Markdown file on what the network is bad at, for the card", path="one")
    referee: str = key(
        "", "results of the referee; default: RUN/referee/referee.json if it is there", path="one"
    )
    most_mb: float = key(25.0, "largest file, megabytes; what ships here has at most 25", low=0)
    overwrite: bool = key(False, "replace weights of that name")

    def check(self) -> None:
        """UserError where there is no name."""
        if not self.name:
            raise UserError("name= is not set: body and hand are what predict looks for")


@dataclass
class ExportOnnxConfig:
    """Holds the keys of ``python -m finetune export onnx``."""

    run: str = key(
        "",
        "a fine-tuning run, one of its checkpoints, the name of weights that ship, a file, a URL "
        "or a hub repository",
        path="one",
        positional="RUN",
    )
    out: str = key("", "the file to write, FILE.onnx", path="one")
    part: str = key(
        "network",
        "the whole network, from images to meshes, or the encoder alone, from images to tokens",
        choices=("network", "encoder"),
    )
    int8: bool = key(False, "the encoder's matrices in 8 bits; the difference is told")

    def check(self) -> None:
        """UserError where the file is not named as one of ONNX."""
        if not self.out.lower().endswith(".onnx"):
            raise UserError(f"out={self.out}: the file's name does not end in .onnx")


FOLDER = "folder of weights with their index; default: those that ship"


@dataclass
class WeightsConfig:
    """Holds the keys of ``python -m finetune weights list`` and ``check``."""

    folder: str = key("", FOLDER, path="one")


@dataclass
class WeightsShowConfig:
    """Holds the keys of ``python -m finetune weights show``."""

    name: str = key("", "of the weights, such as body", positional="NAME")
    folder: str = key("", FOLDER, path="one")


@dataclass
class WeightsPushConfig:
    """Holds the keys of ``python -m finetune weights push``."""

    name: str = key("", "of the weights, such as body", positional="NAME")
    repo: str = key("", "the hub's repository, OWNER/NAME; it is made where it is not there")
    private: bool = key(False, "a repository that is made now is seen by its owner alone")
    folder: str = key("", FOLDER, path="one")

    def check(self) -> None:
        """UserError where there is no repository."""
        if not self.repo:
            raise UserError("repo= is not set: name the hub's repository, repo=OWNER/NAME")


@dataclass
class ReportConfig:
    """Holds the keys of ``python -m finetune report``."""

    out: str = key("", "the HTML file to write; default: report.html in the folder", path="one")
    rows: int = key(4, "clips shown of each folder of shards", low=1, high=16)
    seed: int = key(0, "another seed shows other clips and pairs", low=0)

    def check(self) -> None:
        """UserError where the file's name is none of a page."""
        if self.out and not self.out.lower().endswith((".html", ".htm")):
            raise UserError(f"out={self.out}: the file's name does not end in .html")
