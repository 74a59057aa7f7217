"""The focal length by the people in an image: the head, what combines answers, who is believed."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import make_run
from PIL import Image
from runs import ROOT, finetune_words

from data.bodies.models import open_model
from data.sources.cameras import Camera, write_cameras
from engine.config.parser import parse
from engine.errors import UserError
from finetune import init_head
from finetune.__main__ import main
from finetune.config import FinetuneConfig
from finetune.evaluation.evaluate import main as evaluate
from finetune.heads.base import Prediction, Truth
from finetune.heads.lens import (
    BINS,
    LEAST,
    MOST,
    LensPrediction,
    list_focals,
    read_focal,
    spread_truth,
)
from finetune.inference.image_camera import CameraFinder, estimate_camera
from finetune.inference.lens import (
    ALIKE,
    PRIOR_MEDIAN,
    PRIOR_SPREAD,
    CropTold,
    LensReader,
    combine_crops,
    open_lens,
)
from finetune.inference.search import Region
from finetune.train import train
from finetune.video.asked import Asked, Who
from finetune.video.focal import FRAMES, choose_frames

CONFIG = ROOT / "configs/finetune/lens_body.yaml"
TINY = (
    "model.image_size=32",
    "model.patch=8",
    "model.encoder.width=32",
    "model.encoder.depth=1",
    "model.encoder.heads=2",
    "init_encoder=false",
    "head.width=32",
    "head.token_proj_dim=4",
    "batch=8",
    "optim.warmup=2",
    "log.wandb=off",
    "log.val_clips=2",
    "data.val_clips=4",
    "data.workers=0",
    "device=cpu",
    "precision=float32",
)
SMALL = ("steps=4", "checkpoint.every=2", "log.every=2", "log.val_every=4", "log.images_every=4")


def lens_config(run, shards, *more):
    words = (f"run={run}", f"data.shards={shards}", *TINY, *SMALL, *more)
    return parse(FinetuneConfig, [str(CONFIG), *words], "finetune train")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, people):
    """A run on bodies, of a few steps."""
    run = tmp_path_factory.mktemp("runs") / "lens"
    assert train(lens_config(run, people["body"])) == 0
    return run


def make_logits(mean, spread):
    """(BINS,) of a normal distribution of the log of the focal length over the side."""
    focals = list_focals().double().numpy()
    return -0.5 * ((focals - mean) / spread) ** 2


def test_bins_are_even_in_the_log_and_truths_are_read_back():
    focals = list_focals()
    assert focals.exp()[[0, -1]].tolist() == pytest.approx([LEAST, MOST], rel=1e-5)
    told = torch.log(torch.tensor([1.3, 2.71, 9.9, 0.01, 1e4]))
    share = spread_truth(told)
    assert share.shape == (5, BINS) and share.sum(1).tolist() == pytest.approx([1] * 5)
    mean, spread = read_focal(share.log())
    assert mean[:3].tolist() == pytest.approx(told[:3].tolist(), abs=1e-3)
    step = float(focals[1] - focals[0])
    assert spread[:3].tolist() == pytest.approx([step] * 3, rel=0.02)
    # Beyond the bins it is the last one's.
    assert share.argmax(1)[3:].tolist() == [0, BINS - 1]


def test_the_head_reads_nothing_of_the_camera(trained):
    reader = LensReader(trained, "cpu")
    model, body, size = reader.predictor.model, reader.predictor.body, 32
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    K = torch.tensor([[[50.0, 0, 16], [0, 50, 16], [0, 0, 1]]])

    def ask(K, prompts=None):
        with torch.no_grad():
            return model(images, K, body, prompts).logits

    longer = K.clone()
    longer[:, :2, :2] *= 7
    longer[:, 0, 2] += 20
    assert torch.equal(ask(K), ask(longer))
    assert not torch.allclose(ask(K), ask(K, torch.rand(1, 17, 3)))
    truth = Truth(Prediction(*[torch.zeros(1, 0, 3)] * 3), longer, size)
    assert model.head.tell(truth).item() == pytest.approx(math.log(350 / 32))
    (term,) = model.head.list_own_terms()
    share = spread_truth(torch.tensor([math.log(350 / 32)]))
    exact = LensPrediction(logits=share.clamp_min(1e-30).log())
    worse = LensPrediction(logits=exact.logits.roll(3, 1))
    entropy = -(share * exact.logits).sum()
    assert term.compute(exact, truth).item() == pytest.approx(float(entropy), rel=1e-4)
    assert term.compute(worse, truth) > term.compute(exact, truth)
    off = next(one for one in model.head.list_own_measures() if one.name == "focal_off")
    step = float(list_focals()[1] - list_focals()[0])
    assert off.compute(worse, truth).item() == pytest.approx(100 * math.expm1(3 * step), rel=1e-2)


def test_what_people_tell_is_weighed_by_how_sure_each_is():
    diagonal, side = 1000.0, 200.0

    def expect(*told, tempered=1.0):
        """Mean and spread of a product of normal distributions with the prior."""
        weights = [PRIOR_SPREAD**-2, *(tempered * spread**-2 for _, spread in told)]
        means = [math.log(PRIOR_MEDIAN), *(mean for mean, _ in told)]
        mean = sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)
        return diagonal * math.exp(mean), math.exp(sum(weights) ** -0.5)

    def make(person, ratio, spread):
        """Of one who says that the focal length is ``ratio`` diagonals."""
        mean = math.log(ratio * diagonal / side)
        return CropTold(person, side, make_logits(mean, spread)), (math.log(ratio), spread)

    nobody = combine_crops([], diagonal)
    assert nobody.focal_px == pytest.approx(PRIOR_MEDIAN * diagonal, rel=1e-3)
    assert nobody.factor == pytest.approx(math.exp(PRIOR_SPREAD), rel=1e-2)
    assert (nobody.people, nobody.crops) == (0, 0)

    one, told = make("a", 1.4, 0.3)
    found = combine_crops([one], diagonal)
    assert (found.focal_px, found.factor) == pytest.approx(expect(told), rel=1e-2)
    # Twice the image: twice the focal length.
    twice = combine_crops([replace(one, side_px=2 * side)], 2 * diagonal)
    assert twice.focal_px == pytest.approx(2 * found.focal_px, rel=1e-6)
    # More crops of one person are no more witnesses, and their mean is what the person says.
    same = combine_crops([one] * 5, diagonal)
    assert (same.focal_px, same.factor) == pytest.approx((found.focal_px, found.factor))
    assert (same.people, same.crops) == (1, 5)
    assert "5 crops" in same.describe() and "1 person" in found.describe()

    other, told_other = make("b", 0.7, 0.1)
    both = combine_crops([one, other], diagonal)
    tempered = 1 / (1 + ALIKE)  # of two people, n / (1 + (n - 1) r) times their mean
    wanted = expect(told, told_other, tempered=tempered)
    assert (both.focal_px, both.factor) == pytest.approx(wanted, rel=1e-2)
    assert abs(both.focal_px / diagonal - 0.7) < abs(both.focal_px / diagonal - 1.4) / 3
    assert both.make_intrinsics(800, 600)[:2, 2].tolist() == [400, 300]


def write_photo(path, seed=0, exif=None):
    pixels = np.random.default_rng(seed).integers(0, 255, (120, 160, 3), np.uint8)
    tags = Image.Exif()
    if exif:
        tags.get_ifd(0x8769).update(exif)
    Image.fromarray(pixels).save(path, exif=tags)
    return str(path)


FILM = {0xA405: 28, 0xA002: 160, 0xA003: 120}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("mesh") / "body", "body", "margin=1.35")


def test_who_is_believed_before_people_and_after(trained, mesh, tmp_path, capsys):
    plain, tagged = (
        write_photo(tmp_path / "plain.jpg"),
        write_photo(tmp_path / "tagged.jpg", 1, FILM),
    )
    other = write_photo(tmp_path / "other.jpg", 2, {**FILM, 0xA002: 4000})
    K = np.array([[150.0, 0, 80], [0, 150, 60], [0, 0, 1]])
    calibration = str(tmp_path / "one.json")
    write_cameras(calibration, {"one": Camera("one", K, np.zeros(8), np.eye(3, 4), 160, 120)})
    reader = LensReader(trained, "cpu")
    image = np.asarray(Image.open(plain))
    places = [np.array([x, 10.0, x + 60, 110]) for x in (8, 90)]
    regions = [Region(place) for place in places]

    def ask(path, finder, lens=reader):
        camera = finder.find_camera(path, 160, 120, photograph=True)
        return estimate_camera(camera, lens, np.asarray(Image.open(path)), regions)

    assert ask(plain, CameraFinder([140, 140, 80, 60])).source == "intrinsics="
    assert ask(plain, CameraFinder(calibration=calibration)).source.startswith("calibration=")
    assert ask(tagged, CameraFinder()).source == "EXIF: 28 mm on 35 mm film"
    assert ask(plain, CameraFinder(), None).source == "assumed: the image's diagonal"
    # Why EXIF is not believed is still said.
    told = ask(other, CameraFinder())
    assert "within x/: " in told.source and "of an image of 4000 x 120" in told.source
    wanted = reader(image, places)
    crops = reader.read_crops(image, {"a": regions[0], "b": regions[1]})
    assert wanted == combine_crops(crops, 200.0)
    # Who is too small, or not in the image, says nothing.
    nobody = reader(image, [np.array([0, 0, 9.0, 20]), np.array([500, 0, 600.0, 90])])
    assert nobody.people == 0

    boxes, out = tmp_path / "boxes.csv", tmp_path / "out"
    rows = [f"plain.jpg,{x},10,{x + 60},110" for x in (8, 90)]
    boxes.write_text("\n".join(["image,x0,y0,x1,y1", *rows]) + "\n")
    words = ["predict", plain, f"run={mesh}", f"out={out}", f"boxes={boxes}", "device=cpu"]
    assert main([*words, f"lens={trained}"]) == 0
    told = json.loads((out / "plain.json").read_text())
    assert told["focal_length_from"] == wanted.describe()
    assert wanted.describe().startswith("estimated from 2 people, within x/: ")
    found = np.array(told["people"][0]["intrinsics"])
    assert np.allclose(found, wanted.make_intrinsics(160, 120), rtol=1e-5)
    assert f"focal length {wanted.focal_px:.0f} px (estimated" in capsys.readouterr().out
    assert Image.open(out / "plain.scene.png").width == 1232
    with pytest.raises(UserError, match=r"lens=.*its head, model_based, tells no focal length"):
        main([*words, f"lens={mesh}"])
    with pytest.raises(UserError, match="lens=nowhere: there is no such folder"):
        main([*words, "lens=nowhere"])
    assert open_lens("none", "cpu") is None
    with pytest.raises(UserError, match="lens=mine is for images and videos"):
        main(["predict", "camera=0", f"run={mesh}", "lens=mine"])


def test_frames_of_a_video_are_spread_over_all_that_show_anybody():
    body, hand = Who("a"), Who("a", "left_hand")
    region = Region(np.array([0.0, 0, 50, 50]))
    plan = {n: [Asked(body, region, 1.0), Asked(hand, region, 1.0)] for n in range(100, 300)}
    plan |= {n: [Asked(hand, region, 1.0)] for n in range(300, 400)}
    chosen = choose_frames(plan)
    numbers = list(chosen)
    assert len(numbers) <= FRAMES and numbers[0] < 110 and 290 < numbers[-1] < 300
    assert len(set(np.diff(numbers))) == 1
    assert all([one.who for one in mine] == [body] for mine in chosen.values())
    assert choose_frames({5: [Asked(hand, region, 1.0)]}) == {}


def test_a_run_is_judged_resumes_and_answers(trained, people, tmp_path, capsys):
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert any("val/focal_off" in line for line in lines)
    assert any("loss/lens" in line for line in lines)
    assert list((trained / "images").glob("*.png"))
    # Stopped in the middle, it ends with the same bytes.
    again = tmp_path / "again"
    shutil.copytree(trained, again)
    last = again / "checkpoints" / "step-00000004"
    first = (last / "model.safetensors").read_bytes()
    for path in sorted(last.iterdir()):
        path.unlink()
    last.rmdir()
    assert train(lens_config(again, people["body"])) == 0
    assert (last / "model.safetensors").read_bytes() == first

    assert evaluate([str(trained), "clips=2", "device=cpu"]) == 0
    told = json.loads((trained / "evaluation" / "answers.json").read_text())
    assert told["head"] == "lens" and told["rows"][0]["values"]["focal_off"]["mean"] > 0
    photo, out = write_photo(tmp_path / "photo.png"), tmp_path / "out"
    capsys.readouterr()
    words = ["predict", photo, f"run={trained}", "whole_image=true", f"out={out}", "device=cpu"]
    assert main(words) == 0
    assert "1 x body" in capsys.readouterr().out
    (found,) = json.loads((out / "photo.lens.json").read_text())
    assert found["focal_px"] > 0 and found["factor"] > 1
    assert Image.open(out / "photo.lens.png").size == (160, 120)


def test_a_new_head_begins_on_the_encoder_of_a_trained_network(mesh, tmp_path, people):
    def choose(*more):
        words = finetune_words(tmp_path / "run", "body", people["body"], f"init={mesh}", *more)
        return parse(FinetuneConfig, [str(ROOT / words[0]), *words[1:]], "finetune train")

    config = choose("init_encoder=true")
    body = open_model(config.body_model)
    model = config.make_network(body)
    head = {name: value.clone() for name, value in model.head.state_dict().items()}
    init_head.take_encoder(model.encoder, config.model, config.init)
    before = init_head.Predictor(mesh, "cpu").model
    for name, value in before.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value)
    assert all(torch.equal(model.head.state_dict()[name], value) for name, value in head.items())
    with pytest.raises(UserError, match="init_encoder=true: init=.* has model.encoder.width=32"):
        other = choose("init_encoder=true", "model.encoder.width=64")
        init_head.take_encoder(other.make_network(body).encoder, other.model, other.init)
    with pytest.raises(UserError, match="init_head=true takes the head too"):
        choose("init_encoder=true", "init_head=true")


def test_a_head_that_reads_nothing_is_refused(tmp_path, people):
    with pytest.raises(UserError, match="head.token_proj_dim=0 and head.prompts=false"):
        lens_config(
            tmp_path / "run",
            people["body"],
            "head.token_proj_dim=0",
            "head.prompts=false",
            "data.augment.prompt_share=0",
        )
