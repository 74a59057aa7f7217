"""Rows of the npz files and tars that HaMeR and 4D-Humans train on: one person a row.

An npz names each image in ``imgname``. A tar is of WebDataset: KEY.jpg and KEY.data.pyd, which is a
pickle of a list of dicts, a person each, read without executing anything. Both have center (2,) and
scale, which is the side of the person's box over 200 pixels, alike.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.sources.labelled import LabelledImage, LabelledSource
from data.sources.labelled.archives import ArchiveMember, list_members, open_files
from data.sources.labelled.bodies import reading, take_text, take_tree
from data.sources.labelled.npz import read_npz
from data.sources.labelled.pickles import read_pickle
from engine.config.parser import key
from engine.errors import UserError

PICKLE, IMAGES = ".data.pyd", (".jpg", ".jpeg", ".png")
ARRAYS = {"imgname", "center", "scale"}


@dataclass
class PersonRow:
    """One row.

    Attributes:
        image: what LabelledImage takes.  name: what the data set calls it.
        number: which person of the image, or which row of the npz.
        values: {name: its part of the row}.
    """

    image: str | ArchiveMember
    name: str
    number: int
    values: Mapping[str, Any]


@dataclass
class RowSource(LabelledSource):
    """A data set in npz files or tars."""

    files: str = key("", "npz files or tars inside root= with commas between; default: all there")
    images: str = key(
        "",
        "folder, zip or tar that imgname starts at, inside root= or a path of its own",
        path="one",
    )
    split: str = key("", "which part of the data set it is, stored with each clip")

    def read_rows(
        self, fields: Sequence[str], make: Callable[[str, PersonRow], LabelledImage]
    ) -> Iterator[LabelledImage]:
        """Yield what ``make`` makes of (file, row), of every row.

        Args:
            fields: names that an npz may have and that are read, besides those of every row.
        """
        for path in self.follow(self._list_paths()):
            what = f"file of {self.name or 'rows'}"
            rows = _read_npz if path.endswith(".npz") else _read_tar
            name = os.path.relpath(path, self.root)
            with reading(path, what):
                for row in rows(self, path, fields):
                    yield make(name, row)

    def _list_paths(self) -> list[str]:
        names = [name.strip() for name in self.files.split(",") if name.strip()]
        if not names and os.path.isfile(self.root):
            return [self.root]
        if not names:
            try:
                found = sorted(os.listdir(self.root))
            except OSError as error:
                raise UserError(f"root={self.root} cannot be read: {error.strerror}") from None
            names = [name for name in found if name.endswith((".npz", ".tar"))]
        if not names:
            raise UserError(f"root={self.root} holds no .npz and no .tar; name them with files=")
        return [os.path.join(self.root, name) for name in names]


def _read_npz(source: RowSource, path: str, fields: Sequence[str]) -> Iterator[PersonRow]:
    tree = read_npz(path, {*ARRAYS, *fields})
    for name in ARRAYS:
        if name not in tree:
            raise KeyError(name)
    files = open_files(os.path.join(source.root, source.images), "images")
    count = len(tree["imgname"])
    for name, values in tree.items():
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} rows, imgname has {count}")
    for row in source.follow(range(count)):
        name = take_text(tree["imgname"][row])
        values = {field: array[row] for field, array in tree.items()}
        yield PersonRow(files.image(name.lstrip("/")), name, row, values)


def _read_tar(source: RowSource, path: str, fields: Sequence[str]) -> Iterator[PersonRow]:
    members = list_members(path)
    there = set(members)
    for member in source.follow([name for name in members if name.endswith(PICKLE)]):
        stem = member.removesuffix(PICKLE)
        image = next((stem + end for end in IMAGES if stem + end in there), stem + IMAGES[0])
        people = read_pickle(ArchiveMember(path, member).read(), f"{path}: {member}")
        if not isinstance(people, list):
            raise TypeError(f"{member} is a {type(people).__name__}, not a list of people")
        for number, values in enumerate(people):
            row = take_tree(values)
            yield PersonRow(ArchiveMember(path, image), image, number, row)


def is_labelled(row: PersonRow, name: str, flag: str) -> bool:
    """Whether a row has a value, and does not say that it is none."""
    if row.values.get(name) is None:
        return False
    known = row.values.get(flag)
    return True if known is None else bool(np.asarray(known).ravel()[0])
