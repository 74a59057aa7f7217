"""Every format of calibration file: written here as its authors publish it, read, and held against
OpenCV's own projection."""

import json
import random

import cv2
import numpy as np
import pytest
import yaml

from data.sources.cameras import (
    FORMATS,
    match_videos,
    project_distorted,
    read_cameras,
    write_cameras,
)
from data.sources.cameras.documents import open_document
from data.sources.cameras.reading import recognise
from engine.errors import UserError

LENS = [-0.21, 0.08, 0.003, -0.002, 0.04]
POINTS = np.random.default_rng(3).uniform([-0.6, -0.6, -0.3], [0.6, 0.6, 0.4], (40, 3))
NAMES = ("cam1", "cam2", "cam3")


def rig():
    """{name: K, lens, rvec, t in metres, size} of three cameras about the origin, OpenCV's
    numbers."""
    cameras = {}
    for number, name in enumerate(NAMES):
        K = np.array([[900.0 + 7 * number, 0, 640 + number], [0, 905.0, 360 - number], [0, 0, 1]])
        rvec = np.array([0.1 + 0.2 * number, -0.6 + 0.7 * number, 0.05 * number])
        t = np.array([0.1 * number, -0.05, 2.5 + 0.3 * number])
        cameras[name] = K, np.array(LENS), rvec, t, (1280, 720)
    return cameras


def matrix(rvec):
    return cv2.Rodrigues(rvec)[0]


def toml_of(value):
    """A list, a text or a switch as TOML has it."""
    return json.dumps(np.asarray(value).tolist() if not isinstance(value, (str, bool)) else value)


def write_toml(cameras, path, unit=1.0, head="[{name}]", last=""):
    text = ""
    for name, (K, lens, rvec, t, size) in cameras.items():
        rows = {"name": name, "size": np.array(size, float), "matrix": K, "distortions": lens}
        rows |= {"rotation": rvec, "translation": t * unit, "fisheye": False}
        text += head.format(name=name) + "\n"
        text += "".join(f"{key} = {toml_of(value)}\n" for key, value in rows.items()) + "\n"
    path.write_text(text + last)


def write_pose2sim(cameras, path):
    short = {name: (K, lens[:4], *rest) for name, (K, lens, *rest) in cameras.items()}
    write_toml(short, path, last="[metadata]\nadjusted = false\nerror = 0.0\n")


def write_caliscope(cameras, path):
    text = "[cameras.9]\ncam_id = 9\nrotation_count = 0\nignore = false\nsize = [1280, 720]\n\n"
    for number, (K, lens, rvec, t, size) in enumerate(cameras.values(), 1):
        rows = {"cam_id": number, "rotation_count": 0, "ignore": False, "size": list(size)}
        rows |= {"matrix": K, "distortions": lens, "translation": t, "rotation": matrix(rvec)}
        text += f"[cameras.{number}]\n"
        text += "".join(f"{key} = {toml_of(value)}\n" for key, value in rows.items())
    path.write_text(text)


def write_own(cameras, path):
    rows = []
    for name, (K, lens, rvec, t, size) in cameras.items():
        row = {"name": name, "size": size, "K": K.tolist(), "distortion": lens.tolist()}
        rows.append(row | {"R": matrix(rvec).tolist(), "t": t.tolist()})
    path.write_text(json.dumps({"cameras": rows}))


def write_panoptic(cameras, path):
    rows = []
    for number, (name, (K, lens, rvec, t, size)) in enumerate(cameras.items()):
        row = {"name": name, "type": "hd", "resolution": size, "panel": 0, "node": number}
        row |= {"K": K.tolist(), "distCoef": lens.tolist(), "R": matrix(rvec).tolist()}
        rows.append(row | {"t": (100 * t[:, None]).tolist()})
    path.write_text(json.dumps({"calibDataSource": "x", "cameras": rows}))


def write_interhand(cameras, path):
    capture = {"campos": {}, "camrot": {}, "focal": {}, "princpt": {}}
    for name, (K, _, rvec, t, _) in cameras.items():
        capture["campos"][name] = (-1000 * matrix(rvec).T @ t).tolist()
        capture["camrot"][name] = matrix(rvec).tolist()
        capture["focal"][name] = [K[0, 0], K[1, 1]]
        capture["princpt"][name] = K[:2, 2].tolist()
    path.write_text(json.dumps({"7": capture}))


