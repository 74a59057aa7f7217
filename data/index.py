"""The small index beside each tar: where each member lies, so that one clip is read with a seek.

``NAME.tar.index.npz`` is only a cache: it is rebuilt when it is missing, older than the tar or for another tar. Its arrays are
mapped, not loaded: a reader touches the few bytes of the clips it wants, and the processes of a node share them.
"""

import contextlib
import hashlib
import io
import mmap
import os
import sys
import tarfile
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from data.names import mark
from data.samples import FORMAT, KINDS, decode_meta
from engine.errors import UserError, explain, failure_of

INDEX_FORMAT = 2
PAIR_KINDS = ("cross_view", "cross_pose")


@dataclass
class Index:
    """Where the samples of one tar lie.

    Attributes:
        path: the tar.  tar_bytes: its size.
        size: pixels of a crop's side (the largest, if they differ).
        digest: 16 hex digits that change when a sample is added, dropped, renamed or resized.
        keys: (n,) names.
        offers: (n,) uint8, bit 2*k + p is set where the clip has a pair of crops of KINDS[k] that is PAIR_KINDS[p].
        starts: (n + 1,) where each sample's rows begin in the three columns below.
        suffix, offsets, lengths: a row a member: which of ``suffixes`` follows the key's dot, first byte in the tar, bytes.
        suffixes: the names that occur.
        people: (n,) uint64, data.names.mark of each clip's subject, 0 where its JSON is unreadable; None in an index of
            before people were kept in it.
    """

    path: str
    tar_bytes: int
    size: int
    digest: str
    keys: np.ndarray
    offers: np.ndarray
    starts: np.ndarray
    suffix: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    suffixes: list
    people: np.ndarray | None = None

    def __len__(self):
        return len(self.keys)

    def members(self, i):
        """{suffix: (offset, length)} of sample i."""
        rows = slice(self.starts[i], self.starts[i + 1])
        spans = zip(self.offsets[rows].tolist(), self.lengths[rows].tolist(), strict=True)
        return dict(zip([self.suffixes[name] for name in self.suffix[rows].tolist()], spans, strict=True))


def index_path(path):
    return path + ".index.npz"


def read_index(path):
    """The index of a tar on this machine, from the file beside it or built anew.

    Raises:
        UserError: the tar is cut off, is no tar, or its samples are no clips.
    """
    index = _stored_index(path)
    if index is None:
        index = build_index(path)
        save_index(index, index_path(path))
    return index


def with_people(index):
    """A local tar's index that lists people: the same, or one made anew where it is of before they were kept in it."""
    if index.people is None:
        index = build_index(index.path)
        save_index(index, index_path(index.path))
    return index


def _stored_index(path):
    """The index beside a tar, or None where it is missing, damaged or another tar's: it is only a cache."""
    beside = index_path(path)
    try:
        if os.path.getmtime(beside) < os.path.getmtime(path):
            return None
        index = load_index(beside, path)
        return index if index and fits(index, path) else None
    except OSError:
        return None


def load_index(file, path):
    """The Index in an npz file for the tar ``path``, or None where the file is damaged or of an older format.

    Raises:
        UserError: a newer version of this software wrote it.
        OSError: it cannot be read.
    """
    try:
        a = _map_npz(file)
        if int(a["format"]) > INDEX_FORMAT:
            raise UserError(f"{file} has format {int(a['format'])}; this software reads up to {INDEX_FORMAT}")
        return Index(path, int(a["tar_bytes"]), int(a["size"]), str(a["digest"]), a["keys"], a["offers"], a["starts"],
                     a["suffix"], a["offsets"], a["lengths"], a["suffixes"].tolist(), a.get("people"))
    except (KeyError, ValueError, EOFError, IndexError, zipfile.BadZipFile):
        return None


def _map_npz(path):
    """{name: array} of an npz whose members are not compressed; the arrays look into the mapped file.

    Raises:
        ValueError, zipfile.BadZipFile: it is damaged (each member's checksum is compared) or no such file.
    """
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError("an empty file")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    arrays = {}
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError("compressed")
        # A member's bytes follow its local header of 30 bytes, name and extra field (PKWARE's APPNOTE, 4.3.7).
        name, extra = (int.from_bytes(data[entry.header_offset + at:entry.header_offset + at + 2], "little") for at in (26, 28))
        first = entry.header_offset + 30 + name + extra
        with memoryview(data)[first:first + entry.file_size] as member:
            if zlib.crc32(member) != entry.CRC:
                raise ValueError("a checksum that disagrees")
        head = io.BytesIO(data[first:first + min(entry.file_size, 512)])
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("an array of another format")
        shape, _, kind = np.lib.format.read_array_header_1_0(head)
        if kind.hasobject:
            raise ValueError("pickled objects")
        flat = np.frombuffer(data, kind, int(np.prod(shape)), first + head.tell())
        arrays[entry.filename.removesuffix(".npy")] = flat.reshape(shape)
    return arrays


