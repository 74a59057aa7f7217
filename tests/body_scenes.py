"""Made people before made cameras, and images with dots where their joints are.

Readers of body datasets are tested on files of the published formats made from these: the dots in
the crops have to lie where the crops' labels and cameras say.
"""

from pathlib import Path

import cv2
import numpy as np

from data.format.clip import decode_masks
from data.format.index import read_index
from data.format.labels import read_labels
from data.loading.reader import ClipReader
from data.storage.shard_store import Store

GREY = 90
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))  # of the first three joints that have a dot
SIZE = 640, 480
K = np.array([[500.0, 0, 322], [0, 510, 236], [0, 0, 1]])


def rotation(*rotvec):
    """(3, 3) of a rotation vector."""
    return cv2.Rodrigues(np.array(rotvec, np.float64))[0]


def pose(*rotvec, t):
    """(4, 4) of a camera, world to camera."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation(*rotvec), t
    return out


def body(rng, count, middle=(0, 0, 0)):
    """(count, 3) joints of somebody 1.6 m high, and those with dots well apart."""
    joints = rng.uniform(-0.35, 0.35, (count, 3)) * [1, 2, 0.5]
    joints[:3] = [[-0.3, -0.7, 0], [0.3, 0, 0.1], [-0.2, 0.7, -0.1]]
    return joints + middle


def to_pixels(joints, K, wc=None):
    """(n, 2) where joints fall by a camera (4, 4) world to camera, in K's own convention."""
    if wc is not None:
        joints = joints @ wc[:3, :3].T + wc[:3, 3]
    pixels = joints @ K.T
    return pixels[:, :2] / pixels[:, 2:]


def draw(pixels, size=SIZE, into=None, turned=False):
    """An image with dots whose middles are at pixels (3, 2), the first one's centre at (0, 0)."""
    width, height = size
    image = np.full((height, width, 3), GREY, np.uint8) if into is None else into
    for point, colour in zip(pixels[:3], COLOURS, strict=True):
        at = np.round(np.asarray(point) * 16).astype(int).tolist()
        cv2.circle(image, at, 6 * 16, colour, -1, cv2.LINE_AA, 4)
    return np.ascontiguousarray(np.rot90(image)) if turned else image


def save(path, image):
    """Write an image and its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    params = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    assert cv2.imwrite(str(path), image[..., ::-1], params if str(path).endswith("jpg") else [])


def find_dots(crop):
    """(3, 2) middles of the dots in a crop (S, S, 3), its first pixel's centre at (0.5, 0.5)."""
    out = []
    for channel in range(3):
        others = np.delete(crop.astype(float), channel, 2).max(2)
        weight = np.clip(crop[..., channel] - others - 60, 0, None)
        assert weight.sum() > 0, f"no dot of colour {channel}"
        y, x = np.nonzero(weight)
        share = weight[y, x] / weight[y, x].sum()
        out.append([(x * share).sum() + 0.5, (y * share).sum() + 0.5])
    return np.array(out)


def clips_of(folder):
    """[(Clip, images (N, S, S, 3), Labels, masks or None), ...] of all shards."""
    store, out = Store(None), []
    reader = ClipReader(store)
    for path in sorted(map(str, Path(folder).glob("*.tar"))):
        for index in range(len(read_index(path))):
            clip, members = reader.clip(path, index)
            count = len(clip.crops)
            images = np.stack([reader.image(path, members, crop) for crop in range(count)])
            labels = read_labels(store.read(path, *members["labels.npz"]), count)
            masks = None
            if "masks.bin" in members:
                masks = decode_masks(store.read(path, *members["masks.bin"]), count)
            out.append((clip, images, labels, masks))
    return out


def check_projection(clip, images, labels, atol=0.6):
    """3D joints, through the crop's camera, fall on the dots and on the 2D keypoints."""
    for number, crop in enumerate(clip.crops):
        known = labels.at(number)
        rt = np.array(crop.Rt)
        in_camera = known.joints.points[:3] @ rt[:, :3].T + rt[:, 3]
        pixels = to_pixels(in_camera, np.array(crop.K))
        np.testing.assert_allclose(find_dots(images[number]), pixels, atol=atol)
        if known.keypoints is not None and known.keypoints.joint_set == known.joints.joint_set:
            np.testing.assert_allclose(known.keypoints.points[:3], pixels, atol=0.05)


def check_keypoints(images, labels, number=0, atol=0.6):
    """2D keypoints lie on the dots."""
    points = labels.at(number).keypoints.points[:3]
    np.testing.assert_allclose(find_dots(images[number]), points, atol=atol)
