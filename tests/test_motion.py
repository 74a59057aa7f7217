"""The motion module: what it may see, what it leaves alone, windows, gaps, resumed training."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moving import FPS, make_take, make_track

from data.bodies.models import open_model
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune.__main__ import main
from finetune.animation.track import ROWS
from finetune.inference.predictor import Predictor
from finetune.temporal.batches import MotionLoader, mirror_rows
from finetune.temporal.keys import MotionDataConfig, MotionNetworkConfig, SpoilConfig
from finetune.temporal.limbs import find_limbs, take_6d
from finetune.temporal.mend import foretell_track, mend_take, mend_track
from finetune.temporal.module_file import MotionModule, locate_module
from finetune.temporal.motions import join_pieces, make_pieces
from finetune.temporal.network import MotionNetwork, Stretches
from finetune.temporal.one_euro import Cutoff

CUTOFF = Cutoff(1.0, 4.0)
TINY = ["data.made=3", "data.seconds=2", "data.val_motions=1", "batch=4", "device=cpu"]
TINY += ["model.width=16", "model.depth=1", "model.heads=2", "model.frames=16", "optim.warmup=2"]
TINY += ["log.every=2", "log.val_every=4", "checkpoint.every=4", "optim.ema=0.5"]


@pytest.fixture(scope="module")
def body():
    return open_model("anny").coarse(64)


@pytest.fixture(scope="module")
def module(body):
    """An untrained module whose every weight says something."""
    limbs = find_limbs(body)
    config = MotionNetworkConfig(width=16, depth=1, heads=2, frames=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MotionNetwork(config, body, limbs).eval()
        for value in network.parameters():
            torch.nn.init.normal_(value, std=0.1)
    return MotionModule(network, limbs, "random")


def draw_stretches(joints, count=12, seed=0):
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    turns = axis_angle_to_matrix(0.5 * draw(2, 1, joints, 3) + 0.1 * draw(2, count, joints, 3))
    place = torch.tensor([0.2, 0.1, 4.0]) + 0.05 * draw(2, count, 3)
    seen = torch.ones(2, count, dtype=torch.bool)
    seen[0, [3, 4, 9]] = False
    times = torch.arange(count).expand(2, count) / FPS
    return Stretches(turns, place, times, seen, torch.ones_like(seen), torch.rand(2, count))


def test_a_module_has_to_be_named():
    with pytest.raises(UserError, match="video.smooth=learned and video.motion is not set"):
        main(["predict", "clip.mp4", "video.smooth=learned"])


@torch.no_grad()
def test_what_was_not_seen_is_not_looked_at(module):
    given = draw_stretches(len(module.limbs.names))
    other = draw_stretches(len(module.limbs.names), seed=1)
    hidden = ~given.seen
    changed = replace(
        given,
        turns=torch.where(hidden[..., None, None, None], other.turns, given.turns),
        place=torch.where(hidden[..., None], float("nan"), given.place),
        confidence=torch.where(hidden, 0.0, given.confidence),
    )
    one, two = module.network(given), module.network(changed)
    assert torch.equal(one.turns, two.turns) and torch.equal(one.place, two.place)
    assert torch.equal(one.log_error, two.log_error)
    assert (one.turns - given.turns).abs().max() > 0.01  # it does something


@torch.no_grad()
def test_a_camera_that_turns_turns_the_answer_alone(module):
    given = draw_stretches(len(module.limbs.names))
    turn = axis_angle_to_matrix(torch.tensor([0.7, -1.9, 0.4]))
    root = turn @ given.turns[:, :, :1]
    turned = replace(
        given,
        turns=torch.cat([root, given.turns[:, :, 1:]], 2),
        place=given.place @ turn.T,
        times=given.times + 0.5,
    )
    one, two = module.network(given), module.network(turned)
    assert torch.allclose(turn @ one.turns[:, :, 0], two.turns[:, :, 0], atol=1e-4)
    assert torch.allclose(one.turns[:, :, 1:], two.turns[:, :, 1:], atol=1e-4)
    assert torch.allclose(one.place @ turn.T, two.place, atol=1e-4)


def test_who_rests_stays_as_they_are_in_gaps_too(module, body):
    frames = (0, 1, 2, 3, 6, 7, 8, *range(11, 40))
    track = make_track(body, frames=frames)
    track.pose[:], track.translation[:] = track.pose[:1], track.translation[:1]
    track.confidence[:] = 0.7
    mended = mend_track(track, np.arange(50) / FPS, module, CUTOFF, 0.5)
    assert mended.frames.tolist() == list(range(40))
    assert np.abs(mended.pose - track.pose[:1]).max() < 1e-5
    assert np.abs(mended.translation - track.translation[:1]).max() < 1e-5


def test_gaps_are_filled_up_to_the_key_and_marked(module, body):
    frames = (0, 1, 2, 6, 7, 20, 21, 22)  # gaps of 0.16 and 0.52 s
    track, times = make_track(body, frames=frames), np.arange(30) / FPS
    mended = mend_track(track, times, module, CUTOFF, 0.5)
    assert mended.frames.tolist() == [*range(8), 20, 21, 22]
    assert mended.frames[mended.filled].tolist() == [3, 4, 5]
    assert (mended.confidence[mended.filled] == 0).all() and (mended.error_rad > 0).all()
    assert mended.smoothing == "learned, random"
    low, high = track.box[2], track.box[3]
    assert np.allclose(mended.box[4], (low + high) / 2)
    none = mend_track(track, times, module, CUTOFF, 0.0)
    assert none.frames.tolist() == list(frames) and not none.filled.any()
    wider = mend_track(track, times, module, CUTOFF, 0.6)
    assert len(wider) == 23 and wider.filled.sum() == 15


def test_windows_say_what_one_window_says_where_they_overlap(module, body):
    """Of a motion whose neighbourhood alone counts; the blend has no seam."""
    network = MotionNetwork(module.network.config, body, module.limbs).eval()  # a plain filter
    plain = replace(module, network=network)
    track = make_track(body, frames=range(60))
    times = np.arange(60) / FPS
    whole = mend_track(track, times, plain, CUTOFF, 0.5)
    rows = np.arange(20, 36)
    part = make_track(body, frames=range(60))
    names = [name for name in ROWS if getattr(part, name) is not None]
    part = replace(part, **{name: getattr(part, name)[rows] for name in names})
    alone = mend_track(part, times, plain, CUTOFF, 0.5)
    assert np.abs(whole.pose[26:30] - alone.pose[6:10]).max() < 2e-3
    steps = np.abs(np.diff(whole.pose, 2, axis=0)).max((1, 2, 3))
    assert steps[5:-5].max() < 3 * np.median(steps[5:-5]) + 1e-4


def test_later_frames_are_foretold(module, body):
    track = make_track(body, frames=range(10))
    found = foretell_track(track, np.array([10, 11, 13]), np.array([0.4, 0.44, 0.52]), module)
    assert found.frames.tolist() == [10, 11, 13] and found.filled.all()
    assert found.pose.shape == (3, 104, 3, 3) and np.isfinite(found.pose).all()
    with pytest.raises(UserError, match="ends at frame"):
        foretell_track(track, np.array([9]), np.array([0.36]), module)


def test_other_bodies_are_refused_by_name(module, bodies):
    track = make_track(bodies["anny_hand"], name="body-1")
    with pytest.raises(UserError, match="body-1.*body=anny, not of body=anny_hand"):
        mend_track(track, np.arange(10) / FPS, module, CUTOFF, 0.5)
    with pytest.raises(UserError, match="body=anny_hand: the motion module knows .* of anny alone"):
        find_limbs(bodies["anny_hand"])
    hand = make_track(bodies["anny_hand"], "right_hand", name="right_hand-1")
    take = mend_take(make_take(hand), {"body": module}, CUTOFF, 0.5)
    assert take.tracks[0].smoothing == "one_euro, 1 Hz, 4"


def test_a_mirror_swaps_sides(body):
    limbs = find_limbs(body)
    pose = axis_angle_to_matrix(torch.randn(3, len(limbs.names), 3)).numpy()
    flip = np.diag([-1.0, 1, 1])
    six, place = mirror_rows(take_6d(pose), np.ones((3, 3), np.float32), limbs)
    wanted = take_6d(flip @ pose[:, list(limbs.mirror)] @ flip)
    assert np.allclose(six, wanted, atol=1e-6) and place[0].tolist() == [-1, 1, 1]


def test_rows_are_of_their_slot_alone(body):
    limbs = find_limbs(body)
    chain = MotionNetwork(MotionNetworkConfig(16, 1, 2, 16), body, limbs).chain
    bank = join_pieces(list(make_pieces(2, 2.0, 0.5, limbs, chain, 5)))
    words = (bank, limbs, MotionDataConfig(), SpoilConfig(), 16, 5, 4)
    whole = dict(MotionLoader(*words, range(4)).batches(1, 3))
    half = dict(MotionLoader(*words, range(2, 4)).batches(2, 3))
    for name, values in half[2].items():
        assert np.array_equal(values, whole[2][name][2:]), name
    assert not np.array_equal(whole[1]["six"], whole[2]["six"])


def read_run(run, step):
    return (Path(run) / f"checkpoints/step-{step:08d}/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that nothing stopped."""
    run = tmp_path_factory.mktemp("motion") / "whole"
    assert main(["train", "motion_body", *TINY, "steps=8", f"run={run}"]) == 0
    return run


