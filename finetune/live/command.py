"""``predict camera=``: the people before a camera, on a page with the frame rate."""

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.find.finder import open_finder
from data.find.tracking import longer_side, middle_of
from engine.errors import EnvironmentFault, UserError
from engine.run.files import make_folder
from finetune.animation.formats import FORMATS
from finetune.inference.fingers import JoiningRules, Wrists, join_hands
from finetune.inference.image_camera import CameraFinder, ImageCamera
from finetune.inference.lens import NONE
from finetune.inference.predictor import MOST_OUTSIDE, Predictor
from finetune.live.capture import Capture, Frame, require_going
from finetune.live.drawing import Answer, Drawer
from finetune.live.follow import Followed, Follower
from finetune.live.newest import Newest
from finetune.live.page import Page
from finetune.live.record import Record, Shown
from finetune.live.searching import Searched, Searcher
from finetune.person import Person
from finetune.verb_config import PredictFilesConfig
from finetune.video.recover import is_inside

FRESH_S = 0.15  # a frame that was searched is taken before one that is newer by less
SEARCHES = 2.0  # a frame that is shown, at most: others would be for nothing
SILENT_S = 12.0  # without an image, and the camera is lost
NEAR = 0.1  # of a body's longer side, around its box
STEM = "camera"  # of the files of a camera or stream
WITH_VIDEO = ("html",)  # formats that show the video, which is not kept


def check_live(config: PredictFilesConfig, is_recorded: bool) -> None:
    """Say what a camera cannot be asked for before it is opened.

    Raises:
        UserError: keys of images and videos, or formats that need the video.
    """
    for name, value in (("boxes", config.boxes), ("whole_image", config.whole_image)):
        if value:
            raise UserError(f"{name}= is for images and videos: before a camera people are found")
    if config.colour != "person":
        raise UserError(f"colour={config.colour} is for images and videos")
    if config.lens not in ("", NONE):
        raise UserError(
            f"lens={config.lens} is for images and videos: a camera's focal length is given by "
            "intrinsics= or calibration=, or assumed"
        )
    for name in config.formats if is_recorded else ():
        FORMATS.find(name)
        if name in WITH_VIDEO:
            raise UserError(f"formats={name} shows the video, which is not kept of a camera")


def run_live(
    config: PredictFilesConfig,
    predictors: Mapping[str, Predictor],
    capture: Capture,
    finder: CameraFinder,
    out: str,
) -> int:
    """Recover who is before a camera until Ctrl-C, or the end of a file; returns the exit code.

    Args:
        predictors: {"body", "hand": the network}, one of them or both, with meshes.
        capture: of the camera; it is ended.  finder: of its lens and focal length.
        out: folder of the files of animation; "": nothing is kept.

    Raises:
        UserError: the port is taken, what finds people is not installed.
        EnvironmentFault: the camera is lost; what was recorded until then is written.
    """
    if out:
        make_folder(Path(out), f"out={out}")
    people_finder = open_finder(False, "hand" in predictors, config.live.tiles)
    camera = finder.find_camera(config.camera, *capture.size, photograph=False)
    print(f"camera={config.camera}: {capture.size[0]} x {capture.size[1]}; {camera.describe()}")
    searcher = Searcher(
        capture.newest,
        people_finder,
        list(predictors),
        config.least_score,
        config.live.search_hz,
        config.side,
    )
    live = _Live(config, predictors, camera, capture, searcher, is_recorded=bool(out))
    live.run()
    if out:
        live.write(Path(out))
    live.report()
    live.require_sound()
    return 0


