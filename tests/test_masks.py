"""Outlines given to a head: how training spoils them, where predict puts them, what they do."""

import shutil

import numpy as np
import pytest
import torch
from runs import ROOT, finetune_words
from test_views import batch_of

from data.bodies.models import open_model
from data.cropping.geometry import Square
from data.find.detection import PersonMask
from data.loading.appearance_keys import MASK_DRAWS
from data.loading.augment import denormalise
from data.loading.crops import CropAugmentConfig
from engine.config.parser import parse
from engine.errors import UserError
from finetune.config import FinetuneConfig
from finetune.heads.keys import ModelBasedConfig
from finetune.heads.mask_prompts import WIDTHS
from finetune.inference.predictor import Predictor
from finetune.masks import (
    make_masks,
    mirror_masks,
    place_masks,
    pool_masks,
    spoil_masks,
)
from finetune.model import Recovery
from finetune.train import train
from finetune.views import view
from pretrain.config import VisionConfig

GRID = (4, 4)
MASKED = ("head.prompt_mask=true", "data.augment.mask_share=0.7", "head.rounds=1")
KEYPOINTS = ("head.prompts=true", "data.augment.prompt_share=0.5")


def draw(count, seed=0):
    return torch.rand(count, MASK_DRAWS, generator=torch.Generator().manual_seed(seed))


def draw_bars(count, size=64):
    """(B, 1, S, S) people of 18 x 40 px."""
    person = torch.zeros(count, 1, size, size)
    person[:, :, 12:52, 23:41] = 1
    return person


def test_outlines_are_spoiled_as_a_detector_spoils_them():
    person = draw_bars(600)
    found = spoil_masks(person, draw(600))
    assert set(found.unique().tolist()) == {0, 1}
    both, either = (found * person).sum((1, 2, 3)), torch.maximum(found, person).sum((1, 2, 3))
    overlap = both / either
    assert 0.75 < overlap.mean() < 0.95 and overlap.min() > 0.3 and overlap.max() > 0.98
    # As many are too thick as too thin; most of both by a pixel or two.
    wide = found[:, 0, 26:38].sum(2).median(1).values
    assert 0.2 < (wide > 18).float().mean() < 0.6 and 0.2 < (wide < 18).float().mean() < 0.6
    assert wide.quantile(0.02) > 12 and wide.quantile(0.98) < 26
    again = spoil_masks(person, draw(600))
    assert torch.equal(found, again)


def test_a_share_of_known_outlines_is_given():
    known = torch.arange(800) % 2 == 0
    masks = make_masks(draw_bars(800), known, draw(800), 0.5, GRID)
    assert masks.shape == (800, 16, 16) and masks.min() == -1 and masks.max() == 1
    given = (masks != 0).any(2).any(1)
    assert not given[~known].any() and abs(given[known].float().mean() - 0.5) < 0.06


def test_found_outlines_lie_where_the_crop_shows_them():
    image = np.zeros((100, 120), bool)
    image[:, :60] = True
    # Cells of 10 px: the left half of the crop is inside.
    masks = place_masks([image, None, image], [Square(60, 50, 160)] * 3, 32, GRID)
    assert masks.shape == (3, 16, 16) and not masks[1].any()
    assert (masks[0][3:13, 2:8] == 1).all() and (masks[0][:, 8:] == -1).all()
    assert (masks[0][:3] == -1).all()  # beyond the image's upper edge
    square = np.array([20.0, 10, 100, 90])
    inside = np.zeros((40, 40), bool)
    inside[:, :20] = True  # as wide as a cell of 2 px says
    (cut,) = place_masks([PersonMask(square, inside)], [Square(60, 50, 160)], 32, GRID)
    assert (cut[4:12, 4:8] > 0.9).all() and (cut[:, 9:] == -1).all() and (cut[:, :3] == -1).all()
    assert (cut[4:12, 8] < -0.9).all() and (cut[4:12, 3] < -0.9).all()
    mirrored = mirror_masks(masks, torch.tensor([True, False, False]))
    assert torch.equal(mirrored[0], masks[0].flip(1)) and torch.equal(mirrored[2], masks[2])


