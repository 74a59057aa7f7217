"""Scenes by given numbers, judged through whoever finds everybody, and the search of them."""

import dataclasses
import json

import numpy as np
import pytest
import simplejpeg
from networks import make_run

from data.bodies.models import open_model
from data.format.frame import encode_frame
from data.format.verify import check_shard
from data.people.config import Domain, PeopleConfig
from data.people.scene_config import SceneKeys
from data.people.scene_maker import SceneMaker
from data.people.steered import SteeredGenerator
from data.people.steered_scene import (
    SCENE_STAGES,
    SteeredSceneMaker,
    list_scene_parameters,
)
from engine.errors import UserError
from finetune.examine import command
from finetune.examine.points import RANDOM, Point, Sample
from finetune.examine.scene_judge import EASY, LOST_MM, SceneExaminer
from finetune.person import Person
from finetune.scene.found import FoundPerson

CONFIG = PeopleConfig(
    out="none",
    kind="scene",
    seed=5,
    size=96,
    instants=1,
    domain=Domain(occluded_share=0.5, boxes=1, degraded_share=0.5),
    scene=SceneKeys(people=[1, 3], lens_mm=[24, 60]),
)


@pytest.fixture(scope="module")
def maker():
    return SteeredSceneMaker(CONFIG)


def place(maker, **given):
    latents = np.zeros(len(maker.names))
    for name, value in given.items():
        latents[maker.names.index(name)] = value
    return latents


def test_scenes_are_drawn_as_ever_where_nothing_is_given(maker, monkeypatch):
    asked = []
    plain = SceneMaker.__new__(SceneMaker)
    plain.__dict__.update(maker.__dict__)  # what takes seconds to build
    before = encode_frame(plain.frames(4)[0])

    def remember(self, rng, stage, which=0):
        asked.append(stage)
        return SteeredGenerator(rng, [[float("nan")]] * 4)  # of the same bits

    monkeypatch.setattr(SteeredSceneMaker, "steer", remember)
    monkeypatch.setattr(SteeredSceneMaker, "random", SceneMaker.random)
    assert encode_frame(maker.frames(4)[0]) == before
    assert {"place", *SCENE_STAGES} - {"background", "faults"} <= set(asked)


def test_parameters_of_scenes_do_what_they_are_called(maker, monkeypatch):
    """Of the stage alone: what is drawn of it takes seconds."""
    casts = []

    class Enough(Exception):
        pass

    def stop(rng, index, scene, stage):
        casts.append(stage)
        raise Enough

    def cast(**given):
        with monkeypatch.context() as patch:
            patch.setattr(maker, "_build", stop)
            with pytest.raises(Enough):
                maker.make_frame(7, place(maker, **given))
        return casts.pop()

    few, many = cast(people=-2), cast(people=2)
    assert (len(few.people), len(many.people)) == (1, 3)
    wide, long = cast(lens=-2).view, cast(lens=2).view
    share = 0.9544997  # between -2 and 2 of a normal distribution, of the lens's logarithm
    sides = [max(view.width, view.height) for view in (wide, long)]
    assert sides == [96, 96] and long.focal / wide.focal == pytest.approx((60 / 24) ** share)
    low, high = (cast(camera_height=z, camera_low_high=0).view.eye[2] for z in (-1, 1))
    assert high - low == pytest.approx(2 * CONFIG.domain.height_spread_m)
    assert cast(shape=-2).view.width < cast(shape=2).view.width

    def across(stage, which):
        at = {one.which: one.person.points.mean((0, 1)) for one in stage.people}[which]
        return (at[:2] - stage.view.eye[:2]) @ stage.view.right

    left, right = (cast(people=2, beside_1=2, across_1=z) for z in (-1.5, 1.5))
    assert across(right, 1) - across(left, 1) > 0.5

    def apart(stage):
        first, second = (one.person.points.mean((0, 1))[:2] for one in stage.people[:2])
        return np.linalg.norm(first - second)

    # Beside somebody, or where the frame has room.
    assert apart(cast(people=2, beside_1=-2)) < 2.2


def test_parameters_are_those_that_change_something(maker):
    assert {"people", "lens", "occluded_whom", "beside_2", "few_pixels"} <= set(maker.names)
    assert "beside_3" not in maker.names and "painted" not in maker.names
    alone = dataclasses.replace(
        CONFIG, domain=Domain(), scene=SceneKeys(people=[2, 2], aspects=["1:1"])
    )
    names = list_scene_parameters(alone)
    assert not {"people", "shape", "occluded", "few_pixels", "beside_2"} & set(names)
    assert {"beside_1", "depth_1", "across_1"} <= set(names)


class TrueFinder:
    """Finds everybody as they are, but for what a test takes away."""

    def __init__(self, body):
        self.body, self.true, self.leave, self.twice = body, None, 0, False

    def __call__(self, image, K):
        assert K is self.true.K and image is self.true.image
        found = []
        for person in self.true.people:
            if person.vertices is None:
                continue
            body = Person(
                "body",
                person.box,
                person.vertices,
                self.body.faces.numpy(),
                np.repeat(person.keypoints[:1], len(self.body.joint_names), 0),
                person.keypoints,
                np.zeros((len(person.keypoints), 2)),
                None,
                None,
                person.keypoints[0],
                K,
            )
            found.append(FoundPerson(body, 0.9))
        found = found[self.leave :]
        return found + found[:1] if self.twice else found


