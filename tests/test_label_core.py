"""What all labelled datasets share: parts and progress, clips of several cameras and instants,
turned images, images in archives, and labels that no loss could use."""

import io
import tarfile
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image
from test_labelled import clips_of

from data.format.label_stack import stack_labels
from data.format.labels import BodyParameters, CropLabels, Joints, Keypoints
from data.sources.label_cut import cut_person, read_pixels
from data.sources.label_shards import CutStyle, _Plan, main
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource, archives
from data.sources.labelled.rows import Rows, spread_places
from engine.errors import UserError
from slurm.submit import job_specs
from slurm.submit.cli_args import Line

STYLE = CutStyle("toy", "CC0-1.0", 64, 1.0, 92)
K = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]])


def encode(pixels, suffix=".png"):
    return cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()


def person(number=0, **changes):
    fields = {
        "image": encode(np.full((100, 100, 3), 90, np.uint8)),
        "clip": f"c{number}",
        "subject": f"s{number}",
        "box": np.array([20.0, 20, 80, 80]),
    }
    return LabelledImage(**{**fields, **changes})


@pytest.fixture
def reader():
    """Register a reader of some people under the name toy."""

    def register(people):
        class Toy(LabelledSource):
            def read(self):
                yield from self.follow(people)

        LABELLED["toy"] = Toy

    yield register
    LABELLED.pop("toy", None)


