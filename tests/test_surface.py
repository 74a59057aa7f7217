"""Which part of the body each spot of a synthetic crop shows: maps against the mesh, what two
images share against a depth buffer made here, and masks where the reference sees them."""

import dataclasses
import shutil
import tarfile

import numpy as np
import pytest
import torch
from clips import make_clip, write_shards
from runs import outcome, words

from data.config import DataConfig
from data.cropping.batch import crop_squares
from data.format.clip import decode_meta, encode
from data.format.label_files import load_arrays, save_arrays
from data.format.surface import STEP_PX, SurfaceMaps, pack_surface, read_surface
from data.format.verify import check_shard
from data.loading.build import open_loader, open_order
from data.people.config import PeopleConfig, hash_recipe
from data.people.template import load_template
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from engine.geometry import project
from pretrain import surface
from pretrain.config import PretrainConfig
from pretrain.masking import choose, choose_blocks
from pretrain.train import make_trainer, train

SEEN = ["objective.masks=seen", "data.pairs.angle_max_deg=180", "data.workers=0"]
TRAIN = "pretrain train"
SIZE = 64  # of the people of conftest


@pytest.fixture(scope="module")
def drawn(people, bodies):
    """[(Clip, SurfaceMaps, (T, V, 3) vertices of the undressed body, instant of each crop)]."""
    found = {}
    with tarfile.open(sorted(people["body"].glob("*.tar"))[0]) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            found.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    out = []
    for key, members in list(found.items())[:6]:
        clip, labels = decode_meta(members["json"], key), load_arrays(members["labels.npz"])
        maps = read_surface(members["surface.npz"], len(clip.crops), clip.size)
        parts = [torch.from_numpy(labels[name]) for name in ("pose", "root")]
        rest = [torch.from_numpy(labels[name])[None] for name in ("phenotype", "face")]
        with torch.inference_mode():
            vertices = bodies["anny"](*parts, *rest)[0].double().numpy()
        out.append((clip, maps, vertices, labels["instant"].astype(int)))
    return out


@pytest.fixture(scope="module")
def faces():
    """(F, 3) triangles of the undressed body, by its own vertices' numbers."""
    template = load_template()
    number = np.full(len(template.rest), -1)
    number[template.body] = np.arange(len(template.body))
    return number[template.faces[: template.body_faces]]


def see(points, faces, crop, fine=2):
    """(P,) bool: which vertices a camera sees, by a depth buffer of points on all triangles."""
    K, Rt = np.array(crop.K), np.array(crop.Rt)
    spread = [(i / 3, j / 3, (3 - i - j) / 3) for i in range(4) for j in range(4 - i)]
    surface_points = np.concatenate(
        [sum(w * points[faces[:, k]] for k, w in enumerate(ws)) for ws in spread]
    )
    xy, z = project(surface_points, K, Rt)
    side = SIZE * fine
    depth = np.full((side, side), np.inf)
    cells = np.floor(xy * fine).astype(int)
    inside = (cells >= 0).all(1) & (cells < side).all(1) & (z > 0)
    np.minimum.at(depth, (cells[inside, 1], cells[inside, 0]), z[inside])
    xy, z = project(points, K, Rt)
    cells = np.floor(xy * fine).astype(int)
    inside = (cells >= 0).all(1) & (cells < side).all(1)
    x, y = cells.clip(0, side - 1).T
    eye = -Rt[:, :3].T @ Rt[:, 3]
    towards = (find_normals(points, faces) * (eye - points)).sum(1) > 0
    return inside & towards & (z < depth[y, x] + 0.04)


