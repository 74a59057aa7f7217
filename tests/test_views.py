"""What the network sees and is asked for: images, cameras and targets agree; answers, means and
losses mean what they say."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from data.config import CropDataConfig
from data.format.clip import KINDS
from data.loading.augment import denormalise
from data.loading.build import open_crop_loader, open_crop_order
from data.loading.crops import CropAugmentConfig, CropRules
from engine.geometry import axis_angle_to_matrix, matrix_to_rotation_6d
from finetune import losses
from finetune.crop_camera import (
    describe_camera,
    find_ray_rotation,
    focal_length,
    to_image_translation,
    to_translation,
)
from finetune.heads.base import Truth, pose_body
from finetune.heads.keys import ModelBasedConfig
from finetune.means import Means, Offsets, add_offsets, compute_means, plain_view
from finetune.model import Recovery
from finetune.views import Targets, view
from pretrain.config import EncoderConfig, VisionConfig

MODEL = {"body": "anny", "hand": "anny_hand"}
BATCH = 24


def batch_of(folder, kind, **augment):
    """(tensors of one batch of labelled crops, labels with rotation matrices)."""
    config = CropDataConfig(
        shards=str(folder),
        val_clips=0,
        rules=CropRules(crops=kind),
        augment=CropAugmentConfig(**augment),
    )
    loader = open_crop_loader(open_crop_order(config, BATCH, 7), config, 0, 1, 0)
    _, arrays = next(loader.batches(0, 1))
    batch = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
    return batch, {**batch, "pose": axis_angle_to_matrix(batch["pose"])}


def source_pixels(batch, joints):
    """(B, N, 2) float64 pixels of the crops and (B, N) depths of joints (B, N, 3) in the world;
    numpy alone."""
    K, Rt = (batch[name].double().numpy() for name in ("K", "Rt"))
    camera = np.einsum("bij,bnj->bni", Rt[:, :, :3], joints) + Rt[:, None, :, 3]
    flat = np.einsum("bij,bnj->bni", K, camera)
    return flat[..., :2] / flat[..., 2:], camera[..., 2]


def shown_at(batch, pixels, size):
    """Where source pixels (B, N, 2) show in images of ``size`` px: cut, rotated, scaled and
    perhaps mirrored."""
    out = np.empty_like(pixels)
    for row, (x, y, side, rotation, flip, *_) in enumerate(batch["numbers"].double().numpy()):
        # The square's own axes, as they lie in the source: x rotated towards y.
        right, down = (
            np.array([np.cos(rotation), np.sin(rotation)]),
            np.array([-np.sin(rotation), np.cos(rotation)]),
        )
        away = (pixels[row] - [x, y]) * size / side
        out[row] = np.stack([away @ right, away @ down], 1) + size / 2
        if flip:
            out[row, :, 0] = size - out[row, :, 0]
    return out


def of_mirrored(values, flip, places):
    """Rows in ``flip`` (B,) with their joints (axis 1) taken from the other side."""
    return np.where(flip[:, None, None], values[:, places], values)


@pytest.mark.parametrize("camera", ["plain", "odd"])
@pytest.mark.parametrize("kind", ["body", "hand"])
def test_targets_project_to_where_the_image_shows_them(bodies, people, kind, camera):
    body, size = bodies[MODEL[kind]], 48
    batch, labels = batch_of(
        people[kind],
        kind,
        rotation_deg=180,
        shift=0.3,
        scale_min=0.5,
        scale_max=1.6,
        part_share=0.3,
    )
    if camera == "odd":  # pixels that are not square, and skewed axes
        batch["K"][:, 0, 0] *= 1.3
        batch["K"][:, 0, 1] = torch.linspace(-9, 12, BATCH)
    seen = view(batch, size)
    target = Targets(body)(labels, seen)
    found = body(target.pose, target.translation, target.shape)[1].double()
    flat = (found @ seen.K.double().transpose(1, 2)).numpy()

    names, flip = body.whole.joint_names, seen.flip.numpy()
    true = batch["joints"].double().numpy()
    if kind == "body":
        own = np.arange(104)
        true = of_mirrored(true, flip, body.mirror.numpy())
    else:
        parts = [KINDS[part] for part in batch["tags"][:, -2].tolist()]
        assert [part == "left_hand" for part in parts] == flip.tolist()
        own = np.arange(1, 21)
        sides = [
            [names.index(n[:-1] + part[0].upper()) for n in body.joint_names[1:]] for part in parts
        ]
        true = np.stack([joints[rows] for joints, rows in zip(true, sides, strict=True)])
    assert 0.2 < flip.mean() < 0.8
    pixels, depth = source_pixels(batch, true)
    off = np.abs((flat[..., :2] / flat[..., 2:])[:, own] - shown_at(batch, pixels, size)).max(
        (0, 2)
    )
    deep = np.abs(flat[:, own, 2] - depth).max(0)
    # The rig of anny's neck lies off the middle: a mirrored head is up to 6 mm from the mirror
    # image, an arm 0.4 mm.
    neck = np.array([kind == "body" and names[i].startswith(("neck", "head", "eye")) for i in own])
    assert off[~neck].max() < 0.01 and deep[~neck].max() < 5e-4
    if neck.any():
        assert off[neck].max() < 0.3 and deep[neck].max() < 6e-3
    for R in (seen.rotation, target.pose.flatten(0, 1)):
        assert (
            np.allclose(R @ R.transpose(1, 2), np.eye(3), atol=1e-5)
            and (torch.linalg.det(R) > 0).all()
        )
    assert (seen.K[:, 1, 0] == 0).all() and (seen.K[:, 2] == torch.tensor([0.0, 0, 1])).all()
    assert (seen.K[:, 0, 0] > 0).all() and (seen.K[:, 1, 1] > 0).all()


@pytest.mark.parametrize("size", [64, 48, 24])
def test_images_move_as_their_cameras_say(people, size):
    """A bright dot at a known pixel of the crop shows where the same formula puts it."""
    batch, _ = batch_of(
        people["body"], "body", rotation_deg=180, shift=0.1, scale_min=0.7, scale_max=1.3, colour=0
    )
    random = np.random.default_rng(0)
    places = random.uniform(24, 40, (BATCH, 1, 2))
    y, x = np.mgrid[:64, :64] + 0.5
    for row, (dot,) in enumerate(places):
        bright = 255 * np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * 2.0**2))
        batch["pixels"][row] = torch.from_numpy(bright.round().astype(np.uint8))[..., None]
    images = denormalise(view(batch, size).images).mean(1).double().numpy()
    y, x = np.mgrid[:size, :size] + 0.5
    found = (
        np.stack([(images * x).sum((1, 2)), (images * y).sum((1, 2))], 1)
        / images.sum((1, 2))[:, None]
    )
    assert np.abs(found - shown_at(batch, places, size)[:, 0]).max() < 0.3
    assert batch["numbers"][:, 4].sum() > 5


def test_a_whole_crop_is_the_image_itself(people):
    batch, _ = batch_of(
        people["body"],
        "body",
        rotation_deg=0,
        shift=0,
        scale_min=1,
        scale_max=1,
        colour=0,
        flip=False,
    )
    seen = view(batch, 64)
    assert torch.allclose(
        denormalise(seen.images).permute(0, 2, 3, 1) * 255, batch["pixels"].float(), atol=1e-3
    )
    assert torch.allclose(seen.K, batch["K"], atol=1e-4) and torch.equal(
        seen.rotation, torch.eye(3).expand(BATCH, 3, 3)
    )
    plain = plain_view(batch, 32)
    assert torch.allclose(plain.K[:, :2], batch["K"][:, :2] / 2, atol=1e-5) and not plain.flip.any()


@pytest.mark.parametrize("kind", ["body", "hand"])
def test_means_are_those_of_the_targets(bodies, people, kind):
    """Against scipy's mean rotation, for joint 0 about each image's own ray."""
    body = bodies[MODEL[kind]]
    batch, _ = batch_of(
        people[kind], kind, rotation_deg=0, shift=0, scale_min=1, scale_max=1, flip=False
    )
    # The tips of the thumbs rotate so far that the mean of their matrices is nearer to a mirror
    # than to any rotation.
    batch["pose"][:, [55, 81]] = np.pi * torch.eye(3)[[0] * 10 + [1] * 8 + [2] * 6][:, None]
    labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
    mean_body = compute_means(batch, Targets(body), 32)
    pose, shape, place = mean_body.pose, mean_body.shape, mean_body.translation
    seen = view(batch, 32)
    target = Targets(body)(labels, seen)
    assert torch.allclose(shape, batch["shape"].mean(0), atol=1e-6)
    K, local = seen.K.double().numpy(), target.pose.double().numpy()
    for row in range(BATCH):
        ray = np.linalg.inv(K[row]) @ [16, 16, 1]
        axis = np.cross([0, 0, 1], ray)
        angle = np.arctan2(np.linalg.norm(axis), ray[2])
        local[row, 0] = (
            Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix().T @ local[row, 0]
        )
    for joint in range(len(body.joint_names)):
        mean = Rotation.from_matrix(local[:, joint]).mean().as_matrix()
        assert np.abs(pose[joint].numpy() - mean).max() < 1e-4, body.joint_names[joint]
    root = target.translation.double().numpy()
    flat = np.einsum("bij,bj->bi", K, root)
    width = root[:, 2] * 32 / np.sqrt(K[:, 0, 0] * K[:, 1, 1])
    wanted = np.concatenate([flat[:, :2] / flat[:, 2:] / 32 - 0.5, np.log(width)[:, None]], 1).mean(
        0
    )
    assert np.abs(place.numpy() - wanted).max() < 1e-5


def cameras(count, size=32):
    """(B, 3, 3) odd intrinsics of images whose principal point may lie far outside."""
    random = np.random.default_rng(2)
    K = np.tile(np.eye(3, dtype=np.float32), (count, 1, 1))
    K[:, 0, 0], K[:, 1, 1] = random.uniform(0.5, 8, (2, count)) * size
    K[:, 0, 1] = random.normal(0, 3, count)
    K[:, :2, 2] = random.normal(size / 2, 2 * size, (count, 2))
    return torch.from_numpy(K)


def test_a_place_is_the_inverse_of_its_point():
    K, random = cameras(50), torch.Generator().manual_seed(0)
    depth = 0.3 + 8 * torch.rand(50, generator=random)
    pixels = 32 * torch.rand(50, 2, generator=random)
    root = torch.linalg.solve(K, torch.cat([pixels, torch.ones(50, 1)], 1)) * depth[:, None]
    place = to_image_translation(root, K, 32)
    assert torch.allclose(place[:, :2], pixels / 32 - 0.5, atol=1e-4)
    assert torch.allclose(to_translation(place, K, 32), root, rtol=1e-4, atol=1e-4)
    # A scene one metre wide at depth z fills the image where z is focal length over size.
    middle = to_translation(torch.zeros(50, 3), K, 32)
    assert torch.allclose(middle[:, 2], focal_length(K) / 32) and torch.allclose(
        focal_length(K), (K[:, 0, 0] * K[:, 1, 1]).sqrt()
    )
    twice = K.clone()
    twice[:, :2, :2] *= 2
    assert torch.allclose(to_translation(place, twice, 32)[:, 2], 2 * root[:, 2], rtol=1e-4)


def test_the_rays_rotation_takes_the_axis_to_the_ray():
    K = cameras(50)
    R, ray = (
        find_ray_rotation(K, 32),
        torch.linalg.solve(K, torch.tensor([16.0, 16, 1]).expand(50, 3)),
    )
    ray = ray / ray.norm(dim=1, keepdim=True)
    assert torch.allclose(R @ R.transpose(1, 2), torch.eye(3).expand(50, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(R), torch.ones(50), atol=1e-5)
    assert torch.allclose(R[:, :, 2], ray, atol=1e-5)
    # The smallest such rotation: its axis is across both.
    vectors = Rotation.from_matrix(R.double().numpy()).as_rotvec()
    assert (
        np.abs(vectors[:, 2]).max() < 1e-4 and np.abs((vectors * ray.numpy()).sum(1)).max() < 1e-4
    )
    assert torch.allclose(describe_camera(K, 32)[:, :2] * ray[:, 2:], ray[:, :2], atol=1e-5)


@pytest.fixture(scope="module")
def network(bodies):
    """A tiny Recovery of hands with means that are none of its defaults."""
    torch.manual_seed(0)
    vision = VisionConfig(image_size=32, patch=8, encoder=EncoderConfig(width=32, depth=1, heads=2))
    model = Recovery(
        vision,
        ModelBasedConfig(width=32, depth=1, heads=2, token_proj_dim=4),
        bodies["anny_hand"],
        "mesh",
    )
    random = torch.Generator().manual_seed(3)
    model.set_means(
        Means(
            axis_angle_to_matrix(0.5 * torch.randn(21, 3, generator=random)),
            torch.rand(6, generator=random),
            torch.tensor([0.05, -0.1, -1.0]),
        )
    )
    return model.eval()


def moved(network, offsets, K):
    """The bodies that offsets from a network's means stand for, in images of 32 px."""
    return add_offsets(network.means, offsets, K, 32, network.shape_space, network.body_name)