def write_krt(cameras, path):
    text = ""
    for name, (K, lens, rvec, t, _) in cameras.items():
        pose = np.concatenate([matrix(rvec), 1000 * t[:, None]], 1)
        rows = [*K, lens, *pose]
        lines = [" ".join(repr(float(number)) for number in row) for row in rows]
        text += "\n".join([name, *lines]) + "\n\n"
    path.write_text(text)


def write_aist(cameras, path):
    rows = []
    for name, (K, lens, rvec, t, size) in cameras.items():
        row = {"name": name, "size": size, "matrix": K.tolist(), "rotation": rvec.tolist()}
        rows.append(row | {"translation": (100 * t).tolist(), "distortions": lens.tolist()})
    path.write_text(json.dumps(rows))


def write_human36m_small(cameras, path):
    nodes = {}
    for name, (K, _, rvec, t, _) in cameras.items():
        node = {"R": matrix(rvec).tolist(), "t": (1000 * t).tolist()}
        nodes[name] = node | {"f": [K[0, 0], K[1, 1]], "c": K[:2, 2].tolist()}
    path.write_text(json.dumps(nodes))


def write_human36m(cameras, path):
    inner, outer = {}, {}
    for name, (K, lens, rvec, t, _) in cameras.items():
        inner[name] = {"calibration_matrix": K.tolist(), "distortion": lens.tolist()}
        outer[name] = {"R": matrix(rvec).tolist(), "t": (1000 * t[:, None]).tolist()}
    path.write_text(json.dumps({"intrinsics": inner, "extrinsics": {"S1": outer}}))


def write_storage(path, values):
    """A file by OpenCV itself, in the syntax that its suffix asks for."""
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for name, value in values.items():
        file.write(name, value)
    file.release()


def write_folder(cameras, path, suffix):
    """A file a camera, in a folder."""
    path.mkdir()
    for name, (K, lens, rvec, t, size) in cameras.items():
        values = {"image_width": size[0], "image_height": size[1], "camera_matrix": K}
        values |= {"distortion_coefficients": lens[:, None], "R": matrix(rvec), "T": t[:, None]}
        write_storage(path / f"{name}.{suffix}", values)


def write_easymocap(cameras, path):
    path.mkdir()
    inner, outer = {}, {}
    for name, (K, lens, rvec, t, _) in cameras.items():
        inner |= {f"K_{name}": K, f"dist_{name}": lens[None]}
        outer |= {f"R_{name}": rvec[:, None], f"Rot_{name}": matrix(rvec), f"T_{name}": t[:, None]}
    for file, values in (("intri", inner), ("extri", outer)):
        storage = cv2.FileStorage(str(path / f"{file}.yml"), cv2.FILE_STORAGE_WRITE)
        storage.startWriteStruct("names", cv2.FileNode_SEQ)
        for name in cameras:
            storage.write("", name)
        storage.endWriteStruct()
        for name, value in values.items():
            storage.write(name, value)
        storage.release()


def write_qualisys(cameras, path):
    """Qualisys's axes: y up, z backward, rows of the stored rotation are the camera's axes."""
    text = '<?xml version="1.0"?>\n<calibration><cameras>\n'
    text += '<camera active="1" serial="none" viewrotation="0"><fov_video left="0" top="0"/>'
    text += "</camera>\n"
    for name, (K, lens, rvec, t, size) in cameras.items():
        R = matrix(rvec)
        axes, centre = np.diag([1, -1, -1]) @ R, -1000 * R.T @ t
        cells = [f'r{i + 1}{j + 1}="{axes[i, j]!r}"' for i, j in np.ndindex(3, 3)]
        cells += [f'{axis}="{value!r}"' for axis, value in zip("xyz", centre, strict=True)]
        place = " ".join(cells).replace("np.float64(", "").replace(")", "")
        k = [repr(float(64 * value)) for value in lens]
        inner = f'focalLengthU="{64 * K[0, 0]}" focalLengthV="{64 * K[1, 1]}" skew="0" '
        inner += f'centerPointU="{64 * K[0, 2]}" centerPointV="{64 * K[1, 2]}" '
        inner += f'radialDistortion1="{k[0]}" radialDistortion2="{k[1]}" '
        inner += f'tangentalDistortion1="{k[2]}" tangentalDistortion2="{k[3]}" '
        inner += f'radialDistortion3="{k[4]}"'
        text += f'<camera active="1" serial="{name}" viewrotation="0">'
        text += f'<fov_video left="0" top="0" right="{size[0] - 1}" bottom="{size[1] - 1}"/>'
        text += f"<transform {place}/><intrinsic {inner}/></camera>\n"
    path.write_text(text + "</cameras></calibration>")