def test_parts_write_what_one_command_writes(tmp_path, reader):
    reader([person(number) for number in range(5)])

    def run(folder, *words):
        keys = [f"out={tmp_path / folder}", f"root={tmp_path}", "clips_per_shard=1", "size=64"]
        assert main(["toy", *keys, *words]) == 0
        return {path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.tar")}

    whole = run("one")
    assert len(whole) == 5
    assert sorted(run("two", "part=2/2")) == ["shard-000001.tar", "shard-000003.tar"]
    (tmp_path / "two" / "shard-000000.tar.writing-999999999").write_bytes(b"")
    (tmp_path / "two" / "shard-000001.tar.writing-999999999").write_bytes(b"")
    run("two", "part=2/2")
    # The first may be another machine's; the second can only be what this part left.
    left = [path.name for path in (tmp_path / "two").glob("*.writing-*")]
    assert left == ["shard-000000.tar.writing-999999999"]
    assert run("two", "part=1/2") == whole
    with pytest.raises(UserError, match="part=3/2 is not of the form K/N"):
        run("three", "part=3/2")


def test_the_time_left_is_known_from_how_far_the_reader_is(tmp_path, reader):
    reader([person(number) for number in range(8)])
    source = LABELLED["toy"](out=str(tmp_path), root=str(tmp_path), clips_per_shard=2)
    plan = _Plan(source)
    assert plan.estimate() is None
    totals = []
    for _ in plan.list_tasks():
        totals.append(plan.estimate())
    assert totals[-1] == 8 and all(6 <= total <= 16 for total in totals)
    (tmp_path / "shard-000001.tar").write_bytes(b"")
    plan = _Plan(LABELLED["toy"](out=str(tmp_path), root=str(tmp_path), clips_per_shard=2))
    assert len(list(plan.list_tasks())) == 3 and plan.estimate() == 6


def test_rows_within_rows_tell_how_far_a_reader_is():
    rows, shares = Rows(), []
    for outer in rows.follow([3, 1]):
        for _ in rows.follow(range(outer)):
            shares.append(rows.share)
    np.testing.assert_allclose(shares, [0, 1 / 6, 1 / 3, 1 / 2])
    assert rows.share == 1


def test_a_few_rows_come_from_all_over():
    assert sorted(spread_places(5, 9)) == [0, 1, 2, 3, 4]
    places = spread_places(100_000, 400)
    assert len(set(places)) == 400
    assert np.diff(np.sort(places[:10])).max() < 20_000 and min(places[:10]) < 10_000
    rows, seen = Rows(spread=True), []
    for outer in rows.follow(range(1000)):
        for inner in rows.follow(range(1000)):
            seen.append((outer, inner))
            rows.enough = True
    assert len(seen) == 400 and len({inner for _, inner in seen}) > 5


def test_the_old_key_says_the_new_one(tmp_path):
    with pytest.raises(
        UserError, match="'source' in the command line has another name now: .*root"
    ):
        main(["coco", f"out={tmp_path}", f"source={tmp_path}"])


def test_crops_of_several_cameras_share_an_instant():
    def labels(instant, visible=None):
        joints = Joints("hand21", np.full((21, 3), instant), np.ones(21), visible)
        body = BodyParameters("mano", "right", {"pose": np.full((16, 3), instant)})
        return CropLabels(joints=joints, body=body)

    seen = np.full(21, 2, np.uint8)
    crops = [labels(0, seen), labels(0, seen - 1), labels(1, seen), labels(1, seen)]
    stacked = stack_labels(crops, [0.0, 0.0, 0.5, 0.5])
    assert stacked.instant.tolist() == [0, 0, 1, 1]
    assert stacked.joints.points.shape == (2, 21, 3)
    assert stacked.joints.visible.shape == (4, 21)
    assert stacked.at(1).joints.visible.tolist() == [1] * 21
    assert stacked.at(3).body.parameters["pose"][0, 0] == 1
    # Cameras that do not agree, or a data set without a clock: each crop by itself.
    for other in ([labels(0), labels(1)], [labels(0), CropLabels()]):
        assert stack_labels(other, [0.0, 0.0]).instant.tolist() == [0, 1]


def test_a_person_whose_labels_are_not_finite_is_left_out_and_counted(tmp_path, reader, capsys):
    points = np.full((17, 2), 50.0)
    hole = points.copy()
    hole[3] = np.nan
    unlabelled = (np.arange(17) != 3).astype(float)
    nan = np.full((16, 3), np.nan)

    def keypoints(points, confidence):
        return CropLabels(keypoints=Keypoints("coco17", points, confidence))

    reader(
        [
            person(0, labels=keypoints(hole, unlabelled)),  # nothing wrong: it is not labelled
            person(1, labels=keypoints(hole, np.ones(17)), name="1.png"),
            person(2, labels=keypoints(hole, np.ones(17)), name="2.png"),
            person(3, box=np.array([np.nan, 0, 60, 60])),
            person(4, box=np.array([500.0, 500, 600, 600])),
            person(5, K=np.diag([0.0, 100, 1])),
            person(6, K=K, Rt=np.eye(3, 4) * 2),
            person(7, labels=CropLabels(body=BodyParameters("mano", "right", {"pose": nan}))),
        ]
    )
    keys = [f"out={tmp_path / 'out'}", f"root={tmp_path}"]
    assert main(["toy", *keys]) == 1
    assert [clip.key for clip, *_ in clips_of(tmp_path / "out")] == ["c0"]
    said = capsys.readouterr().err
    assert "skipped 2 people, 1.png (c1), 2.png (c2): its keypoints are not finite numbers" in said
    for words in (
        "c3: its box is not made of finite numbers",
        "c4: its box lies outside of the image",
        "c5: its camera has no focal length above 0",
        "c6: its camera's Rt is not a rotation and a translation",
        "c7: its pose are not finite numbers",
    ):
        assert f"skipped {words}" in said


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"box": np.zeros(3)}, r"box has shape \(3,\), not \(4,\)"),
        (
            {"labels": CropLabels(keypoints=Keypoints("coco17", np.ones((17, 3)), np.ones(17)))},
            r"keypoints has shape \(17, 3\) with confidence \(17,\)",
        ),
        (
            {"labels": CropLabels(joints=Joints("hand21", np.ones((21, 3)), np.ones(21)))},
            "joints or vertices of a world, but no camera",
        ),
    ],
)
def test_labels_of_another_shape_end_the_command(changes, words):
    with pytest.raises(UserError, match=words):
        cut_person(person(**changes), np.zeros((100, 100, 3), np.uint8), STYLE)