def find_normals(points, faces):
    normals = np.zeros_like(points)
    a, b, c = (points[faces[:, k]] for k in range(3))
    for k in range(3):
        np.add.at(normals, faces[:, k], np.cross(b - a, c - a))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def test_spots_show_the_vertex_that_is_drawn_there_and_its_normal(drawn, faces):
    away, turned, hidden = [], [], []
    for clip, maps, vertices, instants in drawn:
        for crop, vertex, normal, instant in zip(
            clip.crops, maps.vertex, maps.normal, instants, strict=True
        ):
            i, j = np.nonzero(vertex)
            which = vertex[i, j].astype(int) - 1
            K, Rt = np.array(crop.K), np.array(crop.Rt)
            points = vertices[instant]
            xy, _ = project(points[which], K, Rt)
            spot = np.stack([j, i], 1) * STEP_PX + STEP_PX / 2
            away.append(np.abs(xy - spot).max(1))
            of_mesh = find_normals(points, faces)[which] @ Rt[:, :3].T
            stored = normal[i, j].astype(float)
            assert np.abs(np.linalg.norm(stored, axis=1) - 127).max() < 1.5
            assert not normal[vertex == 0].any()
            turned.append((of_mesh * stored).sum(1) / 127)
            hidden.append(~see(points, faces, crop)[which])
    away, turned, hidden = (np.concatenate(parts) for parts in (away, turned, hidden))
    assert len(away) > 1000
    assert np.median(away) < 1 and np.quantile(away, 0.95) < 3  # pixels; cloth stands off the body
    assert np.median(turned) > 0.95 and np.quantile(turned, 0.1) > 0.6
    assert hidden.mean() < 0.1


def whole(maps, size=SIZE):
    numbers = torch.tensor([[size / 2, size / 2, size, 1, 1, 1]]).expand(len(maps), -1)
    return surface.crop_maps(maps, numbers, torch.full((len(maps),), size), (32, 32))


def test_what_two_images_share_is_what_both_cameras_see(drawn, faces):
    found, wanted = [], []
    for clip, maps, vertices, instants in drawn:
        spots = surface.split_patches(whole(torch.from_numpy(maps.vertex.astype(np.int16))), (8, 8))
        both = zip(clip.crops, instants, strict=True)
        views = [see(vertices[instant], faces, crop) for crop, instant in both]
        for a, b in [(0, 2), (2, 0), (1, 3), (3, 1)]:
            assert instants[a] == instants[b]
            share, known = surface.share_seen(
                spots[a, None], spots[b, None], *surface.read_regions()
            )
            which = spots[a].numpy().astype(int)
            assert np.array_equal(known[0].numpy(), which.any(1)) and not share[0][~known[0]].any()
            seen = views[b][np.maximum(which - 1, 0)] & (which > 0)
            several = (which > 0).sum(1) >= 4
            found += share[0].numpy()[several].tolist()
            wanted += (seen.sum(1) / np.maximum((which > 0).sum(1), 1))[several].tolist()
    found, wanted = np.array(found), np.array(wanted)
    assert len(found) > 150 and 0.2 < wanted.mean() < 0.9
    assert np.corrcoef(found, wanted)[0, 1] > 0.65
    assert abs(found.mean() - wanted.mean()) < 0.1 and np.abs(found - wanted).mean() < 0.17
    # Shares of other patches are no such match.
    assert np.abs(found - np.roll(wanted, 17)).mean() > 1.5 * np.abs(found - wanted).mean()


def test_an_image_shares_all_with_itself_and_nothing_with_the_other_side(drawn):
    clip, maps, _, _ = drawn[0]
    spots = surface.split_patches(whole(torch.from_numpy(maps.vertex.astype(np.int16))), (8, 8))
    tables = surface.read_regions()
    share, known = surface.share_seen(spots, spots, *tables)
    assert torch.equal(share, known.float())
    nothing, _ = surface.share_seen(spots, torch.zeros_like(spots), *tables)
    assert not nothing.any()
    # Front and back of the resting body, as two images.
    template = load_template()
    points = template.rest[template.body]
    torso = np.nonzero((np.abs(points[:, 0]) < 0.1) & (np.abs(points[:, 2] - 1.15) < 0.1))[0] + 1
    front, back = (torso[points[torso - 1, 1] * side > 0.05] for side in (-1, 1))
    of_front, of_back = (torch.from_numpy(part)[None, None] for part in (front, back))
    assert len(front) > 10 and len(back) > 10
    assert surface.share_seen(of_front, of_back, *tables)[0] == 0
    assert surface.share_seen(of_front, of_front[..., ::2], *tables)[0] == 1


def test_regions_are_the_nearest_of_points_that_are_far_apart():
    points = np.random.default_rng(0).random((500, 3))
    region, middles = surface.find_regions(points, 20)
    far = np.linalg.norm(points[:, None] - points[middles], axis=2)
    assert np.array_equal(region, far.argmin(1))
    for count in range(1, 20):  # each is the farthest from those before
        before = far[:, :count].min(1)
        assert before[middles[count]] == before.max()