def write_yaml_folder(cameras, path):
    write_folder(cameras, path, "yml")


def write_xml_folder(cameras, path):
    write_folder(cameras, path, "xml")


def write_json_folder(cameras, path):
    write_folder(cameras, path, "json")


WRITERS = {
    write_qualisys: ("qualisys", 5, True),
    write_caliscope: ("caliscope", 5, True),
    write_pose2sim: ("toml", 4, True),
    write_toml: ("toml", 5, True),
    write_own: ("opencv", 5, True),
    write_yaml_folder: ("filestorage", 5, True),
    write_xml_folder: ("filestorage", 5, True),
    write_json_folder: ("filestorage", 5, True),
    write_easymocap: ("filestorage", 5, False),
    write_panoptic: ("panoptic", 5, True),
    write_interhand: ("interhand", 0, False),
    write_krt: ("krt", 5, False),
    write_aist: ("aist", 5, True),
    write_human36m_small: ("human36m", 0, False),
    write_human36m: ("human36m", 5, False),
}


def projected(camera, coefficients):
    """Where OpenCV sees POINTS, its first pixel's centre moved to (0.5, 0.5)."""
    K, lens, rvec, t, _ = camera
    lens = np.where(np.arange(5) < coefficients, lens, 0)
    return cv2.projectPoints(POINTS, rvec, t, K, lens)[0][:, 0] + 0.5


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_published_layout_projects_as_opencv_does(tmp_path, write):
    kind, coefficients, sized = WRITERS[write]
    path = tmp_path / "calibration"
    write(rig(), path)
    assert recognise(open_document(str(path))) == kind
    cameras = read_cameras(str(path))
    expected = ["cam_1", "cam_2", "cam_3"] if kind == "caliscope" else list(NAMES)
    assert list(cameras) == expected
    for camera, truth in zip(cameras.values(), rig().values(), strict=True):
        pixels, depth = project_distorted(camera, POINTS)
        np.testing.assert_allclose(pixels, projected(truth, coefficients), atol=1e-6)
        assert (depth > 1).all() and (depth < 5).all()
        assert (camera.width, camera.height) == ((1280, 720) if sized else (0, 0))


def test_every_format_has_a_writer_here():
    assert {kind for kind, _, _ in WRITERS.values()} == set(FORMATS) - {"auto"}


def test_stereo_files_are_the_second_camera_against_the_first(tmp_path):
    """cv2.stereoCalibrate's R and T; the world is the first camera's."""
    first, second = list(rig().values())[:2]
    R, T = matrix(second[2]), second[3]
    write_storage(
        tmp_path / "intrinsics.yml",
        {"M1": first[0], "D1": first[1][None], "M2": second[0], "D2": second[1][None]},
    )
    write_storage(tmp_path / "extrinsics.yml", {"R": R, "T": T[:, None], "R1": R, "P1": R, "Q": R})
    cameras = read_cameras(str(tmp_path), unit="m")
    assert list(cameras) == ["1", "2"]
    np.testing.assert_allclose(cameras["1"].Rt, np.eye(3, 4), atol=1e-12)
    pixels, _ = project_distorted(cameras["2"], POINTS)
    np.testing.assert_allclose(pixels, projected(second, 5), atol=1e-6)
    (tmp_path / "extrinsics.yml").unlink()
    with pytest.raises(UserError, match=r"camera 2: it lacks R, the pose of camera 2"):
        read_cameras(str(tmp_path))


