"""The KRT text file of Meta's captures (InterHand2.6M, multiface).

Nine lines a camera: its name, three of the intrinsics, one of k1, k2, p1, p2, k3, three of [R | t]
in millimetres, an empty one (source: load_krt in facebookresearch/multiface, dataset.py).
"""

from data.sources.cameras.documents import Document
from data.sources.cameras.registry import CALIBRATIONS, CalibrationFormat
from data.sources.cameras.rows import CameraRow, refuse_camera

_FIELDS = (("matrix", "its lines 2 to 4"), ("distortion", "its line 5"))
_FIELDS += (("rotation", "its lines 6 to 8"), ("translation", "its lines 6 to 8"))


@CALIBRATIONS.register("krt")
class Krt(CalibrationFormat):
    """Reads a KRT file."""

    title = "a KRT text file"
    unit_m = 0.001

    def recognises(self, document: Document) -> bool:
        """Whether it is text whose first block has a name and rows of 3 numbers."""
        if document.syntax != "text":
            return False
        block = next(iter(_blocks(document.tree)), [])
        return len(block) >= 4 and all(_count(line) == 3 for line in block[1:4])

    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """All cameras of the file."""
        return [_read_camera(block, document.path) for block in _blocks(document.tree)]


def _blocks(lines):
    """Lists of lines that belong together; empty lines part them."""
    found, block = [], []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.strip())
        elif block:
            found.append(block)
            block = []
    return found


def _count(line):
    """How many numbers a line holds; 0 where it holds anything else."""
    try:
        return len([float(word) for word in line.split()])
    except ValueError:
        return 0


def _read_camera(block, path):
    name = block[0].split()[0]
    if len(block) != 8:
        raise refuse_camera(path, name, f"it has {len(block)} lines, where 8 are needed")
    for number, count in zip(range(1, 8), (3, 3, 3, 5, 4, 4, 4), strict=True):
        if _count(block[number]) != count:
            words = f"its line {number + 1} is '{block[number][:60]}', not {count} numbers"
            raise refuse_camera(path, name, words)
    values = [[float(word) for word in line.split()] for line in block[1:]]
    turn = [row[:3] for row in values[4:]]
    return CameraRow(name, values[:3], values[3], turn, [r[3] for r in values[4:]], fields=_FIELDS)