def test_an_image_that_lies_turned_is_turned_before_its_labels_hold():
    upright = np.zeros((80, 40, 3), np.uint8)
    upright[10:14, 30:34] = 255
    lying = np.rot90(upright, 1)  # a quarter turn back
    found = read_pixels(person(image=encode(lying), quarter_turns=1, size=(40, 80)))
    assert np.array_equal(found, upright)
    with pytest.raises(ValueError, match="it is 80 x 40, its labels are for 40 x 80"):
        read_pixels(person(image=encode(lying), size=(40, 80)))


def test_an_exif_tag_is_obeyed_only_where_the_labels_size_says_so():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", exif=exif)
    image = person(image=out.getvalue(), size=(80, 40))
    assert read_pixels(image).shape == (40, 80, 3)
    turned = read_pixels(person(image=out.getvalue(), size=(40, 80)))
    assert turned.shape == (80, 40, 3) and turned[10, 20, 0] > 200 and turned[70, 20, 0] < 50


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)


def write_tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_files_of_an_archive_are_read_as_those_of_a_folder(tmp_path, write):
    members = {"top/a.json": b"{}", "top/rgb/0.png": b"image", "top/._a.json": b"macOS"}
    write(tmp_path / "set.bin", members)
    for name in ("a.json", "rgb/0.png"):
        path = tmp_path / "top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(members[f"top/{name}"])
    for root in (tmp_path / "set.bin", tmp_path / "top"):
        files = archives.open_files(str(root))
        assert files.read("a.json") == b"{}" and files.has("rgb/0.png")
        assert files.list() == ["a.json", "rgb"] and files.list("rgb") == ["0.png"]
        assert files.list("none") == [] and not files.has("../a.json")
        with pytest.raises(UserError, match=r"none\.json"):
            files.read("none.json")
        with pytest.raises(UserError, match="more than the"):
            files.read("rgb/0.png", 3)
    assert archives.ArchiveMember(str(tmp_path / "set.bin"), "top/rgb/0.png").read() == b"image"
    with pytest.raises(UserError, match="no such folder or archive"):
        archives.open_files(str(tmp_path / "nowhere"))