def test_a_fisheye_in_toml_is_opencvs_fisheye(tmp_path):
    K, _, rvec, t, size = rig()["cam1"]
    lens = np.array([0.05, -0.01, 0.003, -0.0005])
    write_toml({"cam1": (K, lens, rvec, t, size)}, tmp_path / "c.toml")
    text = (tmp_path / "c.toml").read_text()
    (tmp_path / "c.toml").write_text(text.replace("fisheye = false", "fisheye = true"))
    camera = read_cameras(str(tmp_path / "c.toml"))["cam1"]
    truth = cv2.fisheye.projectPoints(POINTS[:, None], rvec, t, K, lens)[0][:, 0] + 0.5
    pixels, _ = project_distorted(camera, POINTS)
    np.testing.assert_allclose(pixels, truth, atol=1e-6)


def test_what_is_written_is_read_back(tmp_path):
    write_own(rig(), tmp_path / "first.json")
    cameras = read_cameras(str(tmp_path / "first.json"))
    cameras["cam1"].quarter_turns, cameras["cam2"].fisheye = 3, True
    cameras["cam2"].distortion[4:] = 0
    cameras["cam3"].width = cameras["cam3"].height = 0
    write_cameras(str(tmp_path / "second.json"), cameras)
    again = read_cameras(str(tmp_path / "second.json"), "opencv")
    for name, camera in cameras.items():
        for field in ("K", "Rt", "distortion"):
            np.testing.assert_allclose(getattr(again[name], field), getattr(camera, field))
        assert (again[name].fisheye, again[name].quarter_turns, again[name].width) == (
            camera.fisheye,
            camera.quarter_turns,
            camera.width,
        )


def test_the_unit_is_asked_for_where_the_format_leaves_it_open(tmp_path):
    path = tmp_path / "anipose.toml"
    write_toml(rig(), path, unit=1000.0)
    apart = {name: (*rest[:3], 20 * rest[3], rest[4]) for name, rest in rig().items()}
    write_toml(apart, tmp_path / "stadium.toml")
    with pytest.raises(UserError, match=r"more than 20 m; say calibration_unit=mm or cm, or"):
        read_cameras(str(tmp_path / "stadium.toml"))
    assert len(read_cameras(str(tmp_path / "stadium.toml"), unit="m")) == 3
    with pytest.raises(UserError, match=r"cam1 and cam2 are .* m apart.*calibration_unit=mm"):
        read_cameras(str(path))
    write_toml(rig(), tmp_path / "metres.toml")
    metres = read_cameras(str(tmp_path / "metres.toml"))
    for name, camera in read_cameras(str(path), unit="mm").items():
        np.testing.assert_allclose(camera.Rt, metres[name].Rt, atol=1e-9)
    with pytest.raises(UserError, match=r"calibration_unit=mm no two cameras are more than 0.00"):
        read_cameras(str(tmp_path / "metres.toml"), unit="mm")
    write_panoptic(rig(), tmp_path / "p.json")
    with pytest.raises(UserError, match="calibration_unit=mm, but CMU Panoptic.* always in cm"):
        read_cameras(str(tmp_path / "p.json"), unit="mm")


def test_several_calibrations_in_a_file_are_told_apart(tmp_path):
    write_interhand(rig(), tmp_path / "c.json")
    tree = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({**tree, "8": tree["7"]}))
    with pytest.raises(UserError, match="2 captures: 7, 8; say which with calibration_part="):
        read_cameras(str(tmp_path / "c.json"))
    with pytest.raises(UserError, match="calibration_part=9: .*captures 7, 8"):
        read_cameras(str(tmp_path / "c.json"), part="9")
    assert list(read_cameras(str(tmp_path / "c.json"), part="8")) == list(NAMES)


def changed(tmp_path, write, change):
    """A file of one camera in JSON, after a change to its tree."""
    path = tmp_path / "c.json"
    write({"left": rig()["cam2"]}, path)
    tree = json.loads(path.read_text())
    change(tree["cameras"][0])
    path.write_text(json.dumps(tree))
    return str(path)