def test_answers_of_zero_are_the_means(network):
    K = cameras(5)
    found = network.place_means(K, 32)
    assert torch.allclose(found.pose[:, 1:], network.mean_pose[1:].expand(5, -1, -1, -1), atol=1e-6)
    assert torch.allclose(
        found.pose[:, 0], find_ray_rotation(K, 32) @ network.mean_pose[0], atol=1e-5
    )
    assert torch.allclose(found.shape, network.mean_shape.expand(5, 6), atol=1e-3)
    place = to_image_translation(found.translation, K, 32)
    assert torch.allclose(place, network.mean_place.expand(5, 3), atol=1e-4)


def test_offsets_are_added_to_the_means(network):
    """Whatever is wanted can be answered: offsets from the means' six numbers give any rotation."""
    wanted = axis_angle_to_matrix(torch.randn(5, 21, 3, generator=torch.Generator().manual_seed(4)))
    offset = (matrix_to_rotation_6d(wanted) - matrix_to_rotation_6d(network.mean_pose)).flatten(1)
    K = cameras(5)
    found = moved(network, Offsets(offset, torch.full((5, 6), 50.0), torch.ones(5, 3)), K)
    assert torch.allclose(found.pose[:, 1:], wanted[:, 1:], atol=1e-5)
    assert torch.allclose(found.pose[:, 0], find_ray_rotation(K, 32) @ wanted[:, 0], atol=1e-5)
    assert (found.shape > 0.999).all() and (found.shape <= 1).all()
    place = to_image_translation(found.translation, K, 32)
    assert torch.allclose(place, (network.mean_place + 1).expand(5, 3), atol=1e-4)