def test_a_stopped_run_resumes_to_the_same_bytes(trained, tmp_path, monkeypatch):
    words = ["train", "motion_body", *TINY, "steps=8", f"run={tmp_path}/stopped"]
    draw = MotionLoader.draw

    def stop(self, slots, *more):
        if min(slots) == 4 * 5:
            raise KeyboardInterrupt
        return draw(self, slots, *more)

    monkeypatch.setattr(MotionLoader, "draw", stop)
    with pytest.raises(KeyboardInterrupt):
        main(words)
    monkeypatch.undo()
    assert main(words) == 0
    assert read_run(tmp_path / "stopped", 8) == read_run(trained, 8)
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert any("val/mpjpe_missing" in line for line in log)


def test_a_run_begins_from_another_of_its_size(trained, tmp_path):
    module = locate_module(str(trained), "video.motion")
    words = ["train", "motion_body", *TINY, "steps=4", f"init={trained}", f"run={tmp_path}/other"]
    with pytest.raises(UserError, match=r"init=.*width=16.*width=32"):
        main([*words, "model.width=32"])
    assert main([*words, "optim.lr=0", "model.frames=20"]) == 0
    again = locate_module(str(tmp_path / "other"), "init")
    assert torch.equal(again.network.turn.weight, module.network.turn.weight)
    assert again.network.config.frames == 20