HARM = {
    "K holds .*nan": lambda node: node["K"][0].__setitem__(2, float("nan")),
    r"the focal length fx in K is 0; it must be above 0": lambda node: node["K"][0].__setitem__(
        0, 0
    ),
    r"R is not a rotation matrix: its determinant is -1": lambda node: node.__setitem__(
        "R", np.diag([1.0, 1, -1]).tolist()
    ),
    r"R is not a rotation matrix: .* off the identity by 3": lambda node: node.__setitem__(
        "R", (2 * np.eye(3)).tolist()
    ),
    r"R has shape \(2, 2\), where \(3, 3\) is needed": lambda node: node.__setitem__(
        "R", [[1, 0], [0, 1]]
    ),
    r"t is .*deep.*, not numbers": lambda node: node.__setitem__("t", ["deep", 0, 0]),
    r"it lacks t; it has name, size, K": lambda node: node.pop("t"),
    r"size is \[1280, 0\]": lambda node: node.__setitem__("size", [1280, 0]),
    r"distortion has 12 numbers: a thin prism": lambda node: node.__setitem__(
        "distortion", [0.1] * 12
    ),
    r"turn is 45, none of 0, 90": lambda node: node.__setitem__("turn", 45),
}


@pytest.mark.parametrize("words", HARM)
def test_a_value_that_no_camera_has_is_named(tmp_path, words):
    path = changed(tmp_path, write_own, HARM[words])
    with pytest.raises(UserError, match=r"calibration .*c\.json: camera left: " + words):
        read_cameras(path)


TEXTS = {
    "": r"c\.x is empty \(0 bytes\)",
    "{": r"c\.x looks like JSON, but",
    "[1, 2": r"is none of the known formats",
    "<a><b></a>": r"c\.x looks like XML, but",
    "<a/>": r"c\.x \(xml\) is none of the known formats",
    "[cam]\nmatrix = [": r"c\.x looks like TOML, but",
    "hello there\n": r"c\.x \(text\) is none of the known formats",
    "%YAML:1.0\n---\nK: !!python/object/apply:os.system [id]\n": r"looks like YAML, but",
    "%YAML:1.0\n---\na: &a [1]\nb: *a\n": r"looks like YAML, but: it has an alias",
    "%YAML:1.0\n---\nK: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n   data: [ 1. ]\n": (
        r"a matrix of 3 x 3 holds 1 numbers"
    ),
    '{"a": {"R": 1, "t": 2, "f": 3, "c": [1, 2]}}': r"camera a: f is 3, not two numbers",
    '{"cameras": []}': r"is none of the known formats",
    '{"cameras": [{"name": 1, "name": 2}]}': r"two entries are named name",
    "a\n1 2 3\n4 5 6\n7 8 9\n": r"camera a: it has 4 lines, where 8 are needed",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_file_of_something_else_is_one_sentence(tmp_path, text):
    path = tmp_path / "c.x"
    path.write_text(text)
    with pytest.raises(UserError, match=TEXTS[text]):
        read_cameras(str(path))


def harm(data, chance):
    """Bytes with something cut out, put in or repeated."""
    at, other = chance.randrange(len(data)), chance.randrange(len(data))
    piece = chance.choice([b"[", b"]", b'"', b"nan", b"-", b"1e999", b"\0", b"\xff", b"\n", b"{}"])
    more = chance.choice([b"", piece, data[other : other + 100]])
    return data[:at] + more + data[at + chance.choice([0, 1, 30]) :]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_harmed_file_is_read_or_refused_in_a_sentence(tmp_path, write):
    path, chance = tmp_path / "calibration", random.Random(8)
    write(rig(), path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    refused = 0
    for _ in range(20):
        file = chance.choice(files)
        whole = file.read_bytes()
        file.write_bytes(harm(whole, chance))
        try:
            read_cameras(str(path))
        except UserError:
            refused += 1
        file.write_bytes(whole)
    assert refused > 0
    read_cameras(str(path))


def test_a_byte_order_mark_and_utf16_are_read(tmp_path):
    write_pose2sim(rig(), tmp_path / "c.toml")
    text = (tmp_path / "c.toml").read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "b.toml").write_bytes(text.encode(encoding))
        assert list(read_cameras(str(tmp_path / "b.toml"))) == list(NAMES)


def test_two_cameras_of_one_name_are_refused(tmp_path):
    write_pose2sim(rig(), tmp_path / "c.toml")
    text = (tmp_path / "c.toml").read_text().replace('name = "cam2"', 'name = "cam1"')
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError, match="two cameras are named cam1"):
        read_cameras(str(tmp_path / "c.toml"))


