"""Two views of one person: pairs of crops, cross-attention, fusion, training and resuming."""

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from clips import camera_at, make_clip
from runs import ROOT, finetune_words, outcome

from data.bodies.base import mirrored
from data.format.clip import Clip, Crop
from data.format.shards import shard_name, write_shard
from data.loading.build import open_crop_pair_order
from data.loading.crop_pairs import CropPairRules, list_pairs, split_pair
from data.loading.crops import FLIP
from data.loading.validation import val_crop_pairs
from engine.checkpoint import checkpoints
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from finetune.config import FinetuneConfig
from finetune.heads.base import Prediction, pose_body
from finetune.losses import project_points
from finetune.train import make_trainer, train
from finetune.two_views.cameras import relate_cameras
from finetune.two_views.late import fuse
from pretrain.model import CrossCompletion
from pretrain.weights import save_model

TINY = [
    "task=two_views",
    "model.decoder.width=32",
    "model.decoder.depth=2",
    "model.decoder.heads=2",
]


def config_of(run, shards, *more):
    file, *rest = finetune_words(run, "body", shards, *TINY, "data.workers=0", *more)
    return parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")


def task_of(run, shards, *more):
    trainer = make_trainer(config_of(run, shards, *more), Processes(0, 1, torch.device("cpu")))
    return trainer.task, trainer.loader


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, people):
    """Weights of a pre-training, as a file."""
    config = config_of("none", people["body"])
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "pair.safetensors"
    network = CrossCompletion(config.model)
    save_model(network, path)
    return path, network.eval()


@pytest.fixture(scope="module")
def batch(people):
    """A batch of training pairs as tensors."""
    task, loader = task_of("none", people["body"], "data.augment.rotation_deg=20")
    for _, arrays in loader.batches(0, 1):
        return {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}


def test_pairs_are_of_one_instant_and_two_cameras():
    places = [(0.0, "a", 0.0), (0.0, "b", 30.0), (0.0, "c", 100.0), (0.5, "a", 0.0), (0.5, "b", 30)]
    crops = [
        Crop(name, time, "body", *camera_at(np.radians(angle), 64)) for time, name, angle in places
    ]
    clip = Clip("k", "toy", "CC0-1.0", "somebody", 64, crops)
    every = list(range(5))
    found = list_pairs(clip, every, CropPairRules(), "body").tolist()
    assert sorted(found) == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1], [3, 4], [4, 3]]
    near = list_pairs(clip, every, CropPairRules(angle_max_deg=50), "body").tolist()
    assert sorted(near) == [[0, 1], [1, 0], [3, 4], [4, 3]]
    assert list_pairs(clip, [0, 2, 3], CropPairRules(angle_min_deg=90), "body").tolist() == [
        [0, 2],
        [2, 0],
    ]


def test_both_crops_show_the_labelled_person(people, batch):
    """Joints of the first crop's truth, taken to the second camera, are the second's truth."""
    task, _ = task_of("none", people["body"])
    seen = task.step_module.seen_pair(batch)
    first, second = split_pair(batch)
    assert (first["tags"][:, -3] != second["tags"][:, -3]).all()
    assert (first["numbers"][:, FLIP] == second["numbers"][:, FLIP]).all()
    assert 0 < first["numbers"][:, FLIP].sum() < len(first["tags"])
    points = [
        pose_body(task.body, target).keypoints for target in (seen.target, seen.second_target)
    ]
    pose = seen.pair.pose
    there = points[1] @ pose.rotation.transpose(1, 2) + pose.translation[:, None]
    assert torch.allclose(there, points[0], atol=2e-5)
    back = pose.invert()
    here = points[0] @ back.rotation.transpose(1, 2) + back.translation[:, None]
    assert torch.allclose(here, points[1], atol=2e-5)
    # And they are where the images show them: within the image, or near it.
    pixels = project_points(points[1], seen.second.K) / task.config.model.image_size
    assert ((pixels > -0.3) & (pixels < 1.3)).float().mean() > 0.95


def test_the_order_is_exact(people):
    config = config_of("none", people["body"])
    one, two = (task_of("none", people["body"])[1] for _ in range(2))
    whole = [{k: v.copy() for k, v in arrays.items()} for _, arrays in one.batches(0, 3)]
    rest = [{k: v.copy() for k, v in arrays.items()} for _, arrays in two.batches(1, 3)]
    for there, here in zip(whole[1:], rest, strict=True):
        assert all(np.array_equal(there[name], here[name]) for name in there)
    order = open_crop_pair_order(config.data, config.batch, config.seed)
    val = val_crop_pairs(order, config.data, 2)
    assert len(val["tags"]) == 8 and (val["tags"][:, -3] != val["second_tags"][:, -3]).all()