def test_maps_follow_the_crop_and_the_mirror_of_their_image():
    """An image painted with its map, cropped as images are, shows the cropped map."""
    rng = torch.Generator().manual_seed(0)
    maps = torch.randint(1, 200, (3, 32, 32), generator=rng).to(torch.int16)
    pixels = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].float()
    numbers = torch.tensor(
        [[32, 32, 32, 1, 1, 1], [20, 40, 32, 1, 1, 1], [60, 10, 32, 1, 1, 1]], dtype=torch.float32
    )
    sizes = torch.full((3,), 64)
    found = surface.crop_maps(maps, numbers, sizes, 32)
    wanted = crop_squares(pixels, numbers[:, :3], 32)[:, 0]
    torch.testing.assert_close(found.float(), wanted, atol=1e-3, rtol=0)
    assert not found[2, :, -8:].any()  # beyond the image
    normals = torch.stack([maps, maps + 1, maps + 2], 3)
    assert torch.equal(surface.crop_maps(normals, numbers, sizes, 32)[..., 0], found)
    mirrored = torch.cat([64 - numbers[:, :1], numbers[:, 1:]], 1)
    flipped = surface.crop_maps(maps.flip(2), mirrored, sizes, 32)
    assert torch.equal(flipped, found.flip(2))
    # Of a rectangle the middle of the square; smaller images lie in the top left corner.
    middle = surface.crop_maps(maps, numbers, sizes, (32, 16))
    assert torch.equal(middle, found[:, :, 8:24])
    small = surface.crop_maps(maps, numbers, torch.tensor([64, 64, 62]), 32)
    assert not small[2, :, 18:].any() and torch.equal(small[2, :, :18], found[2, :, :18])
    patches = surface.split_patches(found, (8, 8))
    assert torch.equal(patches[1, 10], found[1, 4:8, 8:12].flatten())


def test_members_are_checked_and_those_who_do_not_know_them_pass_over(tmp_path):
    clip = make_clip(0, size=64)
    count, side = len(clip.crops), 64 // STEP_PX
    maps = SurfaceMaps(
        np.arange(count * side * side).reshape(count, side, side).astype(np.uint16),
        np.ones((count, side, side, 3), np.int8),
    )
    clip = dataclasses.replace(clip, surface=maps)
    members = encode(clip)
    back = read_surface(members["surface.npz"], count, 64)
    assert np.array_equal(back.vertex, maps.vertex) and np.array_equal(back.normal, maps.normal)
    plain = encode(dataclasses.replace(clip, surface=None))
    assert {name: data for name, data in members.items() if name in plain}.keys() == plain.keys()
    assert all(members[name] == data for name, data in plain.items() if name != "json")
    assert decode_meta(members["json"], "a").crops == decode_meta(plain["json"], "a").crops
    with pytest.raises(UserError, match=r"vertex is \(.*\) of uint16, not \(.* 28, 28\)"):
        encode(dataclasses.replace(clip, size=56))
    with pytest.raises(ValueError, match="vertex is up to 13719, the body has 13718"):
        pack_surface(SurfaceMaps(maps.vertex * 0 + 13719, maps.normal), count, 64)
    arrays = load_arrays(members["surface.npz"])
    newer = save_arrays(arrays | {"version": np.array([2], np.uint8)})
    with pytest.raises(UserError, match="version 2; this software reads up to version 1"):
        read_surface(newer, count, 64)
    with pytest.raises(ValueError, match="lacks 'normal"):
        read_surface(save_arrays({k: arrays[k] for k in ("version", "vertex")}), count, 64)
    write_shards(tmp_path, [clip], 1)
    shard = next(tmp_path.glob("*.tar"))
    assert not check_shard(str(shard)).problems and not check_shard(str(shard)).notes


def test_the_same_people_are_made_with_and_without():
    usual = PeopleConfig(out="none")
    assert hash_recipe(dataclasses.replace(usual, surface=True)) == hash_recipe(usual)
    with pytest.raises(UserError, match="size=65 to be a multiple of 2"):
        dataclasses.replace(usual, surface=True, size=65).check()


def read_batches(folder, with_maps, references=True):
    config = DataConfig(shards=str(folder), val_clips=4)
    config.pairs.angle_max_deg = 180
    order = open_order(config, 8, 5)
    loader = open_loader(
        order, config, 9, 0, 1, 0, targets=2, references=references, surface=with_maps
    )
    out = [{k: v.copy() for k, v in arrays.items()} for _, arrays in loader.batches(0, 2)]
    loader.close()
    return out


