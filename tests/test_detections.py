"""Files of detections in the formats of other programs: pixels, frames and people as they say, and
one sentence for what is wrong."""

import json

import numpy as np
import pytest
from drawn_videos import named_frames

from data.find.detection import Detection
from data.format.joint_sets import COCO17, find_joint_set
from data.sources.detections import FORMATS, fill_gaps, read_detections
from data.sources.detections.linking import link_boxes
from data.sources.probe import Problems
from engine.errors import UserError

HEADER = "video,frame,x0,y0,x1,y1,person\n"


def video(path, count=10, size=(200, 100)):
    return named_frames(path, count, size)


@pytest.fixture
def one():
    return {"walk": video("/v/walk.mp4")}


@pytest.fixture
def takes():
    """Two videos of one base name in two folders, and a third."""
    return {key: video(f"/v/{key}.mp4") for key in ("take1/cam", "take2/cam", "take2/other")}


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def boxes_of(found):
    """{video: {person: {frame: box as a list}}}."""
    out = {}
    for key, tracks in found.items():
        out[key] = {
            who: {frame: d.box.round(6).tolist() for frame, d in track.items()}
            for who, track in tracks.items()
        }
    return out


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_any_spreadsheet_are_one(tmp_path, one, encoding, end, separator):
    point = "," if separator == ";" else "."
    lines = ["video,frame,x0,y0,x1,y1,person".replace(",", separator)]
    lines.append(separator.join(["walk.mp4", "3", f"1{point}5", "2", "30", "40", "Zoë"]))
    path = write(tmp_path / "b.csv", end.join(lines) + end, encoding)
    assert boxes_of(read_detections(path, one)) == {"walk": {"Zoë": {3: [1.5, 2, 30, 40]}}}


def test_nobody_is_said_in_many_ways(tmp_path, one):
    coco = {"images": [], "annotations": [], "categories": []}
    for name, text in (
        ("a.json", "[]"),
        ("a.csv", HEADER),
        ("b.csv", HEADER.strip()),
        ("coco.json", json.dumps(coco)),
        ("walk_000000_keypoints.json", '{"version": 1.3, "people": []}'),
    ):
        assert read_detections(write(tmp_path / name, text), one) == {}, name
    for name in ("empty.csv", "empty.txt"):
        with pytest.raises(UserError, match="is empty: it has neither a header nor a box"):
            read_detections(write(tmp_path / name, ""), one)


def test_videos_are_matched_by_their_paths(tmp_path, takes):
    rows = "take1/cam.mp4,0,1,1,9,9,a\nD:\\films\\take2\\cam.mp4,0,2,2,8,8,b\nother,1,3,3,7,7,c\n"
    found = boxes_of(read_detections(write(tmp_path / "b.csv", HEADER + rows), takes))
    assert found == {
        "take1/cam": {"a": {0: [1, 1, 9, 9]}},
        "take2/cam": {"b": {0: [2, 2, 8, 8]}},
        "take2/other": {"c": {1: [3, 3, 7, 7]}},
    }
    path = write(tmp_path / "c.csv", HEADER + "cam.mp4,0,1,1,9,9,a\n")
    with pytest.raises(UserError, match=r"c.csv: 'cam.mp4' may be take1/cam, take2/cam; name it"):
        read_detections(path, takes)


def test_boxes_of_two_folders_do_not_merge(tmp_path):
    """The user's folder is one take, and the file has both."""
    rows = "take1/cam.mp4,0,1,1,9,9,a\ntake2/cam.mp4,0,2,2,8,8,a\n"
    path = write(tmp_path / "b.csv", HEADER + rows)
    problems = Problems()
    found = read_detections(path, {"cam": video("/v/take1/cam.mp4")}, problems=problems)
    assert boxes_of(found) == {"cam": {"a": {0: [1, 1, 9, 9]}}}
    assert list(problems.skipped) == ["take2/cam.mp4"]
    with pytest.raises(UserError, match=r"boxes for take1/cam.mp4, take2/cam.mp4, and the only"):
        read_detections(path, {"cam": video("/v/cam.mp4")})
    images = "image,x0,y0,x1,y1\ntake1/000001.png,10,10,100,90\ntake2/000001.png,150,20,190,80\n"
    stills = {f"{t}/000001": video(f"/i/{t}/000001.png", 1) for t in ("take1", "take2")}
    found = boxes_of(read_detections(write(tmp_path / "i.csv", images), stills))
    assert found["take1/000001"] == {"0": {0: [10, 10, 100, 90]}}
    assert found["take2/000001"] == {"0": {0: [150, 20, 190, 80]}}


