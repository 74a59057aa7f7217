"""What a clip is: there and back, and what is refused by name."""

import json

import numpy as np
import pytest
from clips import disc, make_clip

from data.format.clip import FORMAT, decode_masks, decode_meta, encode
from data.format.label_files import load_arrays
from engine.errors import UserError


def meta_of(clip, **changes):
    """The JSON member of a clip with some fields replaced."""
    return json.dumps({**json.loads(encode(clip)["json"]), **changes}).encode()


def test_a_clip_comes_back_as_it_was():
    clip = make_clip(4, views=3, instants=2, kinds=("body", "right_hand"), labels=True)
    members = encode(clip)
    assert sorted(members) == [f"{i:02d}.jpg" for i in range(12)] + [
        "json",
        "labels.npz",
        "masks.bin",
    ]
    back = decode_meta(members["json"], "a/shard-000000.tar:clip00004")
    assert (back.key, back.source, back.licence) == ("clip00004", "synthetic", "CC0-1.0")
    assert (back.subject, back.size) == ("person1", 64)
    for one, other in zip(clip.crops, back.crops, strict=True):
        assert (one.camera, one.time_s, one.kind, one.box) == (
            other.camera,
            other.time_s,
            other.kind,
            other.box,
        )
        np.testing.assert_allclose(other.K, one.K, atol=1e-6)
        np.testing.assert_allclose(other.Rt, one.Rt, atol=1e-9)
    np.testing.assert_allclose(back.overlap, clip.overlap, atol=5e-5)
    assert (decode_masks(members["masks.bin"], 12) == clip.masks).all()
    np.testing.assert_array_equal(
        load_arrays(members["labels.npz"])["joints"], clip.labels["joints"]
    )


def test_mask_bits_run_row_by_row_from_the_high_bit():
    clip = make_clip(0, views=2, instants=1)
    clip.masks = np.zeros((2, 64, 64), bool)
    clip.masks[1, 2, 9] = True
    data = encode(clip)["masks.bin"]
    assert len(data) == 1024
    assert {i: byte for i, byte in enumerate(data) if byte} == {512 + 2 * 8 + 1: 0b01000000}


def test_a_clip_may_lack_cameras_masks_overlap_and_labels():
    clip = make_clip(0, calibrated=False, masks=False)
    clip.overlap, clip.crops[0].box = None, None
    members = encode(clip)
    back = decode_meta(members["json"], "x")
    assert "masks.bin" not in members and "labels.npz" not in members
    assert (
        back.crops[0].K is None
        and back.crops[0].Rt is None
        and back.crops[0].box is None
        and back.overlap is None
    )


def test_equal_clips_are_equal_bytes():
    assert encode(make_clip(3, labels=True)) == encode(make_clip(3, labels=True))


def test_a_newer_format_is_refused_by_name():
    with pytest.raises(
        UserError,
        match=rf"s.tar:k has clip format {FORMAT + 1}; this software reads up to format {FORMAT}",
    ):
        decode_meta(meta_of(make_clip(0), format=FORMAT + 1), "s.tar:k")


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda c: setattr(c, "key", "walk.01"), "clip key 'walk.01'.*no dots"),
        (lambda c: setattr(c, "key", "a/b"), "no slashes"),
        (lambda c: c.jpegs.pop(), "4 crops and 3 images"),
        (
            lambda c: setattr(c, "masks", np.stack([disc()] * 3)),
            r"masks of shape \(3, 64, 64\) for 4 crops",
        ),
        (
            lambda c: setattr(c, "overlap", np.full((4, 4), 1.5)),
            "clip00000: overlap spans 1.5 to 1.5",
        ),
        (lambda c: setattr(c, "overlap", np.eye(3)), r"overlap has shape \(3, 3\), not \(4, 4\)"),
        (
            lambda c: setattr(c.crops[2], "kind", "foot"),
            "crop 2 has kind 'foot', none of body, left_hand, right_hand",
        ),
        (lambda c: setattr(c.crops[1], "K", [[1, 0], [0, 1]]), "K is not numbers of shape"),
        (
            lambda c: [setattr(x, "Rt", np.eye(3)) for x in c.crops],
            r"Rt has shape \(3, 3\), not \(3, 4\)",
        ),
        (
            lambda c: setattr(c.crops[0], "K", np.zeros((3, 3))),
            "K has a focal length that is not above 0",
        ),
        (lambda c: setattr(c.crops[0], "Rt", np.zeros((3, 4))), "Rt is not a rotation"),
        (lambda c: setattr(c.crops[0], "time_s", float("nan")), "crop 0 has time_s nan"),
        (
            lambda c: setattr(c.crops[3], "Rt", np.column_stack([np.eye(3), [0, np.inf, 0]])),
            "Rt holds numbers that are not finite",
        ),
        (lambda c: setattr(c.crops[0], "box", [0, 1, 2]), r"box (is not numbers of|has) shape"),
        (lambda c: setattr(c, "subject", None), "not all text"),
    ],
)
def test_what_cannot_be_read_is_not_written(change, words):
    clip = make_clip(0)
    change(clip)
    with pytest.raises(UserError, match=words):
        encode(clip)


@pytest.mark.parametrize(
    "data,words",
    [
        (b"{", "Expecting"),
        (b'{"format": "\xff"}', "decode"),
        (b"[]", "no 'format'"),
        (b'{"format": "1"}', "no 'format'"),
        (b'{"format": 1}', "lacks 'crops'"),
        (b'{"format": 1, "crops": [3, 4]}', "not a list of objects"),
    ],
)
def test_bytes_that_are_no_clip_are_a_value_error(data, words):
    with pytest.raises(ValueError, match=words):
        decode_meta(data, "s.tar:k")


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"size": 64.5}, "size is 64.5"),
        ({"crops": []}, "0 crops"),
        ({"overlap": "much"}, "overlap is not numbers"),
        ({"overlap": [[1, float("nan")], [0, 1]]}, "overlap has shape"),
        ({"overlap": [[1, float("nan"), 0, 0]] * 4}, "overlap spans nan to nan"),
        (
            {
                "crops": [
                    {
                        "camera": "a",
                        "time_s": t,
                        "kind": "body",
                        "K": [["9", 0, 3], [0, 9, 3], [0, 0, 1]],
                    }
                    for t in range(4)
                ]
            },
            "crop 0 has K, Rt or box that is not made of numbers",
        ),
    ],
)
def test_fields_that_make_no_sense_are_a_value_error(changes, words):
    clip = make_clip(0)
    if changes.get("crops") == []:
        changes = {**changes, "overlap": None}
    with pytest.raises(ValueError, match=words):
        decode_meta(meta_of(clip, **changes), "s.tar:k")


def test_masks_and_labels_of_another_length_are_a_value_error():
    members = encode(make_clip(0, labels=True))
    with pytest.raises(ValueError, match="masks.bin has 2048 bytes, 5 crops need 2560"):
        decode_masks(members["masks.bin"], 5)
    for data in (b"", b"\x93NUMPY", members["labels.npz"][:-40], members["labels.npz"][:60]):
        with pytest.raises(ValueError, match=r"labels\.npz"):
            load_arrays(data)