class Judged(SceneExaminer):
    """Tells the finder what is true."""

    def _tell(self, frame):
        self.find.true = super()._tell(frame)
        return self.find.true


@pytest.fixture(scope="module")
def examiner(maker):
    body = open_model("anny")
    return Judged(TrueFinder(body), body, maker, "people", 0.15)


def test_a_scene_costs_what_is_missed_and_what_is_nobody(maker, examiner, tmp_path):
    rng = np.random.default_rng(1)
    latents = rng.normal(0, 0.3, len(maker.names))
    latents[maker.names.index("people")] = 2
    latents[maker.names.index("occluded")] = 3  # nothing in the way
    point = Point(RANDOM, 0, 3, tuple(latents.tolist()))
    (right,) = examiner.look([point])
    count = right.sample.errors["wanted"]
    assert right.sample.error == pytest.approx(0, abs=1e-3) and count >= 2
    assert 0.15 <= right.sample.visible <= 1
    # The labels of the frame, posed, are where its outlines are.
    frame = maker.make_frame(3, latents)
    assert simplejpeg.decode_jpeg(frame.jpeg).shape == right.true.image.shape
    examiner.find.leave = 1
    lost = examiner.ask([point])[0].errors
    examiner.find.leave, examiner.find.twice = 0, True
    twice = examiner.ask([point])[0].errors
    examiner.find.twice = False
    assert lost["people"] == pytest.approx(LOST_MM / (count + EASY), abs=1e-3)
    assert lost["missed"] == pytest.approx(100 / (count + EASY)) and lost["lost"] == 1
    assert twice["people"] == pytest.approx(LOST_MM / (count + 1 + EASY), abs=1e-3)
    assert (twice["false"], twice["lost"]) == (1, 0)


class Planted(Judged):
    """A whole search without drawing: who is many and seen from above is lost."""

    drawn = None

    def ask(self, points):
        out = []
        names = self.maker.names
        for point in points:
            z = point.array
            over = [np.clip(z[names.index(n)] - 0.5, 0, 1.5) / 1.5 for n in ("people", "tall")]
            error = 50 + 3 * np.sin(9 * z[0]) + 15 * sum(over) + 180 * np.prod(over)
            out.append(Sample(point, float(error), 0.5, {"people": float(error)}))
        return out

    def look(self, points):
        if self.drawn is None:
            type(self).drawn = super().look(points[:1])[0]
        samples = self.ask(points)
        counts = {"wanted": 2.0, "lost": 1.0, "false": 0.0}
        return [
            dataclasses.replace(
                self.drawn, sample=dataclasses.replace(s, errors={**s.errors, **counts})
            )
            for s in samples
        ]


def test_a_planted_failure_becomes_a_region_a_sheet_and_frames(
    maker, examiner, tmp_path, monkeypatch
):
    run = make_run(tmp_path / "run")
    planted = Planted(examiner.find, examiner.body, maker, "people", 0.15)
    monkeypatch.setattr(command, "open_scenes", lambda config: planted)
    out = tmp_path / "out"
    words = [str(run), f"out={out}", "scenes=true", "random=60", "niches=1", "budget=96"]
    assert command.main([*words, "fresh=2", "variations=1"]) == 0
    tree = json.loads((out / "examine.json").read_text())
    assert (tree["error"], tree["unit"]) == ("people", "mm")
    told = tree["regions"][0]
    assert {"people", "tall"} <= {one["name"] for one in told["differs"]}
    assert told["posture"] == [] and told["fresh"]["mean"] > tree["random"]["p95"]
    assert told["random_inside"] == 0
    report = check_shard(str(next((out / "test").glob("*.tar"))))
    assert report.problems == [] and report.clips == 2
    assert (out / "sheet.png").stat().st_size > 10_000
    assert "scenes: true" in (out / "examine.yaml").read_text()
    before = (out / "examine.json").read_bytes()
    assert command.main([*words, "fresh=2", "variations=1"]) == 0  # all from samples.jsonl
    assert (out / "examine.json").read_bytes() == before


def test_keys_of_crops_and_scenes_are_told_apart(tmp_path):
    run = make_run(tmp_path / "run")

    def fail(*words):
        with pytest.raises(UserError) as caught:
            command.main([str(run), f"out={tmp_path / 'out'}", *words])
        return str(caught.value)

    assert fail("error=missed") == (
        "error=missed is none of crops, which have pa_mpjpe, mpjpe, pve, pck"
    )
    assert "error=pve is none of scenes" in fail("scenes=true", "error=pve")
    assert "given=true is of crops" in fail("scenes=true", "given=true")
    config = command.ExamineConfig(run=str(run), out="none", people="people_body", size=96)
    with pytest.raises(UserError, match="shows kind=body, and .* is searched for scenes"):
        command.read_people(config, "scene")