def test_names_are_compared_as_they_look(tmp_path):
    rows = "Cafe\u0301/Ünï.mp4,0,1,1,9,9,a\n"
    videos = {"Caf\u00e9/Ünï": video("/v/Caf\u00e9/Ünï.mp4"), "日本": video("/v/日本.mp4")}
    path = write(tmp_path / "b.csv", HEADER + rows + "日本,0,1,1,9,9,a\n")
    assert set(read_detections(path, videos)) == set(videos)


def test_what_a_video_lacks_is_left_out_and_said(tmp_path, one, caplog):
    rows = "walk,9,1,1,9,9,a\nwalk,10,1,1,9,9,a\nwalk,99,1,1,9,9,a\nrun,0,1,1,9,9,a\n"
    rows += "walk,8,300,1,320,9,a\nwalk,7,-5,-5,9,9,a\n"
    with caplog.at_level("INFO"):
        found = read_detections(write(tmp_path / "b.csv", HEADER + rows), one)
    assert boxes_of(found) == {"walk": {"a": {9: [1, 1, 9, 9], 7: [-5, -5, 9, 9]}}}
    assert "2 boxes for walk lie past its last frame, 9; they are left out" in caplog.text
    assert "b.csv:6: 1 of 3 boxes of walk lie outside the image of 200x100" in caplog.text
    assert "b.csv has boxes for run, which are not there" in caplog.text