@pytest.mark.parametrize("kind", ["body", "hand"])
def test_outlines_move_as_images_do(people, kind):
    """The person is painted into the crops; where the images show the paint is the outline."""
    strong = {"scale_min": 0.7, "scale_max": 1.2, "rotation_deg": 40, "shift": 0.1, "colour": 0}
    batch, _ = batch_of(people[kind], kind, **strong)
    bits = np.unpackbits(batch["mask"].numpy(), axis=1).reshape(-1, 64, 64)
    batch["pixels"] = torch.from_numpy(np.repeat(bits[..., None] * np.uint8(255), 3, 3))
    seen = view(batch, 48)
    painted = denormalise(seen.images)[:, :1]
    apart = ((seen.find_person() > 0.5) != (painted > 0.5)).float().mean((1, 2, 3))
    assert seen.flip.any() and apart.max() < 0.03 and (painted > 0.5).float().mean() > 0.05


def test_what_hides_people_hides_their_outline(people):
    from data.loading.appearance import Appearance

    keys = {"occluder_share": 1.0, "truncate_share": 1.0}
    batch, _ = batch_of(people["body"], "body", **keys)
    clear = view(batch, 48, Appearance(CropAugmentConfig(**keys), torch.device("cpu")))
    plain = view(batch, 48).find_person()
    shown = clear.find_person()
    assert (shown <= plain + 1e-6).all() and shown.sum() < 0.95 * plain.sum()
    assert (shown * (1 - clear.find_clear())).max() < 0.3


def make_network(seed=0, **head):
    torch.manual_seed(seed)
    config = VisionConfig(image_size=32, patch=8)
    config.encoder.width, config.encoder.depth, config.encoder.heads = 32, 1, 2
    keys = {"width": 32, "depth": 1, "heads": 2, "token_proj_dim": 4, "prompts": True} | head
    return Recovery(config, ModelBasedConfig(**keys), open_model("anny_hand"), "mesh")


def test_a_head_reads_outlines_and_is_the_same_without_at_first():
    model = make_network(rounds=2, prompt_mask=True)
    body = open_model("anny_hand").coarse(32)
    K = torch.tensor([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]]).repeat(2, 1, 1)
    images, masks = torch.randn(2, 3, 32, 32), pool_masks(draw_bars(2), GRID)
    without = model(images, K, body).keypoints
    assert torch.equal(without, model(images, K, body, masks=masks).keypoints)
    for layer in model.head.mended.values():  # as training leaves them
        torch.nn.init.normal_(layer.weight, std=0.1)
    without = model(images, K, body).keypoints
    assert torch.equal(without, model(images, K, body, masks=masks).keypoints)
    model(images, K, body, masks=masks).keypoints.sum().backward()
    parts = model.head.read_masks
    assert parts.last.weight.grad.abs().sum() > 0 and parts.round_last.weight.grad.abs().sum() > 0
    for layer in (parts.last, parts.round_last):
        torch.nn.init.normal_(layer.weight)
    found = model(images, K, body, masks=masks).keypoints
    assert not torch.allclose(without, found)
    # One that nobody knows says nothing, whatever was learnt, for each image by itself.
    masks[1] = 0
    mixed = model(images, K, body, masks=masks).keypoints
    assert torch.allclose(mixed[0], found[0], atol=1e-6)
    assert torch.allclose(mixed[1], without[1], atol=1e-6)
    # Of people without an image there is none either.
    lifted = model.lift(K, 32, body, torch.rand(2, 21, 3)).keypoints
    assert lifted.isfinite().all()


