"""Appearance augmentation: pixels change as slot and seed say, and labels do not."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from test_crops import config_of, stream

from data.config import AugmentConfig, DataConfig, KindShares
from data.loading.appearance import BLOCK, Appearance, crop_person, find_inside, open_appearance
from data.loading.appearance_keys import DRAWS, AppearanceKeys
from data.loading.backdrops import draw_backdrops, read_photos
from data.loading.build import open_loader, open_order
from data.loading.crops import CropAugmentConfig
from data.loading.degrade import add_blocks, blur, change_tone
from data.loading.occluders import choose_rows, draw_shape, hide_parts, put_rows
from engine.errors import UserError
from finetune.views import view

CPU = torch.device("cpu")
STRONG = {
    "background_share": 0.7,
    "occluder_share": 0.6,
    "truncate_share": 0.5,
    "degrade_share": 0.4,
    "tone": 0.3,
    "hue_deg": 30.0,
    "grey_share": 0.2,
}
SIZE = 48


def tensors(arrays):
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


@pytest.fixture
def scene():
    """8 images with a person who is a disc, and the rest that an Appearance asks for."""
    random = torch.Generator().manual_seed(1)
    images = torch.rand(8, 3, SIZE, SIZE, generator=random)
    line = np.arange(64) - 31.5
    disc = np.hypot(line[:, None], line) < 14
    bits = torch.from_numpy(np.tile(np.packbits(disc.ravel()), (8, 1)))
    squares = torch.tensor([[32.0, 32.0, 64.0]]).repeat(8, 1)
    look = torch.rand(8, DRAWS, generator=random)
    return images, look, bits, squares, torch.full((8,), 64.0), torch.zeros(8)


def masks_of(scene):
    _, _, bits, squares, sizes, angle = scene
    return crop_person(bits, squares, sizes, SIZE, angle)


def test_off_draws_nothing_and_leaves_what_is_read_byte_equal(people):
    off, _ = stream(config_of(people["body"]))
    augment = CropAugmentConfig(**STRONG)
    on, _ = stream(config_of(people["body"], augment=augment))
    for before, after in zip(off, on, strict=True):
        assert set(after) - set(before) == {"look"}
        for name, values in before.items():
            np.testing.assert_array_equal(values, after[name])
        assert after["look"].shape[1] == DRAWS
        assert 0.4 < after["look"].mean() < 0.6


def test_no_key_no_appearance():
    assert open_appearance(CropAugmentConfig(), CPU) is None
    for name, value in STRONG.items():
        assert CropAugmentConfig(**{name: value}).draws == DRAWS


def test_images_are_equal_after_a_resume_and_on_two_processes(people):
    config = config_of(people["body"], augment=CropAugmentConfig(**STRONG))
    appearance = open_appearance(config.augment, CPU)
    assert appearance is not None
    whole, _ = stream(config, batch=2 * BLOCK, stop=3)
    late, _ = stream(config, batch=2 * BLOCK, start=2, stop=3, workers=1)
    shared, _ = stream(config, batch=2 * BLOCK, world=2, stop=3)
    images = [view(tensors(one), SIZE, appearance).images for one in whole]
    torch.testing.assert_close(
        view(tensors(late[0]), SIZE, appearance).images, images[2], rtol=0, atol=0
    )
    for batch, wanted in zip(shared, images, strict=True):
        halves = [
            view(tensors({k: v[part] for k, v in batch.items()}), SIZE, appearance).images
            for part in (slice(0, BLOCK), slice(BLOCK, 2 * BLOCK))
        ]
        torch.testing.assert_close(torch.cat(halves), wanted, rtol=0, atol=0)


def test_cameras_and_labels_stay(people):
    config = config_of(people["body"], augment=CropAugmentConfig(**STRONG))
    batch = tensors(stream(config, stop=1)[0][0])
    plain = view(batch, SIZE)
    seen = view(batch, SIZE, open_appearance(config.augment, CPU))
    for name in ("K", "rotation", "flip"):
        torch.testing.assert_close(getattr(seen, name), getattr(plain, name), rtol=0, atol=0)
    differs = (seen.require_images() - plain.require_images()).abs().mean((1, 2, 3))
    assert (differs > 0.01).float().mean() > 0.8


def test_rows_without_numbers_stay(people):
    config = config_of(people["body"])
    batch = tensors(stream(config, stop=1)[0][0])
    appearance = open_appearance(CropAugmentConfig(**STRONG), CPU)
    torch.testing.assert_close(view(batch, SIZE, appearance).images, view(batch, SIZE).images)


def test_background_changes_and_the_person_does_not(scene):
    images, *rest = scene
    out = Appearance(AppearanceKeys(background_share=1.0), CPU)(images.clone(), *rest)
    person = masks_of(scene)
    inside, outside = (person == 1).expand_as(images), (person == 0).expand_as(images)
    assert inside.float().mean() > 0.1
    torch.testing.assert_close(out[inside], images[inside], rtol=0, atol=0)
    assert (out - images)[outside].abs().mean() > 0.1
    assert out.min() >= 0
    assert out.max() <= 1


def test_a_batch_of_whom_nobody_is_chosen_stays(scene):
    """So it is with small shares and small batches, and with tones alone."""
    images, _, *rest = scene
    look = torch.full((len(images), DRAWS), 0.999)
    for name in ("background", "occluder", "truncate", "degrade"):
        keys = AppearanceKeys(**{f"{name}_share": 0.01})
        seen = Appearance(keys, CPU)(images.clone(), look, *rest)
        assert torch.equal(seen, images), name
    seen = Appearance(AppearanceKeys(grey_share=1.0), CPU)(images.clone(), look, *rest)
    assert torch.allclose(seen[:, 0], seen[:, 1], atol=1e-5)


def test_an_unknown_person_keeps_the_background(scene):
    images, look, bits, *rest = scene
    bits = bits.clone()
    bits[2] = 255
    out = Appearance(AppearanceKeys(background_share=1.0), CPU)(images.clone(), look, bits, *rest)
    assert [bool((a == b).all()) for a, b in zip(out, images, strict=True)] == [
        row == 2 for row in range(8)
    ]


def test_what_lies_beyond_the_image_stays_black(scene):
    images, look, bits, squares, sizes, angle = scene
    squares = squares + torch.tensor([32.0, 0.0, 0.0])  # the right half is beyond the edge
    inside = find_inside(squares, sizes, SIZE, angle)
    assert inside[:, :, :, : SIZE // 2].all()
    assert not inside[:, :, :, SIZE // 2 :].any()
    images = images * inside
    keys = AppearanceKeys(background_share=1.0)
    out = Appearance(keys, CPU)(images, look, bits, squares, sizes, angle)
    assert (out[:, :, :, SIZE // 2 :] == 0).all()


def test_inside_rotates_as_crops_do(scene):
    _, _, _, squares, sizes, _ = scene
    angle = torch.full((8,), math.pi / 4)
    share = find_inside(squares, sizes, 200, angle).float().mean()
    # Two unit squares, one rotated by 45 degrees, share an octagon of area 2 (sqrt 2 - 1).
    assert share == pytest.approx(2 * (math.sqrt(2) - 1), abs=0.01)


def test_masks_are_soft_over_about_a_cell(scene):
    found = masks_of(scene)
    line = (torch.arange(SIZE) + 0.5) * 64 / SIZE - 32
    radius = torch.hypot(line[:, None], line)
    assert (found[0, 0][radius < 12.5] == 1).all()
    assert (found[0, 0][radius > 15.5] == 0).all()


def test_occluders_and_bands_leave_half_of_the_person(scene):
    _, _, bits, squares, sizes, angle = scene
    keys = AppearanceKeys(occluder_share=1.0, truncate_share=1.0)
    person = masks_of(scene)
    appearance, random, hidden = Appearance(keys, CPU), torch.Generator().manual_seed(5), []
    for _ in range(30):
        look = torch.rand(8, DRAWS, generator=random)
        # Alike in no pixel: what is still there was hidden by nothing.
        images = 0.25 + 0.5 * torch.rand(8, 3, SIZE, SIZE, generator=random)
        out = appearance(images.clone(), look, bits, squares, sizes, angle)
        kept = (out == images).all(1, keepdim=True)
        hidden.append(1 - (person * kept).sum((1, 2, 3)) / person.sum((1, 2, 3)))
    hidden = torch.cat(hidden)
    # Pixels under a shape's soft edge have changed, but are not hidden.
    assert hidden.max() < 0.65
    assert hidden.mean() > 0.05
    assert (hidden > 0.35).any()


def test_hidden_share_is_at_most_a_half(scene):
    images, *_ = scene
    random = torch.Generator().manual_seed(2)
    person, donors = masks_of(scene), torch.arange(8).roll(1)
    shares = [
        hide_parts(
            images.clone(), torch.rand(8, 40, generator=random), torch.ones(8) > 0, donors, person
        )[1]
        for _ in range(40)
    ]
    assert torch.cat(shares).max() <= 0.5
    assert torch.cat(shares).max() > 0.4


def test_shapes_lie_where_their_numbers_say():
    u = torch.zeros(1, 9)
    u[0, :6] = torch.tensor([0.5, 0.5, 0.5, 0.0, 1.0, 1.0])  # a disc of radius .3 in the middle
    shape, _ = draw_shape(u, 100)
    assert shape.mean() == pytest.approx(math.pi * 0.3**2, rel=0.02)
    assert shape[0, 0, 50, 50] == 1


def test_a_gpu_works_on_all_rows_with_the_same_result(monkeypatch, scene):
    images, *rest = scene
    appearance = Appearance(AppearanceKeys(**STRONG), CPU)
    wanted = appearance(images.clone(), *rest)

    def choose_all(chosen):
        return torch.arange(len(chosen))

    def put_all(images, rows, chosen, changed):
        assert len(rows) == len(images)
        return torch.where(chosen.reshape(-1, *[1] * (images.dim() - 1)), changed, images)

    for module in ("appearance", "occluders", "degrade"):
        monkeypatch.setattr(f"data.loading.{module}.choose_rows", choose_all)
        monkeypatch.setattr(f"data.loading.{module}.put_rows", put_all)
    torch.testing.assert_close(appearance(images.clone(), *rest), wanted)


def test_put_rows_puts_the_chosen():
    images, chosen = torch.zeros(4, 2), torch.tensor([True, False, True, False])
    rows = choose_rows(chosen)
    assert put_rows(images, rows, chosen, torch.ones(2, 2)).sum(1).tolist() == [2, 0, 2, 0]


def test_blur_keeps_brightness_and_smooths(scene):
    images = torch.full((4, 3, SIZE, SIZE), 0.3)
    u = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(blur(images, u), images)
    assert blur(scene[0][:4], u).std() < scene[0][:4].std()


def test_blocks_keep_flat_colours_near_and_images_that_fit_no_cells():
    images = torch.tensor([0.2, 0.5, 0.7])[None, :, None, None].expand(2, 3, 20, 20)
    out = add_blocks(images, torch.tensor([[0.0] * 4, [1.0] * 4]))
    # Half a step of .02 and of .14, over 8 for the first wave of a cell; differences of colour have
    # twice the step and come back by up to 1.772.
    assert (out[0] - images[0]).abs().max() < 0.01
    assert (out[1] - images[1]).abs().max() < 0.06


def test_tone_turns_hues_about_grey():
    u = torch.full((1, 8), 0.5)
    u[0, 3] = 1.0
    red = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 2, 2)
    found = change_tone(red, u, 0.0, 2 * math.pi / 3, 0.0)[0, :, 0, 0]
    assert sorted(found.tolist()) == pytest.approx([0, 0, 1], abs=1e-6)
    assert found[0] == pytest.approx(0, abs=1e-6)
    grey = torch.full((1, 3, 2, 2), 0.4)
    torch.testing.assert_close(change_tone(grey, u, 0.0, 1.0, 0.0), grey)
    u[0, 4] = 0.0
    torch.testing.assert_close(
        change_tone(red, u, 0.0, 0.0, 1.0), torch.full_like(red, 0.299), rtol=0, atol=1e-6
    )


def test_drawn_backdrops_are_always_the_same_and_differ():
    images = draw_backdrops(16, 32)
    np.testing.assert_array_equal(images, draw_backdrops(16, 32))
    means = images.reshape(16, -1, 3).mean(1)
    assert np.unique(means.round(), axis=0).shape[0] == 16


def test_photographs_are_cut_square_and_come_behind_people(tmp_path, scene):
    for number, colour in enumerate(((250, 10, 10), (10, 250, 10))):
        Image.new("RGB", (300, 100), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    bank = read_photos(str(tmp_path))
    assert bank.shape == (2, 160, 160, 3)
    assert bank[0, 0, 0].tolist() == [250, 10, 10]
    assert len(read_photos(str(tmp_path), most=1)) == 1
    images, look, *rest = scene
    look = look.clone()
    look[:, 2] = torch.linspace(0, 0.49, 8)  # all from photographs
    keys = AppearanceKeys(background_share=1.0, backgrounds=str(tmp_path))
    out = Appearance(keys, CPU)(images, look, *rest)[:, :, 0, 0]
    assert (out[:, 2] < 0.1).all()
    assert ((out[:, 0] > 0.5) ^ (out[:, 1] > 0.5)).all()


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.augment\.backgrounds=.* holds no image"):
        read_photos(str(tmp_path))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of its images can be read"):
        read_photos(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        open_appearance(
            dataclasses.replace(
                CropAugmentConfig(), background_share=0.5, backgrounds=str(tmp_path / "none")
            ),
            CPU,
        )


@pytest.fixture
def pairs(scene):
    """8 rows of a target and a reference, and the rest that change_pairs asks for."""
    images, look, bits, squares, sizes, _ = scene
    images = torch.stack([images, images.flip(0)], 1)
    return images, look, torch.stack([bits, bits], 1), torch.stack([squares, squares], 1), sizes


def test_both_images_of_a_pair_get_one_backdrop_or_each_its_own(scene, pairs):
    images, look, *rest = pairs
    # Smooth images, so that a backdrop moved a little still resembles itself.
    images = torch.rand(8, 1, 3, 3, 3, generator=torch.Generator().manual_seed(3)).flatten(0, 1)
    images = torch.nn.functional.interpolate(images, size=SIZE, mode="bilinear")
    images = torch.stack([images, images.roll(1, 0)], 1)
    outside = (masks_of(scene) == 0).expand(8, 3, SIZE, SIZE)
    appearance = Appearance(AppearanceKeys(background_share=1.0), CPU)
    look[:, 2], apart = 0.9, []  # pieces of other images
    for own in (0.0, 0.99):
        look[:, 16] = 1 - own
        out = appearance.change_pairs(images.clone(), look, *rest)
        assert (out - images).abs()[:, 0][outside].mean() > 0.02
        inside = (masks_of(scene) == 1).expand(8, 3, SIZE, SIZE)
        for number in (0, 1):
            torch.testing.assert_close(
                out[:, number][inside], images[:, number][inside], rtol=0, atol=0
            )
        apart.append((out[:, 0] - out[:, 1]).abs()[outside].mean())
    assert apart[0] < 0.5 * apart[1]


def test_a_pair_with_an_unknown_person_stays(pairs):
    images, look, bits, *rest = pairs
    bits = bits.clone()
    bits[3, 1] = 255
    appearance = Appearance(AppearanceKeys(background_share=1.0), CPU)
    out = appearance.change_pairs(images.clone(), look, bits, *rest)
    assert [torch.equal(a, b) for a, b in zip(out, images, strict=True)] == [
        row == 3 for row in range(8)
    ]


def test_photographs_that_nobody_is_put_before_are_told():
    for keys in (CropAugmentConfig, AppearanceKeys):
        with pytest.raises(UserError, match=r"backgrounds=photos, but .*background_share=0: set"):
            keys(backgrounds="photos").check()
        keys(backgrounds="photos", background_share=0.5).check()


def test_pre_training_reads_the_same_with_and_without_backgrounds(people):
    def read(**given):
        config = DataConfig(
            shards=str(people["body"]),
            val_clips=0,
            kinds=KindShares(1.0, 0.0),
            augment=AugmentConfig(**given),
        )
        loader = open_loader(open_order(config, 8, 3), config, 16, 0, 1, 0)
        arrays = {k: v.copy() for k, v in next(loader.batches(0, 1))[1].items()}
        loader.close()
        return arrays

    off, on = read(), read(background_share=0.5)
    assert set(on) - set(off) == {"look"}
    for name, values in off.items():
        np.testing.assert_array_equal(values, on[name])


def test_what_is_painted_over_people_is_known(scene):
    """Where nothing is painted the image stays, and elsewhere it changes."""
    images, look, bits, squares, sizes, angle = scene
    keys = AppearanceKeys(occluder_share=0.7, truncate_share=0.5)
    appearance = Appearance(keys, CPU)
    changed = appearance(images.clone(), look, bits, squares, sizes, angle)
    clear = appearance.find_clear(look, bits, squares, sizes, angle, SIZE)[:, 0]
    same = (changed - images).abs().amax(1) < 1e-6
    assert same[clear == 1].all()
    assert (clear == 0).sum() > 200 and same[clear == 0].float().mean() < 0.01
    assert (clear == 1).sum() > 2000
    off = Appearance(AppearanceKeys(tone=0.2), CPU)
    assert (off.find_clear(look, bits, squares, sizes, angle, SIZE) == 1).all()