BAD = [
    ("b.csv", HEADER + "walk,0,nan,1,9,9,a\n", r"b.csv:2: x0=nan is not a number"),
    ("b.csv", HEADER + "walk,0,inf,1,9,9,a\n", r"b.csv:2: x0=inf is not a number"),
    ("b.csv", HEADER + "walk,-1,1,1,9,9,a\n", r"b.csv:2: frame -1 is not a whole number"),
    ("b.csv", HEADER + "walk,0,9,1,1,9,a\n", r"b.csv:2: the box \[9, 1, 1, 9\] has no area"),
    ("b.csv", HEADER + "walk,0,1,1,9\0,9,a\n", r"b.csv:2: a NUL byte"),
    (
        "b.csv",
        HEADER + "walk,0,0.4,0.1,0.6,0.9,a\n",
        r"b.csv:2: .* in shares of the image.*200x100",
    ),
    ("b.csv", HEADER + "walk,0,500,1,600,9,a\n", r"b.csv:2: .* outside the image of 200x100, as"),
    ("b.csv", HEADER + "walk,0,-1e9,1,1e9,9,a\n", r"b.csv:2: .* over 10 times as large as"),
    ("b.csv", HEADER + 'walk,0,"' + "1" * 200_000 + '\n",1,9,9,a\n', r"b.csv:\d+: not a table"),
    ("b.csv", "frame,x0\n1,2\n", r"b.csv:1: the header has no 'video'"),
    ("b.csv", HEADER[:-1] + ",score\nwalk,0,1,1,9,9,a,7\n", r"b.csv:2: score=7 is not from 0 to"),
    ("b.json", "[" * 100_000, r"b.json: the JSON is nested too deeply"),
    ("b.json", '[{"video": "walk",\n', r"b.json:2: no JSON"),
    ("b.json", "[1, 2]", r"b.json, entry 0: not an object"),
    ("b.json", '{"a": 1}', r"b.json: neither a list of boxes, COCO's annotations nor OpenPose"),
    ("b.json", '[{"video": "walk", "frame": 0, "x0": NaN}]', r"b.json, entry 0: no 'y0'"),
    ("b.txt", "1,1,5,5,0,9,1,-1,-1,-1\n", r"b.txt:1: the box \[4, 4, 4, 13\] has no area"),
    ("b.txt", "0,1,5,5,8,9,1,-1,-1,-1\n", r"b.txt:1: frame 0 is not a whole number from 1 up"),
    ("b.txt", "1,1,5,nan,8,9,1\n", r"b.txt:1: .* 40 values|b.txt:1: top=nan is not a number"),
    ("b.txt", "0 0.5 0.5 0.1\n", r"b.txt.*|b.txt:1: 4 values"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_bad_files_are_one_sentence(tmp_path, one, name, text, message):
    kind = "mot" if name == "b.txt" else "auto"
    with pytest.raises(UserError, match=message) as error:
        read_detections(write(tmp_path / name, text), one, kind)
    assert "\n" not in str(error.value)


def test_a_file_of_another_format_than_said_is_refused(tmp_path, one):
    table = write(tmp_path / "b.csv", HEADER + "walk,0,1,1,9,9,a\n")
    listed = write(tmp_path / "b.json", "[]")
    for path, kind, message in (
        (table, "mot", r"b.csv:1: frame=video is not a number"),
        (listed, "openpose", r"b.json: no 'people'"),
        (write(tmp_path / "c.json", '{"people": []}'), "coco", r"."),
        (table, "coco", r"b.csv:1: no JSON"),
        (str(tmp_path / "none.csv"), "auto", r"none.csv: no such file or folder"),
        (write(tmp_path / "x.csv", "\ufffd\ufffd", "utf-16-be"), "auto", r"x.csv is not a table"),
    ):
        if kind == "coco" and path.endswith("c.json"):
            assert read_detections(path, one, kind) == {}
            continue
        with pytest.raises(UserError, match=message):
            read_detections(path, one, kind)
    assert set(FORMATS) == {"auto", "csv", "json", "mot", "coco", "openpose", "ultralytics"}


def test_mot_counts_frames_and_pixels_from_one(tmp_path, takes):
    rows = "1,7,11,21,30,40,0.5,-1,-1,-1\n10,7,12,21,30,40,1,-1,-1,-1\n"
    (tmp_path / "mot/take1").mkdir(parents=True)
    (tmp_path / "mot/take2/gt").mkdir(parents=True)
    write(tmp_path / "mot/take1/cam.txt", rows)
    found = read_detections(str(tmp_path / "mot"), takes)
    assert boxes_of(found) == {"take1/cam": {"7": {0: [10, 20, 40, 60], 9: [11, 20, 41, 60]}}}
    assert found["take1/cam"]["7"][0].score == 0.5
    assert found["take1/cam"]["7"][9].where.endswith("cam.txt:2")
    # Ground truth: class 1 is a person, 3 a car; a 0 in the seventh column is to be ignored.
    truth = "1,1,1,1,9,9,1,1,1\n1,2,1,1,9,9,1,3,1\n1,3,1,1,9,9,0,1,1\n"
    write(tmp_path / "mot/take2/gt/gt.txt", truth)
    sequence = {"take2": video("/v/take2.mp4")}
    found = read_detections(str(tmp_path / "mot/take2/gt/gt.txt"), sequence)
    assert list(found["take2"]) == ["1"]


def test_people_whom_nobody_names_are_linked_by_overlap(tmp_path, one):
    """Two people who walk past each other in the order of the rows, never overlapping by much."""
    rows = []
    for frame in range(10):
        people = [(10 + 8 * frame, 10), (150 - 8 * frame, 60)]
        for x, y in people[:: 1 if frame % 2 else -1]:
            rows.append(f"{frame + 1},-1,{x + 1},{y + 1},30,30,0.9,-1,-1,-1\n")
    found = boxes_of(read_detections(write(tmp_path / "walk.txt", "".join(rows)), one))["walk"]
    assert len(found) == 2
    for track in found.values():
        assert sorted(track) == list(range(10)) and len({box[1] for box in track.values()}) == 1


def test_who_was_away_for_long_is_somebody_new():
    here = Detection(np.array([0.0, 0, 10, 10]))
    assert {k: sorted(v) for k, v in link_boxes({0: [here], 5: [here], 20: [here]}).items()} == {
        "t1": [0, 5],
        "t2": [20],
    }


def _coco(**more):
    points = [[10.0 + i, 20.0 + i, 2] for i in range(17)]
    points[3] = [0, 0, 0]
    return {
        "category_id": 1,
        "bbox": [10, 20, 30, 40],
        "keypoints": np.array(points).reshape(-1).tolist(),
        "num_keypoints": 16,
        **more,
    }


def test_coco_annotations_of_stills(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "000000000139.jpg", "width": 200, "height": 100}],
        "annotations": [
            _coco(id=1, image_id=7),
            _coco(id=2, image_id=7, bbox=[100, 20, 30, 40]),
            _coco(id=3, image_id=7, iscrowd=1),
            _coco(id=4, image_id=7, category_id=18),
        ],
        "categories": [
            {"id": 1, "name": "person", "keypoints": list(COCO17)},
            {"id": 18, "name": "dog"},
        ],
    }
    stills = {"000000000139": video("/i/000000000139.jpg", 1), "5": video("/i/5.jpg", 1)}
    found = read_detections(write(tmp_path / "a.json", json.dumps(content)), stills)
    people = found["000000000139"]
    assert [track[0].box.tolist() for track in people.values()] == [
        [10, 20, 40, 60],
        [100, 20, 130, 60],
    ]
    first = people["t1"][0]
    assert first.joint_set == "coco17" and first.keypoints[0].tolist() == [10, 20, 1]
    assert first.keypoints[3, 2] == 0
    results = [{"image_id": 139, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.25}]
    found = read_detections(write(tmp_path / "r.json", json.dumps(results)), stills)
    assert found["000000000139"]["t1"][0].score == 0.25
    bad = [{"image_id": 139, "category_id": 1, "bbox": [1, 2, "x", 4]}]
    with pytest.raises(UserError, match=r"annotation 0: 'bbox' is not a list of finite numbers"):
        read_detections(write(tmp_path / "x.json", json.dumps(bad)), stills)