def test_sides_of_a_body_are_told_from_its_outline():
    parts = make_network(rounds=1, prompt_mask=True).head.read_masks
    told = []
    parts.round_first.register_forward_pre_hook(lambda _, given: told.append(given[0]))
    mask = torch.full((1, 16, 16), -1.0)
    mask[:, :, 4:12] = 1  # from -0.25 to 0.25 of the image's side
    at = torch.tensor([0.0, 0.2, 0.3, 0.6])
    count = parts.round_first.in_features // len(WIDTHS)
    places = torch.stack([at.repeat(count)[:count], torch.zeros(count)], 1)[None]
    parts.compare(mask, places)
    parts.compare(torch.zeros_like(mask), places)
    (sharp, near, far) = told[0].unflatten(1, (count, len(WIDTHS)))[0, :4].unbind(1)
    assert sharp.tolist() == pytest.approx([1, 1, -1, -1], abs=0.31)
    assert near[0] > near[1] > near[2] > far.min()  # the nearer to the edge, the less
    assert sharp[3] == near[3] == far[3] == -1  # beyond the image
    assert not told[1].any()


def test_numbers_of_outlines_come_after_all_others():
    keys = {"prompt_share": 0.5, "lifted": 2}
    before, after = CropAugmentConfig(**keys), CropAugmentConfig(**keys, mask_share=0.5)
    assert after.draws == before.draws + MASK_DRAWS and before.draws == before.stop_lifted
    assert CropAugmentConfig(mask_share=0.5).draws > MASK_DRAWS
    for share, head in ((0.5, "false"), (0.0, "true")):
        words = [f"data.augment.mask_share={share}", f"head.prompt_mask={head}"]
        file, *rest = finetune_words("run", "hand", "shards", *words)
        with pytest.raises(UserError, match=f"head.prompt_mask={head} and .*mask_share={share}"):
            parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")


def run_training(run, shards, *words):
    file, *rest = finetune_words(run, "hand", shards, *words)
    assert train(parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")) == 0


def test_training_goes_on_with_outlines_and_resumes_to_the_bit(people, tmp_path):
    shards = people["hand"]
    common = ("data.workers=0", "log.val_every=100", "optim.warmup=1")
    run_training(tmp_path / "old", shards, *common, *KEYPOINTS, "head.rounds=1", "steps=2")
    words = (*common, *KEYPOINTS, *MASKED, "steps=4", "checkpoint.every=2", "robust.share=0.5")
    words += (f"init={tmp_path / 'old'}", "init_head=true", "data.augment.lifted=1")
    run_training(tmp_path / "new", shards, *words)
    old, new = (Predictor(tmp_path / name, "cpu") for name in ("old", "new"))
    added = set(new.model.state_dict()) - set(old.model.state_dict())
    assert added and all(name.startswith("head.read_masks.") for name in added)
    assert new.model.head.read_masks.last.weight.abs().sum() > 0
    # Weights of before have no outlines, and are not asked for any.
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    boxes, mask = [[20.0, 10, 60, 50]], np.zeros((60, 80), bool)
    mask[20:40, 30:50] = True
    for predictor, differs in ((old, False), (new, True)):
        plain, given = (
            predictor(image, boxes, sides=["left"], masks=masks)[0] for masks in (None, [mask])
        )
        assert np.array_equal(plain.vertices, given.vertices) != differs
    # A left hand is the right one in a mirror, its outline too.
    left = new(image, boxes, sides=["left"], masks=[mask])[0]
    right = new(
        image[:, ::-1].copy(), [[20.0, 10, 60, 50]], sides=["right"], masks=[mask[:, ::-1].copy()]
    )[0]
    assert np.allclose(left.vertices * [-1, 1, 1], right.vertices, atol=2e-3)
    for masks, words_ in (([None, None], "masks of 2 for 1 boxes"), ([mask[:9]], "shape .9, 80")):
        with pytest.raises(UserError, match=words_):
            new(image, boxes, masks=masks)
    whole = {name: value.clone() for name, value in new.model.state_dict().items()}
    shutil.rmtree(tmp_path / "new" / "checkpoints" / "step-00000004")
    run_training(tmp_path / "new", shards, *words)
    again = Predictor(tmp_path / "new", "cpu").model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