def test_a_new_network_answers_nearly_the_means(network, bodies):
    images, K = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5)), cameras(4)
    with torch.no_grad():
        found = network(images, K, bodies["anny_hand"]).parameters
    start = network.place_means(K, 32)
    assert (found.pose - start.pose).abs().max() < 0.05 and (
        found.shape - start.shape
    ).abs().max() < 0.02
    off = [to_image_translation(one.translation, K, 32) for one in (found, start)]
    assert (off[0] - off[1]).abs().max() < 0.05
    assert (found.pose[0] - found.pose[1]).abs().max() > 0


def test_weights_hold_the_means_and_no_mesh(network):
    state = network.state_dict()
    assert {"mean_pose", "mean_shape", "mean_place"} <= state.keys()
    assert not [name for name in state if not name.startswith(("encoder.", "head.", "mean_"))]
    assert max(value.numel() for value in state.values()) < 20_000
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"encoder", "head"}


@pytest.mark.parametrize("position", ["cosine", "rope"])
def test_the_loss_moves_every_weight(bodies, people, position):
    torch.manual_seed(0)
    body = bodies["anny_hand"].coarse(32)
    vision = VisionConfig(
        image_size=32, patch=8, position=position, encoder=EncoderConfig(width=32, depth=1, heads=2)
    )
    model = Recovery(
        vision,
        ModelBasedConfig(width=32, depth=2, heads=2, token_proj_dim=4),
        bodies["anny_hand"],
        "mesh",
    )
    batch, labels = batch_of(people["hand"], "hand")
    model.set_means(compute_means(batch, Targets(body), 32))
    seen = view(batch, 32)
    target = Targets(body)(labels, seen)
    found = model(seen.images, seen.K, body)
    terms = losses.compute_terms(
        losses.list_terms(model.head), found, Truth(pose_body(body, target), seen.K, 32)
    )
    assert set(terms) == {term.name for term in losses.TERMS} and all(
        values.shape == (BATCH,) for values in terms.values()
    )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        sum(v.sum() for v in terms.values()), trained.values(), retain_graph=True
    )
    for name, gradient in zip(trained, gradients, strict=True):
        assert gradient.isfinite().all() and (gradient != 0).any(), name
    reached = {
        "rotation": "pose",
        "shape": "shape",
        "joints": "pose",
        "vertices": "pose",
        "keypoints_2d": "place",
        "translation": "place",
    }
    for term, answer in reached.items():  # each term by itself reaches its answer and the encoder
        ends = model.head.answers[answer].weight, model.encoder.patch_embed.proj.weight
        for gradient in torch.autograd.grad(terms[term].sum(), ends, retain_graph=True):
            assert gradient.isfinite().all() and (gradient != 0).any(), term


