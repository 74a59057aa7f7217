"""The videos of a folder, by name."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_MPEG = (".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts")
_MP4 = (".mp4", ".m4v", ".mov", ".3gp")
VIDEO_SUFFIXES = frozenset((*_MP4, *_MPEG, ".avi", ".mkv", ".webm", ".mxf", ".wmv", ".flv", ".ogv"))
IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))


def find_videos(where: str) -> dict[str, str]:
    """{name: path} of a video file, or of all videos in a folder and its folders, sorted by name.

    A name is the path inside the folder with "/", without the suffix unless two differ in their
    suffix alone. Hidden files and folders are left out.

    Raises:
        ValueError: the folder holds images, but no video.
        FileNotFoundError: nothing there.
    """
    if os.path.isfile(where):
        return {_stem(os.path.basename(where)): where}
    inside = sorted(_walk(where))
    videos = [name for name in inside if Path(name).suffix.lower() in VIDEO_SUFFIXES]
    images = [name for name in inside if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if images and not videos:
        raise ValueError(
            f"it holds {len(images)} images ({images[0]}, ...) and no video; a video of them is "
            "made by ffmpeg, and reader=image_folders takes a folder of images a person"
        )
    shared = Counter(_stem(name) for name in videos)
    found = {}
    for name in videos:
        key = _stem(name) if shared[_stem(name)] == 1 else name
        found[key] = os.path.join(where, *name.split("/"))
    return dict(sorted(found.items()))


def _stem(name):
    """A path without the suffix of a video; other dots are of the name."""
    base, suffix = os.path.splitext(name)
    return base if suffix.lower() in VIDEO_SUFFIXES else name


def _walk(where) -> Iterator[str]:
    """Yield the paths inside a folder with "/"; a link back to a folder above is not followed."""
    if not os.path.isdir(where):
        raise FileNotFoundError(where)
    seen = set()
    for folder, folders, files in os.walk(where, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(folder, where)
        for name in files:
            if not name.startswith("."):
                path = name if inside == "." else os.path.join(inside, name)
                yield path.replace(os.sep, "/")