def test_clips_of_one_camera_are_refused(tmp_path):
    clips = [make_clip(i, views=1) for i in range(12)]
    write_shard(str(tmp_path / shard_name(0)), clips)
    with pytest.raises(UserError, match="no clip has two crops of one instant by two cameras"):
        task_of("none", tmp_path)


def test_the_decoder_is_that_of_pretraining(people, pretrained, batch, tmp_path):
    path, network = pretrained
    task, _ = task_of(tmp_path / "run", people["body"], f"init={path}")
    seen = task.step_module.seen_pair(batch)
    model = task.model.eval()
    with torch.no_grad():
        one, other = (model.encoder(images, model._table) for images in seen.pair.images)
        looked = model.look(one, other, seen.pair)
        wanted = network.features(*seen.pair.images)
    assert torch.allclose(looked, wanted, atol=1e-5)
    task, _ = task_of(
        tmp_path / "run", people["body"], f"init={path}", "two_views.init_decoder=false"
    )
    state, before = task.model.state_dict(), network.state_dict()
    assert torch.equal(state["encoder.norm.weight"], before["encoder.norm.weight"])
    name = "encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(state[name], before[name])
    assert not torch.equal(state["decoder.embed.weight"], before["decoder.embed.weight"])


def test_without_cross_attention_the_other_image_says_nothing(people, pretrained, batch, tmp_path):
    path, _ = pretrained
    arms = {}
    for fusion in ("cross", "none"):
        task, _ = task_of(
            tmp_path / fusion, people["body"], f"init={path}", f"two_views.fusion={fusion}"
        )
        for block in task.model.decoder.blocks:
            torch.nn.init.zeros_(block.cross.proj.weight)
            torch.nn.init.zeros_(block.cross.proj.bias)
        arms[fusion] = task
    found = {}
    for name, task in arms.items():
        seen = task.step_module.seen_pair(batch)
        with torch.no_grad():
            found[name] = task.step_module.recover_pair(seen.pair, task.step_module.body, True)
    for one, other in zip(found["cross"], found["none"], strict=True):
        assert torch.allclose(one.vertices, other.vertices, atol=1e-6)


def test_gradients_reach_the_other_image(people, pretrained, batch, tmp_path):
    path, _ = pretrained
    reach = {}
    for fusion in ("cross", "late", "none"):
        task, _ = task_of(
            tmp_path / fusion, people["body"], f"init={path}", f"two_views.fusion={fusion}"
        )
        pair = task.step_module.seen_pair(batch).pair
        first, second = (images.clone().requires_grad_() for images in pair.images)
        found = task.model.recover(replace(pair, images=(first, second)), task.step_module.body)
        found.keypoints.square().sum().backward()
        assert first.grad.abs().max() > 0
        reach[fusion] = second.grad is not None and bool(second.grad.abs().max() > 0)
    assert reach == {"cross": True, "late": True, "none": False}


def test_every_weight_learns(people, batch):
    """The decoder, the cameras and the token in a missing image's place too."""
    task, _ = task_of("none", people["body"])
    last = task.model.camera[-1]
    torch.nn.init.normal_(last.weight, std=0.02)
    loss, _ = task.compute_loss(task.step_module, batch)
    loss.backward()
    still = [
        name
        for name, value in task.model.named_parameters()
        if value.grad is None or not value.grad.abs().max() > 0
    ]
    assert still == []


def list_distances(found):
    """(B, V, J) of vertices from joints: what a rotation leaves as it is."""
    return (found.vertices[:, :, None] - found.joints[:, None]).norm(dim=-1)


def test_late_fusion_of_swapped_images_is_the_same_body(people, pretrained, batch, tmp_path):
    path, _ = pretrained
    task, _ = task_of(tmp_path / "run", people["body"], f"init={path}", "two_views.fusion=late")
    pair, body = task.step_module.seen_pair(batch).pair, task.step_module.body
    with torch.no_grad():
        here, there = task.model.recover(pair, body), task.model.recover(pair.swap(), body)
    assert torch.allclose(here.parameters.shape, there.parameters.shape, atol=1e-6)
    assert torch.allclose(here.parameters.pose[:, 1:], there.parameters.pose[:, 1:], atol=1e-5)
    # The cameras are known, so the root is the same in the world too.
    turned = pair.pose.rotation @ there.parameters.pose[:, 0]
    assert torch.allclose(turned, here.parameters.pose[:, 0], atol=1e-5)
    # Points alone, as heads without parameters give them.
    flat = [replace(found, parameters=None) for found in (here, there)]
    unknown = pair.pose.keep(torch.zeros_like(pair.pose.known))
    for pose in (pair.pose, unknown):
        one, other = fuse(*flat, pose, body), fuse(*flat[::-1], pose.invert(), body)
        apart = [list_distances(found) for found in (one, other)]
        assert torch.allclose(*apart, atol=1e-4)