def test_hostile_archives_are_a_sentence(tmp_path):
    bomb = tmp_path / "bomb.zip"
    write_zip(bomb, {"a": bytes(1 << 20)})
    data = bytearray(bomb.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (10).to_bytes(4, "little")  # it says ten bytes, and holds a mebibyte
    bomb.write_bytes(data)
    with pytest.raises(ValueError, match="a cannot be read"):
        archives.ArchiveMember(str(bomb), "a").read()
    climbing = tmp_path / "climbing.tar"
    (tmp_path / "secret").write_bytes(b"secret")
    write_tar(climbing, {"../secret": b"mine", "a/b": b"x"})
    assert archives.ArchiveMember(str(climbing), "../secret").read() == b"mine"
    with tarfile.open(tmp_path / "link.tar", "w") as file:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        file.addfile(entry)
    with pytest.raises(ValueError, match="has no member link"):
        archives.ArchiveMember(str(tmp_path / "link.tar"), "link").read()
    # A tar whose last member is a zip, which zipfile would take for a zip.
    write_tar(tmp_path / "npz.tar", {"a.jpg": b"image", "detection.npz": bytes(bomb.read_bytes())})
    assert archives.list_members(str(tmp_path / "npz.tar")) == ["a.jpg", "detection.npz"]
    (tmp_path / "cut.tar").write_bytes(climbing.read_bytes()[:700])
    for name, data in (("empty", b""), ("text", b"hello" * 200), ("gz.tar", b"\x1f\x8b" + b"x")):
        (tmp_path / name).write_bytes(data)
    for name in ("empty", "text", "gz.tar"):
        with pytest.raises(UserError, match="is no folder, zip or tar"):
            archives.open_files(str(tmp_path / name))
    with pytest.raises(ValueError, match="cut off|damaged"):
        archives.ArchiveMember(str(tmp_path / "cut.tar"), "../secret").read()
        archives.ArchiveMember(str(tmp_path / "cut.tar"), "a/b").read()


def test_an_image_of_an_archive_becomes_a_crop(tmp_path):
    member = archives.ArchiveMember(str(tmp_path / "a.tar"), "x/0.png")
    write_tar(tmp_path / "a.tar", {"x/0.png": encode(np.full((100, 100, 3), 90, np.uint8))})
    image = person(image=member)
    part = cut_person(image, read_pixels(image), STYLE)
    assert part.crop.image == "0.png" and part.crop.box.tolist() == [20, 20, 80, 80]
    with pytest.raises(ValueError, match="has no member"):
        read_pixels(person(image=archives.ArchiveMember(str(tmp_path / "a.tar"), "1.png")))


def test_a_job_array_shares_a_labelled_dataset(tmp_path):
    from data.describe import COMMANDS, LABELS
    from engine.run.job_description import describe_lines
    from slurm.config import SlurmConfig

    words = ["coco", f"root={tmp_path}", f"out={tmp_path / 'out'}"]
    described = describe_lines(COMMANDS[LABELS], [words])
    assert described.jobs[0].folder == str(tmp_path / "out")
    settings = SlurmConfig()
    settings.jobs = 3
    line = Line(list(LABELS), words, settings, {}, False, [])
    elements, faults = job_specs.make_elements(line, [[]], described, "slurm")
    assert not faults
    assert [element.arguments[-1] for element in elements] == ["part=1/3", "part=2/3", "part=3/3"]
    assert describe_lines(COMMANDS[LABELS], [["coko"]]).jobs[0].faults


def test_images_of_any_sort_are_read_or_told_in_a_sentence(tmp_path):
    deep = np.full((10, 20), 40_000, np.uint16)
    grey = read_pixels(person(image=cv2.imencode(".png", deep)[1].tobytes()))
    assert grey.shape == (10, 20, 3) and abs(int(grey[0, 0, 0]) - 156) <= 1
    out = io.BytesIO()
    Image.new("CMYK", (20, 10), (0, 255, 255, 0)).save(out, "JPEG")
    red = read_pixels(person(image=out.getvalue()))[5, 5]
    assert red[0] > 200 and red[1] < 60
    whole = encode(np.zeros((50, 50, 3), np.uint8), ".jpg")
    for broken in (b"", whole[:100], b"\x89PNG\r\n\x1a\n" + bytes(40), b"%!PS-Adobe", b"<svg/>"):
        with pytest.raises(ValueError, match="."):
            read_pixels(person(image=broken))


def test_faces_are_blurred_whether_found_or_labelled(tmp_path, reader, monkeypatch):
    from data.sources import label_shards

    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    points = np.zeros((17, 2))
    points[:5] = [[50, 40], [53, 37], [47, 37], [57, 39], [43, 39]]
    labels = CropLabels(Keypoints("coco17", points, np.float32(points[:, 0] > 0)))
    seen = []

    def open_blur():
        def blur(image, known):
            seen.append(image.shape)
            image = image.copy()
            image[80:] = 0  # where somebody else was found
            return image

        return blur

    monkeypatch.setattr(label_shards, "open_blur", open_blur)
    people = [person(i, image=encode(noise), labels=labels) for i in range(2)]
    people.append(person(2, image=encode(noise)))
    reader(people)
    keys = [f"root={tmp_path}", "size=64", "margin=1.5", "quality=100"]
    for name, more in (("open", []), ("blurred", ["blur_faces=true"])):
        assert main(["toy", f"out={tmp_path / name}", *keys, *more]) == 0
    assert len(seen) == 1  # the three are in one image
    crops = {
        name: [images[0].astype(float) for _, images, _, _ in clips_of(tmp_path / name)]
        for name in ("open", "blurred")
    }
    # A crop of 90 px from (5, 5) to 64: the face about (50, 40) is at (32, 25).
    for whole, blurred in zip(crops["open"][:2], crops["blurred"][:2], strict=True):
        assert blurred[20:30, 27:37].std() < 0.5 * whole[20:30, 27:37].std()
        assert blurred[56:].mean() < 5 < whole[56:].mean()
        np.testing.assert_allclose(blurred[:8], whole[:8], atol=12)
    alone = [crops[name][2][20:30, 27:37] for name in ("open", "blurred")]
    np.testing.assert_allclose(*alone, atol=12)  # no labels, and nobody was found there