class _Live:
    """The threads of one session, and the loop that joins them."""

    def __init__(
        self,
        config: PredictFilesConfig,
        predictors: Mapping[str, Predictor],
        camera: ImageCamera,
        capture: Capture,
        searcher: Searcher,
        is_recorded: bool,
    ) -> None:
        self.config, self.predictors, self.camera = config, predictors, camera
        self.capture, self.searcher = capture, searcher
        self.follower = Follower()
        self.answers: Newest[Answer] = Newest()
        self.drawer = Drawer(self.answers, config.live.size_px)
        self.bodies = {kind: one.body for kind, one in predictors.items()}
        self.record = Record(self.bodies) if is_recorded else None
        self.people, self.state, self.lost = 0, "starting", ""
        title = f"camera {config.camera}" if capture.is_camera else Path(config.camera).name
        self.page = Page(config.live.port, title, self.drawer.jpegs, self.list_facts)
        self.start_s = self.end_s = time.monotonic()

    def list_facts(self) -> dict:
        """The numbers on the page."""
        rate, late_s = self.drawer.meter.read()
        numbers = {"fps": rate, "latency_ms": 1000 * late_s, "people": self.people}
        return numbers | {"state": self.state}

    def run(self) -> None:
        """Go until the source ends, the time is up or somebody interrupts; all threads end."""
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            self.capture.start(self.camera.correct_image)
            self.searcher.start()
            self.drawer.start()
            self.page.start()
            print(f"page: {self.page.address} (Ctrl-C ends)", flush=True)
            self.start_s, self.state = time.monotonic(), "live"
            self._loop()
        except KeyboardInterrupt:
            print("\nstopped", flush=True)
        finally:
            self.end_s, self.state = time.monotonic(), "stopped"
            signal.signal(signal.SIGTERM, before)
            self.answers.close()
            self.capture.stop()
            self.searcher.stop()
            self.drawer.stop()
            self.page.stop()

    def _loop(self) -> None:
        taken, searched, shown = 0, 0, -1
        limit_s = self.config.live.seconds or float("inf")
        while time.monotonic() - self.start_s < limit_s:
            newer = self.capture.newest.take(taken, SILENT_S)
            if self.searcher.fault is not None or self.drawer.fault is not None:
                return
            if newer is None:
                if not self.capture.newest.is_closed:
                    self.lost = f"camera={self.config.camera} has given no image for {SILENT_S:g} s"
                return
            taken, frame = newer
            start_s = time.monotonic()
            found = self.searcher.answers.take(searched, 0.0)
            if found is not None:
                searched, answer = found
                frame = self._correct(answer, frame, shown)
            self._show(frame)
            shown = frame.number
            spent_s = time.monotonic() - start_s
            self.searcher.gap_s = max(1 / self.config.live.search_hz, spent_s / SEARCHES)

    def _correct(self, searched: Searched, newest: Frame, shown: int) -> Frame:
        """Take what a search found; returns the frame to show.

        Args:
            shown: number of the last frame that was shown.
        """
        frame = searched.frame
        self.follower.correct(frame.number, frame.time_s, searched.found)
        is_fresh = frame.number > shown and newest.time_s - frame.time_s < FRESH_S
        return frame if is_fresh else newest

    def _show(self, frame: Frame) -> None:
        shown = self._join(*self._recover(frame))
        self.people = len(shown)
        numbers = [one.number for one, _ in shown]
        self.answers.put(Answer(frame, [person for _, person in shown], numbers))
        if self.record is not None:
            self.record.add(frame.time_s, shown)

    def _recover(self, frame: Frame) -> tuple[Shown, list[Wrists]]:
        """Who is in a frame, and where the search saw their wrists; boxes go on with the meshes."""
        height, width = frame.image.shape[:2]
        out: list[tuple[Followed, Person]] = []
        wrists: list[Wrists] = []
        for kind, predictor in self.predictors.items():
            known = self.follower.list_people(kind, frame.time_s)
            self.follower.drop([one for one in known if not _is_usable(one, width, height)])
            asked = [one for one in known if _is_usable(one, width, height)]
            regions = [one.region for one in asked]
            people = predictor(
                frame.image,
                [region.box for region in regions],
                self.camera.K,
                [region.side for region in regions],
                [region.keypoints for region in regions],
            )
            wrists += [region.find_wrists(kind) for region in regions]
            self.follower.move(frame.number, asked, people)
            out += zip(asked, people, strict=True)
        return out, wrists

    def _join(self, shown: Shown, wrists: list[Wrists]) -> Shown:
        """Hands put on the bodies that they belong to; others that lie on somebody are left out."""
        if not self.config.join_hands or set(self.predictors) != {"body", "hand"}:
            return shown
        marked = [person for _, person in shown]
        for place, person in enumerate(marked):
            person.track = place
        rules = JoiningRules(least_px=self.config.hand_px)
        joined = join_hands(marked, self.bodies["body"], self.bodies["hand"], rules, wrists)
        bodies = [one.box for one in marked if one.kind == "body"]
        kept = [one for one in joined if one.kind == "body" or not lies_on(one.box, bodies)]
        return [(shown[one.track or 0][0], one) for one in kept]

    def write(self, out: Path) -> None:
        """Write what was recorded."""
        is_file = not (self.capture.is_camera or self.capture.is_stream)
        stem = out / (Path(self.config.camera).stem if is_file else STEM)
        written: list[Path] = []
        if self.record is not None:
            written = self.record.write(
                self.config.camera,
                self.capture.size,
                self.camera.K,
                self.camera.source,
                stem,
                self.config.formats,
                self.config.video,
            )
        told = ", ".join(str(path) for path in written)
        print(f"wrote {told}" if told else "nobody was there in two frames: nothing is written")

    def report(self) -> None:
        """Say how fast it went."""
        seconds, meter = max(self.end_s - self.start_s, 1e-6), self.drawer.meter
        searches = self.searcher.count
        mean_ms = 1000 * self.searcher.busy_s / max(searches, 1)
        print(
            f"{meter.count} frames in {seconds:.1f} s: {meter.count / seconds:.1f} a second, "
            f"{1000 * meter.median_latency_s():.0f} ms behind the camera; {searches} searches of "
            f"{mean_ms:.0f} ms"
        )

    def require_sound(self) -> None:
        """Raise what ended the session early.

        Raises:
            EnvironmentFault: the camera is lost.  Whatever a thread raised.
        """
        for fault in (self.searcher.fault, self.drawer.fault):
            if fault is not None:
                raise fault
        if self.lost:
            raise EnvironmentFault(self.lost)
        require_going(self.capture)


def lies_on(hand: np.ndarray, bodies: Sequence[np.ndarray]) -> bool:
    """Whether the middle of a hand's box is in or near the box of a body."""
    x, y = middle_of(hand)
    for box in bodies:
        reach = NEAR * longer_side(box)
        x0, y0, x1, y1 = box + np.array([-reach, -reach, reach, reach])
        if x0 <= x <= x1 and y0 <= y <= y1:
            return True
    return False


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _is_usable(one: Followed, width: int, height: int) -> bool:
    box = one.region.box
    is_small = float(max(box[2:] - box[:2])) <= MOST_OUTSIDE * max(width, height)
    return bool(np.isfinite(box).all()) and is_small and is_inside(box, width, height)