def test_late_fusion_averages_what_two_cameras_see(bodies):
    """Two true answers give the truth, whatever the cameras; points that differ meet halfway."""
    body = bodies["anny"].coarse(32)
    torch.manual_seed(0)
    points = torch.randn(3, len(body.vertex_ids), 3)
    joints = torch.randn(3, len(body.joint_names), 3)
    rotation = torch.linalg.qr(torch.randn(3, 3, 3))[0]
    rotation = rotation * torch.linalg.det(rotation)[:, None, None].sign()
    first = Prediction(points, joints, body.keypoints(points, joints))
    moved = [p @ rotation + 2.0 for p in (points, joints)]
    second = Prediction(*moved, body.keypoints(*moved))
    eye = torch.eye(3, 4).expand(3, 3, 4)
    other = torch.cat([rotation.transpose(1, 2), torch.zeros(3, 3, 1)], 2)
    pose = relate_cameras(eye, other)
    for known in (pose, pose.keep(torch.zeros(3, dtype=torch.bool))):
        fused = fuse(first, second, known, body)
        assert torch.allclose(fused.vertices, points, atol=1e-4)
    double = replace(second, vertices=moved[0] + (moved[0] - moved[1][:, :1]))
    fused = fuse(first, double, pose, body)
    wanted = points + (points - joints[:, :1]) / 2
    assert torch.allclose(fused.vertices, wanted, atol=1e-4)


def test_cameras_that_are_not_known_say_nothing(people, batch):
    task, _ = task_of("none", people["body"])
    torch.nn.init.normal_(task.model.camera[-1].weight, std=0.5)
    pair, body = task.step_module.seen_pair(batch).pair, task.step_module.body
    unknown = replace(pair, pose=pair.pose.keep(torch.zeros_like(pair.pose.known)))
    other = replace(pair.pose, rotation=pair.pose.rotation.flip(0), known=unknown.pose.known)
    with torch.no_grad():
        told, silent, still = (
            task.model.recover(one, body).vertices
            for one in (pair, unknown, replace(pair, pose=other))
        )
    assert not torch.allclose(told, silent, atol=1e-4)
    assert torch.equal(silent, still)


@pytest.mark.parametrize("fusion", ["cross", "late"])
def test_cameras_stay_exact_in_bf16(people, batch, fusion):
    """The network alone runs in bf16: a swapped pair is the same pair as without it."""
    task, _ = task_of("none", people["body"], f"two_views.fusion={fusion}")
    pair, module = task.step_module.seen_pair(batch).pair, task.step_module
    found = {}
    for module.bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=module.bf16), torch.no_grad():
            swapped = pair.swap()
            found[module.bf16] = module.recover_pair(pair, module.body, both=True)
        assert swapped.pose.translation.dtype == torch.float32
        assert torch.allclose(swapped.swap().pose.translation, pair.pose.translation, atol=1e-5)
    for exact, rounded in zip(found[False], found[True], strict=True):
        assert torch.allclose(exact.vertices, rounded.vertices, atol=0.02)


def test_a_mirrored_pair_is_a_mirrored_person(people, batch):
    """A pair that is mirrored for the network has the mirror's cameras."""
    task, _ = task_of("none", people["body"])
    plain = {name: value.clone() for name, value in batch.items()}
    for numbers in (plain["numbers"], plain["second_numbers"]):
        numbers[:, FLIP] = 0
    flipped = {name: value.clone() for name, value in plain.items()}
    for numbers in (flipped["numbers"], flipped["second_numbers"]):
        numbers[:, FLIP] = 1
    one, other = (task.step_module.seen_pair(part).pair.pose for part in (plain, flipped))
    assert torch.allclose(mirrored(one.translation), other.translation, atol=1e-5)


@pytest.fixture
def undisturbed():
    """Training in this process sets handlers of signals and threads; they are put back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_run_resumes_exactly(tmp_path, people, pretrained, undisturbed):
    path, _ = pretrained
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    more = [
        f"init={path}",
        "steps=4",
        "checkpoint.every=2",
        "log.val_every=4",
        "log.images_every=4",
        "log.images=2",
    ]
    assert train(config_of(whole, people["body"], *more)) == 0
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert {"val/mpjpe", "val/pa_mpjpe", "val/mpjpe_one_view", "val/pa_mpjpe_one_view"} <= set(
        lines[-1]
    )
    assert (whole / "images" / "step-00000004.png").is_file()
    # The other one was killed after its second step.
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / "step-00000004")
    assert checkpoints.newest(stopped).name == "step-00000002"
    assert train(config_of(stopped, people["body"], *more)) == 0
    assert outcome(whole) == outcome(stopped)