@pytest.fixture(scope="module")
def truth(bodies, people):
    """(coarse body, target, K) of a batch of bodies as the network sees them."""
    body = bodies["anny"].coarse(64)
    batch, labels = batch_of(people["body"], "body")
    seen = view(batch, 32)
    return body, Targets(body)(labels, seen), seen.K


def terms_of(truth, **changes):
    """The losses of the target but for what is given."""
    body, target, K = truth
    found = dataclasses.replace(target, **changes)
    return losses.compute_terms(
        losses.TERMS, pose_body(body, found), Truth(pose_body(body, target), K, 32)
    )


def test_the_truth_costs_nothing(truth):
    assert all((values.abs() < 1e-5).all() for values in terms_of(truth).values())


def test_known_errors_cost_what_they_should(truth):
    body, target, K = truth
    terms = terms_of(truth, translation=target.translation + torch.tensor([0.05, 0, 0]))
    assert all(terms[name].max() < 1e-5 for name in ("rotation", "shape", "joints", "vertices"))
    # Aside by so much of the scene's width there, and no nearer; a mean over three numbers.
    depth = target.translation[:, 2]
    pixels = K[:, 0, 0] * 0.05 / depth
    assert torch.allclose(terms["translation"], pixels / 32 / 3, rtol=1e-3)
    nearer = terms_of(truth, translation=target.translation * np.exp(-0.6).astype(np.float32))
    assert torch.allclose(nearer["translation"], torch.full((BATCH,), 0.2), rtol=1e-3)
    points = body.keypoints(*body(target.pose, target.translation, target.shape)).double().numpy()
    wanted = (K[:, 0, 0].double().numpy()[:, None] * 0.05 / points[..., 2] / 32).mean(
        1
    ) / 2  # x alone moves
    assert np.allclose(terms["keypoints_2d"].numpy(), wanted, rtol=1e-3)

    rotated = target.pose.clone()
    elbow = body.joint_names.index("lowerarm01.L")
    rotated[:, elbow] = (
        rotated[:, elbow]
        @ torch.from_numpy(Rotation.from_euler("z", 90, degrees=True).as_matrix()).float()
    )
    terms = terms_of(truth, pose=rotated)
    assert torch.allclose(
        terms["rotation"], torch.full((BATCH,), 4 / 104), rtol=1e-4
    )  # |R - 1|^2 = 4 - 4 cos
    # One of 22 keypoints, the wrist, moves; L1, mean over the 3 axes.
    moved, still = (
        body.keypoints(*body(p, target.translation, target.shape)) for p in (rotated, target.pose)
    )
    changed = (moved - still).abs().amax((0, 2)) > 1e-4
    assert [name for name, c in zip(body.keypoint_names, changed, strict=True) if c] == [
        "left_wrist"
    ]
    assert torch.allclose(
        terms["joints"],
        (moved - still)[:, changed].abs().sum((1, 2)) / (3 * len(changed)),
        rtol=1e-3,
    )

    other = target.shape.clone()
    other[:, 2] += 0.1
    terms = terms_of(truth, shape=other)
    assert (
        torch.allclose(terms["shape"], torch.full((BATCH,), 0.01 / 6), rtol=1e-3)
        and terms["rotation"].max() == 0
    )


def test_joints_and_vertices_are_compared_about_the_root(truth):
    """Turning the whole about its root: vertices move as a rigid body does."""
    body, target, K = truth
    R = torch.from_numpy(Rotation.from_euler("y", 30, degrees=True).as_matrix()).float()
    rotated = torch.cat([(R @ target.pose[:, 0])[:, None], target.pose[:, 1:]], 1)
    terms = terms_of(truth, pose=rotated)
    vertices, joints = body(target.pose, target.translation, target.shape)
    about = (vertices - joints[:, :1]).double().numpy()
    wanted = np.abs(about @ R.double().numpy().T - about).mean((1, 2))
    assert np.allclose(terms["vertices"].numpy(), wanted, rtol=1e-3)


def test_people_behind_the_camera_have_finite_losses(truth):
    body, target, K = truth
    root = (target.translation * torch.tensor([1.0, 1, -1])).requires_grad_()
    terms = terms_of(truth, translation=root)
    gradient = torch.autograd.grad(sum(v.sum() for v in terms.values()), root)[0]
    assert all(v.isfinite().all() for v in terms.values()) and gradient.isfinite().all()