def test_batches_hold_the_maps_of_their_crops_and_are_else_the_same(people, drawn):
    plain, found = read_batches(people["body"], False), read_batches(people["body"], True)
    alone = read_batches(people["body"], True, references=False)
    for one, other, mae in zip(plain, found, alone, strict=True):
        assert other.keys() - one.keys() == {"vertex", "normal"}
        assert all(np.array_equal(values, other[name]) for name, values in one.items())
        assert np.array_equal(mae["vertex"], other["vertex"])  # the reference's too
        # A map lies on its image's person.
        masks = np.unpackbits(other["mask"].reshape(8, 3, 64, 8), axis=3)
        on_it = (other["vertex"] > 0).repeat(2, 2).repeat(2, 3)
        assert (masks * on_it).sum() > 0.85 * on_it.sum() > 0


def test_clips_without_maps_have_none_in_batches(tmp_path, people):
    write_shards(tmp_path, [make_clip(i, size=56) for i in range(20)], 10)
    assert not any(arrays["vertex"].any() for arrays in read_batches(tmp_path, True))


def open_objective(folder, shards, *more):
    config = parse(PretrainConfig, words(folder, shards, *more), TRAIN)
    trainer = make_trainer(config, Processes(0, 1, torch.device("cpu")))
    batch = trainer.task.to_device(next(iter(trainer.loader.batches(0, 1)))[1])
    trainer.close()
    return trainer.task.objective, batch


@pytest.mark.parametrize("block", [1, 2])
def test_patches_are_masked_where_the_reference_sees_them(tmp_path, people, block):
    keys = [*SEEN, f"masking.block={block}", "masking.ratio=0.6"]
    objective, batch = open_objective(tmp_path / "run", people["body"], *keys)
    mae, _ = open_objective(tmp_path / "mae", people["body"], *keys, "model.decoder.cross=false")
    _, _, keep, masked, person, _ = objective.pairs(batch)
    share, known = objective.share_seen(batch)
    assert known.any() and 0 < share[known].mean() < 1
    noise = batch["noise"].unflatten(1, (2, -1))[:, 0]
    if block == 1:
        wanted = choose(noise + share, person, 0.6, 0.0, 8)
    else:
        wanted = choose_blocks(noise, person, (6, 6), 2, 0.6, 0.0, 8, share)
        other = choose_blocks(noise, person, (6, 6), 2, 0.6, 0.0, 8)
        assert not torch.equal(wanted[1], other[1])
    for one, said in zip((keep, masked), wanted, strict=True):
        assert torch.equal(one, said)
    assert share.gather(1, masked).mean() > share.gather(1, keep).mean() + 0.05
    # The MAE beside it masks the same.
    of_mae = mae.pairs(batch)[2:4]
    assert torch.equal(of_mae[0], keep) and torch.equal(of_mae[1], masked)
    # Without maps, masks are those of any run.
    blank = {**batch, "vertex": torch.zeros_like(batch["vertex"])}
    plain = choose_blocks(noise, person, (6, 6), block, 0.6, 0.0, 8)
    assert all(torch.equal(x, y) for x, y in zip(objective.pairs(blank)[2:4], plain, strict=True))


def test_other_references_leave_the_masks_as_they_are(tmp_path, people):
    masks = []
    for kind in ("own", "shuffled", "same"):
        keys = [*SEEN, f"objective.references={kind}"]
        objective, batch = open_objective(tmp_path / kind, people["body"], *keys)
        masks.append(objective.pairs(objective.choose_references(batch))[3])
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])


def test_a_run_resumes_exactly(tmp_path, people):
    keys = [*SEEN, "steps=4", "checkpoint.every=2"]
    whole_run, half = tmp_path / "whole", tmp_path / "half"
    assert train(parse(PretrainConfig, words(whole_run, people["body"], *keys), TRAIN)) == 0
    shutil.copytree(whole_run, half)
    shutil.rmtree(half / "checkpoints/step-00000004")
    assert train(parse(PretrainConfig, words(half, people["body"], *keys), TRAIN)) == 0
    assert outcome(half)[:3] == outcome(whole_run)[:3]