def test_coco_tracks_of_videos(tmp_path, takes):
    """CocoVID: frames from 0 in one video, from 1 in the other."""
    images = [
        {"id": 10 * v + f, "video_id": v, "frame_id": f + (v == 2), "file_name": f"x/{f:06d}.jpg"}
        for v in (1, 2)
        for f in (0, 1)
    ]
    content = {
        "videos": [{"id": 1, "name": "take1/cam"}, {"id": 2, "name": "take2/cam"}],
        "images": images,
        "annotations": [
            {"image_id": image["id"], "track_id": 4, "bbox": [1, 1, 8, 8]} for image in images
        ],
    }
    found = boxes_of(read_detections(write(tmp_path / "t.json", json.dumps(content)), takes))
    both = {"4": {0: [1, 1, 9, 9], 1: [1, 1, 9, 9]}}
    assert found == {"take1/cam": both, "take2/cam": both}


def test_posetrack_has_its_own_order_and_numbers_of_images(tmp_path):
    joints = ["nose", "head_bottom", "head_top", "left_ear", "right_ear", *COCO17[5:]]
    points = np.array([[20.0 + i, 30.0 + i, 1] for i in range(17)])
    content = {
        "images": [
            {
                "id": 10342000003,
                "frame_id": 10342000003,
                "vid_id": "000342",
                "file_name": "images/val/000342_mpii/000003.jpg",
            }
        ],
        "annotations": [
            {
                "image_id": 10342000003,
                "track_id": 0,
                "category_id": 1,
                "bbox": [10, 10, 50, 60],
                "keypoints": points.reshape(-1).tolist(),
            }
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": joints}],
    }
    videos = {"000342_mpii": video("/p/000342_mpii.mp4"), "000001_mpii": video("/p/000001.mp4")}
    found = read_detections(write(tmp_path / "p.json", json.dumps(content)), videos)
    detection = found["000342_mpii"]["0"][3]
    order = find_joint_set("coco17").joints
    for name in ("nose", "left_ear", "left_shoulder", "right_ankle"):
        assert detection.keypoints[order.index(name)].tolist() == [
            *points[joints.index(name), :2],
            1,
        ]
    assert detection.keypoints[order.index("left_eye"), 2] == 0


def _openpose(folder, frames, names="walk_{:012d}_keypoints.json"):
    folder.mkdir(parents=True)
    for frame, people in enumerate(frames):
        entries = [{"person_id": [-1], **person} for person in people]
        (folder / names.format(frame)).write_text(json.dumps({"version": 1.3, "people": entries}))
    return str(folder)


def _body(x, y, count=25, scale=1.0):
    """Keypoints in a column below (x, y), the last one not found."""
    points = np.array([[(x + i % 3) * scale, (y + i) * scale, 0.5] for i in range(count)])
    points[-1] = 0
    return points.reshape(-1).tolist()


def test_openpose_is_a_file_a_frame(tmp_path, one):
    hand = np.array([[50.0 + i, 60 + i % 4, 0.9] for i in range(21)]).reshape(-1).tolist()
    people = [
        {"pose_keypoints_2d": _body(40, 20), "hand_left_keypoints_2d": hand},
        {"pose_keypoints_2d": _body(120, 30), "hand_right_keypoints_2d": [0.0] * 63},
    ]
    folder = _openpose(tmp_path / "op", [people, people[::-1], []])
    found = read_detections(folder, one)["walk"]
    assert sorted(found) == ["t1", "t2"] and sorted(found["t1"]) == [0, 1]
    detection = found["t1"][1]
    assert detection.joint_set == "openpose25" and len(detection.keypoints) == 25
    # Points from (40, 20) to (42, 43), and a tenth of 23 around them.
    np.testing.assert_allclose(detection.box, [37.7, 17.7, 44.3, 45.3])
    assert detection.hands["left"].keypoints[3].tolist() == [53, 63, 0.9]
    assert found["t2"][0].hands == {}
    assert detection.where.endswith("walk_000000000001_keypoints.json, person 1")


@pytest.mark.parametrize("scale", ["3", "4"])
def test_openpose_in_shares_of_the_image(tmp_path, one, scale):
    """--keypoint_scale 3 is [0, 1], 4 is [-1, 1]."""
    body = np.array(_body(40, 20)).reshape(-1, 3)
    shares = body.copy()
    shares[:, :2] = body[:, :2] / [200, 100]
    if scale == "4":
        shares[:, :2] = shares[:, :2] * 2 - 1
    shares[body[:, 2] == 0] = 0
    person = {"pose_keypoints_2d": shares.reshape(-1).tolist()}
    found = read_detections(_openpose(tmp_path / "op", [[person]]), one)["walk"]["t1"][0]
    there = body[:, 2] > 0
    np.testing.assert_allclose(found.keypoints[there], body[there])


def test_openpose_of_other_skeletons_and_folders(tmp_path):
    """Pose2Sim's folders are named CAMERA_json, one a camera."""
    videos = {"cam1": video("/v/cam1.mp4"), "cam2": video("/v/cam2.mp4")}
    _openpose(tmp_path / "pose/cam1_json", [[{"pose_keypoints_2d": _body(9, 9, 26)}]], "a_{}.json")
    _openpose(tmp_path / "pose/cam2_json", [[{"pose_keypoints_2d": _body(9, 9, 18)}]], "b_{}.json")
    found = read_detections(str(tmp_path / "pose"), videos)
    halpe, coco = found["cam1"]["t1"][0], found["cam2"]["t1"][0]
    assert halpe.joint_set == coco.joint_set == "coco17"
    assert halpe.keypoints[:, 1].tolist() == [9.0 + i for i in range(17)]
    order = {name: i for i, name in enumerate(COCO17)}
    assert coco.keypoints[order["nose"], 1] == 9
    assert coco.keypoints[order["right_shoulder"], 1] == 9 + 2
    assert coco.keypoints[order["left_shoulder"], 1] == 9 + 5
    assert coco.keypoints[order["left_ear"], 2] == 0
    bad = _openpose(tmp_path / "bad", [[{"pose_keypoints_2d": _body(9, 9, 19)}]])
    with pytest.raises(UserError, match="19 keypoints; known are 17, 18, 25, 26"):
        read_detections(bad, videos)


@pytest.mark.parametrize("more", ["", "0.75", "4", "0.75 4"])
@pytest.mark.parametrize("depth", [0, 2, 3])
def test_ultralytics_labels(tmp_path, one, more, depth):
    """Frames count from 1; box as centre and size, in shares of 200 x 100."""
    points = np.array([[0.3 + 0.01 * i, 0.5, 0.8] for i in range(17)])[:, :depth]
    words = [f"{v:.6g}" for v in points.reshape(-1)] + more.split()
    (tmp_path / "labels").mkdir()
    for frame in (1, 3):
        write(
            tmp_path / f"labels/walk_{frame}.txt",
            " ".join(["0", "0.5", "0.5", "0.2", "0.4", *words])
            + "\n2 0.5 0.5 0.9 0.9"
            + (" " + " ".join(words) if words else "")
            + "\n",
        )
    found = read_detections(str(tmp_path / "labels"), one)["walk"]
    named = "4" in more
    assert len(found) == 1 and list(found)[0] == ("4" if named else "t1")
    track = next(iter(found.values()))
    assert sorted(track) == [0, 2]
    np.testing.assert_allclose(track[0].box, [80, 30, 120, 70])
    assert track[0].score == (0.75 if "0.75" in more else 1)
    if depth:
        np.testing.assert_allclose(track[0].keypoints[16, :2], [0.46 * 200, 50])


def test_ultralytics_labels_of_stills(tmp_path):
    (tmp_path / "labels").mkdir()
    write(tmp_path / "labels/img_12.txt", "0 0.5 0.5 0.2 0.4\n0 0.1 0.5 0.1 0.4\n")
    found = read_detections(
        str(tmp_path / "labels"), {"img_12": video("/i/img_12.png", 1), "b": video("/i/b.png", 1)}
    )
    assert list(found) == ["img_12"] and len(found["img_12"]) == 2
    write(tmp_path / "labels/b.txt", "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4 0.4\n")
    with pytest.raises(UserError, match="rows of 5, 9 values; ultralytics"):
        read_detections(str(tmp_path / "labels"), {"b": video("/i/b.png", 1)})
    write(tmp_path / "labels/b.txt", "0 90 40 20 20\n")
    with pytest.raises(
        UserError, match=r"b.txt:1: .* is not in shares of the image, as theirs are"
    ):
        read_detections(str(tmp_path / "labels"), {"b": video("/i/b.png", 1)}, "ultralytics")


def test_gaps_are_filled_with_boxes_alone():
    points = np.ones((17, 3))
    track = {
        4: Detection(np.array([4.0, 0, 14, 10]), 0.5, points),
        0: Detection(np.array([0.0, 0, 10, 10]), 0.9, points),
    }
    filled = fill_gaps(track, 4)
    assert list(filled) == [0, 1, 2, 3, 4]
    assert filled[1].box.tolist() == [1, 0, 11, 10] and filled[1].score == 0.5
    assert filled[1].keypoints is None and filled[0].keypoints is points
    assert list(fill_gaps(track, 3)) == [0, 4]


def test_outlines_of_coco(tmp_path):
    """A polygon and run lengths of one rectangle, of 24 x 30 pixels."""
    polygon = [[20, 10, 44, 10, 44, 40, 20, 40]]
    inside = np.zeros((100, 200), np.uint8)
    inside[10:40, 20:44] = 1
    flat = inside.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    for outline in (polygon, {"counts": counts, "size": [100, 200]}):
        content = {
            "images": [{"id": 7, "file_name": "a.jpg"}],
            "annotations": [{"image_id": 7, "bbox": [18, 8, 30, 40], "segmentation": outline}],
        }
        path = write(tmp_path / "a.json", json.dumps(content))
        mask = read_detections(path, {"a": video("/i/a.jpg", 1)})["a"]["t1"][0].mask
        cell = (mask.square[2] - mask.square[0]) / len(mask.inside)
        assert abs(mask.inside.sum() * cell**2 - 24 * 30) < 24
        rows, columns = np.nonzero(mask.inside)
        assert abs(mask.square[0] + columns.min() * cell - 20) < 0.5
        assert abs(mask.square[1] + (rows.max() + 1) * cell - 40) < 0.5
    bad = {"counts": [1, 10**12], "size": [100, 200]}
    content["annotations"][0]["segmentation"] = bad
    with pytest.raises(UserError, match="annotation 0: run lengths of 1e.12 pixels in an image of"):
        read_detections(write(tmp_path / "a.json", json.dumps(content)), {"a": video("/a.jpg", 1)})


def test_hands_of_coco_wholebody(tmp_path):
    """Apart from the body in annotations, in one row of 133 points in results."""
    hand = np.array([[50.0 + i, 60 + i % 4, 2] for i in range(21)])
    apart = _coco(image_id=7, lefthand_kpts=hand.reshape(-1).tolist())
    every = np.zeros((133, 3))
    every[:17] = np.array(apart["keypoints"]).reshape(-1, 3)
    every[91:112] = hand
    joined = {"image_id": 7, "category_id": 1, "keypoints": every.reshape(-1).tolist()}
    content = {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [apart, joined]}
    path = write(tmp_path / "a.json", json.dumps(content))
    for track in read_detections(path, {"a": video("/i/a.jpg", 1)})["a"].values():
        assert list(track[0].hands) == ["left"] and len(track[0].keypoints) == 17
        assert track[0].hands["left"].keypoints[4].tolist() == [54, 60, 1]


def test_a_real_file_of_coco(samples):
    """Outlines against the areas that the annotations have, keypoints against the boxes."""
    folder = samples / "coco_keypoints"
    path = folder / "person_keypoints_one.json"
    image = {"000000000785": video(str(folder / "000000000785.jpg"), 1, (640, 425))}
    found = read_detections(str(path), image)["000000000785"]
    listed = json.loads(path.read_text())["annotations"]
    assert len(found) == len(listed)
    for annotation, track in zip(listed, found.values(), strict=True):
        mask, box = track[0].mask, track[0].box
        cell = (mask.square[2] - mask.square[0]) / len(mask.inside)
        assert abs(mask.inside.sum() * cell**2 / annotation["area"] - 1) < 0.03
        there = track[0].keypoints[:, 2] > 0
        assert there.sum() == annotation["num_keypoints"]
        points = track[0].keypoints[there, :2]
        assert (points > box[:2] - 2).all() and (points < box[2:] + 2).all()


def _damage(random, value):
    """A JSON value with one part of it replaced by something that has no business there."""
    places = [(None, None)]
    todo = [value]
    while todo:
        one = todo.pop()
        keys = one if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        places += [(one, key) for key in keys]
        todo += [one[key] for key in keys]
    inside, key = places[random.integers(len(places))]
    others = [None, True, -1, 1e400, "x", [], {}, [[]], 10**30, ["a"], {"counts": [1], "size": [1]}]
    other = others[random.integers(len(others))]
    if inside is None:
        return other
    inside[key] = other
    return value


def test_damaged_files_are_told_or_read_and_nothing_else(tmp_path, one):
    """JSON with a part that does not belong there; tables with letters that do not."""
    random = np.random.default_rng(0)
    image = {"id": 1, "video_id": 1, "frame_id": 0, "file_name": "walk/000000.jpg"}
    outline = [[1, 1, 20, 1, 20, 30]]
    coco = {
        "videos": [{"id": 1, "name": "walk"}],
        "images": [image],
        "annotations": [_coco(image_id=1, track_id=1, segmentation=outline)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17)}],
    }
    person = {"person_id": [-1], "pose_keypoints_2d": _body(40, 20)}
    own = [{"video": "walk", "frame": 0, "x0": 1, "y0": 2, "x1": 9, "y1": 9, "person": "a"}]
    tables = (HEADER + "walk,0,1,2,30,40,a\n", "1,-1,5,5,30,30,1,-1,-1,-1\n")
    told = 0
    for number in range(400):
        kind = ("coco", "openpose", "json", "csv", "mot")[number % 5]
        value = {"coco": coco, "openpose": {"people": [person]}, "json": own}.get(kind)
        if value is None:
            letters = list(tables[kind == "mot"])
            place = random.integers(len(letters))
            letters[place] = random.choice(list(',;"-\n0e\t\0é['))
            path = write(tmp_path / f"{number}.csv", "".join(letters))
        else:
            damaged = _damage(random, json.loads(json.dumps(value)))
            path = write(tmp_path / f"{number}.json", json.dumps(damaged))
        try:
            found = read_detections(path, one, kind)
        except UserError as error:
            told += 1
            assert "\n" not in str(error) and str(tmp_path) in str(error)
            continue
        for track in found.get("walk", {}).values():
            for frame, detection in track.items():
                x0, y0, x1, y1 = detection.box
                assert 0 <= frame < 10 and x0 < x1 and y0 < y1 and 0 <= detection.score <= 1
                assert np.isfinite(detection.box).all()
    assert 50 < told < 350