def fits(index, tar):
    """Whether the file ``tar`` has the size and, at a few places, the headers that an index promises.

    Sizes of tars are multiples of 10 kB, and a tar that was moved or copied here may be older than the index it replaces
    the tar of.

    Raises:
        OSError: it cannot be read.
    """
    if os.path.getsize(tar) != index.tar_bytes:
        return False
    with open(tar, "rb") as file:
        for sample in {0, len(index) // 2, len(index) - 1}:
            for suffix, (offset, length) in index.members(sample).items():
                file.seek(offset - 512)
                header = file.read(512)
                name = header[:100].rstrip(b"\0").decode(errors="replace").rpartition("/")[2]
                member = f"{index.keys[sample]}.{suffix}".rpartition("/")[2]
                if not member.startswith(name) or header[124:135] != b"%011o" % length:
                    return False
    return True


def build_index(path):
    """Read a tar's headers and JSON members; see read_index."""
    keys, starts, rows, metas = [], [0], [], []
    try:
        total = os.path.getsize(path)
        with tarfile.open(path, "r:") as tar, open(path, "rb") as raw:
            for member in tar:
                if not member.isfile():
                    continue
                end = member.offset_data + member.size
                if end > total:
                    raise UserError(f"shard {path} is cut off: {member.name} ends at byte {end}, the file at {total}")
                folder, _, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                key = f"{folder}/{key}" if folder else key
                if not keys or keys[-1] != key:
                    keys.append(key)
                    starts.append(starts[-1])
                    metas.append(None)
                starts[-1] += 1
                rows.append((suffix, member.offset_data, member.size))
                if suffix == "json":
                    raw.seek(member.offset_data)
                    metas[-1] = raw.read(member.size)
            # Python's tarfile takes a file that ends after any whole member; a real end is two empty blocks.
            raw.seek(tar.offset if rows else 0)
            if raw.read(512).strip(b"\0") or raw.tell() % 512 or total < (tar.offset + 512):
                raise UserError(f"shard {path} is cut off after {len(keys)} samples: the tar's end mark is missing")
    except tarfile.TarError as error:
        raise UserError(f"shard {path} is cut off or no tar: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise failure_of(error, f"cannot read shard {path}: {explain(error)}") from None
    if len(set(keys)) != len(keys):
        raise UserError(f"shard {path}: members of one sample do not lie together, or two samples have one key")
    if not keys or not any(metas):
        raise UserError(f"shard {path} holds no clips: none of its {len(keys)} samples has a .json member")
    sizes, offers, people = _offers(path, keys, metas)
    names, offsets, lengths = zip(*rows, strict=True)
    suffixes, suffix = np.unique(np.array(names), return_inverse=True)
    columns = np.array(starts, np.int64), np.array(offsets, np.int64), np.array(lengths, np.int64)
    return Index(path, total, max(sizes), _digest(keys, names, *columns), np.array(keys), np.array(offers, np.uint8),
                 columns[0], suffix.astype(np.uint16), *columns[1:], suffixes.tolist(), np.array(people, np.uint64))


def _digest(keys, names, *columns):
    hasher = hashlib.blake2b("\n".join([*keys, *names]).encode(), digest_size=8)
    for column in columns:
        hasher.update(column.tobytes())
    return hasher.hexdigest()


def pair_matrix(clip, pair_kind, crop_kinds=KINDS):
    """(N, N) bool, true at [a, b] where those crops are a cross-view or cross-pose pair, before any rule."""
    times = np.array([crop.time_s for crop in clip.crops])
    cameras = np.array([crop.camera for crop in clip.crops])
    kinds = np.array([KINDS.index(crop.kind) if crop.kind in crop_kinds else -1 for crop in clip.crops])
    same_time, same_camera = times[:, None] == times, cameras[:, None] == cameras
    wanted = same_time & ~same_camera if pair_kind == "cross_view" else same_camera & ~same_time
    return wanted & (kinds[:, None] == kinds) & (kinds >= 0)


def _offers(path, keys, metas):
    sizes, offers, people = [0], [], []
    for key, data in zip(keys, metas, strict=True):
        bits = who = 0
        if data is not None:
            # A sample whose JSON is bad offers nothing here; `verify` lists it and the loader replaces and counts it.
            with contextlib.suppress(ValueError):
                clip = decode_meta(data, f"{path}:{key}")
                sizes.append(clip.size)
                who = mark(clip.subject)
                for k, kind in enumerate(KINDS):
                    for p, pair_kind in enumerate(PAIR_KINDS):
                        bits |= bool(pair_matrix(clip, pair_kind, (kind,)).any()) << (2 * k + p)
        offers.append(bits)
        people.append(who)
    return sizes, offers, people


def save_index(index, file):
    """Write an index; where the folder cannot be written, a note says so and nothing else happens."""
    temporary = f"{file}.{os.getpid()}.npz"
    people = {} if index.people is None else {"people": index.people}
    try:
        np.savez(temporary, format=INDEX_FORMAT, clip_format=FORMAT, tar_bytes=index.tar_bytes, size=index.size,
                 digest=index.digest, keys=index.keys, offers=index.offers, starts=index.starts, suffixes=index.suffixes,
                 suffix=index.suffix, offsets=index.offsets, lengths=index.lengths, **people)
        os.replace(temporary, file)
    except OSError as error:
        print(f"note: index {file} not written ({explain(error)}); it is built anew at each start", file=sys.stderr)
        with contextlib.suppress(OSError):
            os.remove(temporary)