def test_a_module_is_released_as_a_file_with_a_card(trained, tmp_path):
    out = tmp_path / "weights"
    assert main(["release", str(trained), "name=moves", f"out={out}"]) == 0
    card = (out / "moves.md").read_text()
    assert "32 stretches seen" in card and "| mpjpe_missing | " in card
    assert main(["weights", "check", f"folder={out}"]) == 0
    file = str(out / "moves.safetensors")
    module, again = (locate_module(one, "motion") for one in (str(trained), file))
    assert torch.equal(module.network.read.weight, again.network.read.weight)
    with pytest.raises(UserError, match="moves.safetensors is a motion module, which takes no"):
        Predictor(file, "cpu")
    with pytest.raises(UserError, match="body.safetensors is no motion module"):
        locate_module("body", "video.motion")


def test_every_array_of_a_track_goes_along(module, body):
    """Whoever adds one that has a row a frame enters it in ROWS."""
    frames = (0, 1, 2, 5, 6, 7)
    track = make_track(body, frames=frames)
    count = len(frames)
    track.uncertainty = np.linspace(1, 2, count)[:, None].repeat(21, 1).astype(np.float32)
    track.surface = np.linspace(1, 2, count)[:, None].repeat(4, 1).astype(np.float32)
    track.found = np.ones((count, 17, 3), np.float32)
    track.error_px = np.arange(count, dtype=np.float32)
    mended = mend_track(track, np.arange(10) / FPS, module, CUTOFF, 0.5)
    assert mended.found[3, 0].tolist() == [1, 1, 0] and np.isnan(mended.error_px[3])
    for one in fields(mended):
        value = getattr(mended, one.name)
        if isinstance(value, np.ndarray) and len(value) == 8:
            assert one.name in ROWS
    for name in ROWS:
        assert len(getattr(mended, name)) == 8, name
    assert np.allclose(mended.surface[3], track.surface[3])