def test_a_format_that_is_told_wrong_says_what_the_file_is(tmp_path):
    write_pose2sim(rig(), tmp_path / "c.toml")
    with pytest.raises(UserError, match=r"is no qualisys file .*=auto takes it for toml"):
        read_cameras(str(tmp_path / "c.toml"), "qualisys")


def test_what_is_not_calibrated_is_left_out_and_named(tmp_path, capsys):
    for write, name in ((write_qualisys, "none"), (write_caliscope, "cam_9")):
        write(rig(), tmp_path / "c")
        assert len(read_cameras(str(tmp_path / "c"))) == 3
        said = capsys.readouterr().err
        assert f"camera {name} " in said and "left out" in said


def test_a_matrix_of_opencv_is_a_matrix_here(tmp_path):
    """Numbers such as '1.' and '-1.5e-003', which YAML takes for text."""
    values = np.array([[1.0, -1.5e-3, 1e300], [0.25, 3, -7e-12]])
    write_storage(tmp_path / "c.yml", {"camera_matrix": values, "n": 4, "x": 0.5, "s": "abc"})
    tree = open_document(str(tmp_path / "c.yml")).tree
    assert np.array_equal(np.array(tree["camera_matrix"]), values)
    assert (tree["n"], tree["x"], tree["s"]) == (4, 0.5, "abc")
    assert yaml.safe_load("x: 1") == {"x": 1}  # the usual loader is as it was


MATCHES = (
    (["cam_0", "cam_1"], ["cam_0", "cam_1"], {"cam_0": "cam_0", "cam_1": "cam_1"}),
    (
        ["cam1", "cam10"],
        ["take-cam01", "take-cam10"],
        {"cam1": "take-cam01", "cam10": "take-cam10"},
    ),
    (["c01", "c02"], ["gBR_c01_d04", "gBR_c02_d04"], {"c01": "gBR_c01_d04", "c02": "gBR_c02_d04"}),
    (["00_00"], ["hd_00_00", "hd_00_01"], {"00_00": "hd_00_00"}),
    (["54138969"], ["S1/Directions.54138969"], {"54138969": "S1/Directions.54138969"}),
    (["left"], ["Left", "right"], {"left": "Left"}),
    (["a"], ["b"], {}),
)


@pytest.mark.parametrize(("cameras", "videos", "expected"), MATCHES)
def test_videos_are_matched_by_name(cameras, videos, expected):
    assert match_videos(cameras, videos) == expected
    assert match_videos(["x"], ["y", "x"], {"x": "y"}) == {"x": "y"}


def test_a_name_that_fits_two_is_asked_for():
    with pytest.raises(UserError, match=r"camera cam1 could be a-cam1 or b-cam1.*cameras.cam1.vid"):
        match_videos(["cam1"], ["b-cam1", "a-cam1"])
    with pytest.raises(UserError, match=r"video cam-1-2 could be of camera 1 or 2"):
        match_videos(["1", "2"], ["cam-1-2"])


def test_real_files_are_read_and_agree(samples):
    count = {"eleven_cams": 11, "one_ignored_5cam": 4, "rodrigues_3cam": 3, "turned_4cam": 4}
    for name, cameras in count.items():
        found = read_cameras(str(samples / f"calibrations/{name}.toml"))
        assert len(found) == cameras
        turns = [camera.quarter_turns for camera in found.values()]
        assert turns == ([0, 3, 1, 0] if name == "turned_4cam" else [0] * cameras)
    assert list(read_cameras(str(samples / "walkers/Calib_demo.toml"))) == ["demo"]
    first = read_cameras(str(samples / "two_people_4cam/Calib.qca.txt"))
    second = read_cameras(str(samples / "two_people_4cam/Calib_made.toml"))
    assert list(first) == list(second)
    for name, camera in first.items():
        assert (camera.width, camera.height) == (second[name].width, second[name].height)
        for field in ("K", "Rt", "distortion"):
            np.testing.assert_allclose(
                getattr(camera, field), getattr(second[name], field), atol=1e-6
            )
