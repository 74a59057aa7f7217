"""Shards: writing them whole, finding them, and the small index beside each tar.

A shard is a plain WebDataset tar; ``tar tf`` and webdataset's own reader understand it. ``NAME.tar.index.npz`` beside it
says where each member lies, so that one clip is read with a seek. It is rebuilt when it is missing or older than the tar,
and kept in memory where the folder cannot be written.
"""

import contextlib
import errno
import glob
import hashlib
import os
import sys
import tarfile
import zipfile
from dataclasses import dataclass

import numpy as np

from data.samples import FORMAT, KINDS, decode_meta, encode
from engine.errors import UserError

INDEX_FORMAT = 1
PAIR_KINDS = ("cross_view", "cross_pose")


@dataclass
class Index:
    """Where the samples of one tar lie.

    Attributes:
        path: the tar.
        size: pixels of a crop's side (the largest, if they differ).
        keys: (n,) names.
        offers: (n,) uint8, bit 2*k + p is set where the clip has a pair of crops of KINDS[k] that is PAIR_KINDS[p].
        starts: (n + 1,) where each sample's rows begin in the three columns below.
        suffixes, offsets, lengths: a row a member: name after the key's dot, first byte in the tar, bytes.
    """

    path: str
    size: int
    keys: np.ndarray
    offers: np.ndarray
    starts: np.ndarray
    suffixes: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    def __len__(self):
        return len(self.keys)

    def members(self, i):
        """{suffix: (offset, length)} of sample i."""
        rows = slice(self.starts[i], self.starts[i + 1])
        spans = zip(self.offsets[rows].tolist(), self.lengths[rows].tolist(), strict=True)
        return dict(zip(self.suffixes[rows].tolist(), spans, strict=True))

    def digest(self):
        """16 hex digits that change when a sample is added, dropped, renamed or resized."""
        hasher = hashlib.blake2b(digest_size=8)
        for part in (self.keys.astype("U"), self.starts, self.offsets, self.lengths):
            hasher.update("\n".join(part.tolist()).encode() if part.dtype.kind == "U" else part.tobytes())
        return hasher.hexdigest()


def shard_name(number):
    return f"shard-{number:06d}.tar"


def write_shard(path, clips):
    """Write clips as one tar and its index; the name appears only when the bytes are safe on disk.

    Args:
        path: the tar's final name.  clips: an iterable of data.samples.Clip, at least one.
    Returns:
        the number of clips.
    Raises:
        UserError: the folder cannot be written, the disk is full, two clips have one key.
    """
    from webdataset import TarWriter  # here, because it imports torch: 4 s that a loader's worker must not pay

    temporary, seen = f"{path}.writing-{os.getpid()}", set()
    try:
        with open(temporary, "wb") as file:
            with TarWriter(file, encoder=False, mtime=0) as writer:
                for clip in clips:
                    if clip.key in seen:
                        raise UserError(f"{path}: two clips have the key {clip.key}")
                    seen.add(clip.key)
                    writer.write({"__key__": clip.key, **encode(clip)})
            file.flush()
            os.fsync(file.fileno())
        if not seen:
            raise UserError(f"{path}: no clips to write")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write shard {path}: {explain(error)}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
    # Built whatever lies beside: an index of the tar that had this name may be as large and, to the clock's tick, as old.
    index = build_index(path)
    _save_index(index, index_path(path))
    return len(index)


def index_path(path):
    return path + ".index.npz"


def explain(error):
    """An OSError in a user's words."""
    if error.errno == errno.ENOSPC:
        return "no space left on the device"
    return (error.strerror or str(error)).lower()


def find_shards(spec):
    """Sorted tar paths of ``DIR``, ``FILE.tar``, a glob, or several of them with commas between.

    Raises:
        UserError: a path that does not exist, a folder without tars.
    """
    found = []
    for part in filter(None, (p.strip() for p in (spec.split(",") if isinstance(spec, str) else spec))):
        if os.path.isdir(part):
            tars = sorted(glob.glob(os.path.join(glob.escape(part), "*.tar")))
            if not tars:
                raise UserError(f"folder {part} holds no shards (*.tar)")
        elif os.path.isfile(part):
            tars = [part]
        else:
            tars = sorted(glob.glob(part))
            if not tars:
                raise UserError(f"no shards at {part}: no such folder or file")
        found += tars
    if not found:
        raise UserError("no shards were named")
    refuse_twice(found)
    return found


def refuse_twice(paths):
    """Raises UserError where one tar is named twice: its held-out clips would be trained on."""
    seen = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise UserError(f"shard {path} is named twice (also as {seen[real]})")
        seen[real] = path


def read_index(path):
    """The index of a tar, from the file beside it or built anew.

    Raises:
        UserError: the tar is cut off, is no tar, or its samples are no clips.
    """
    index = _stored_index(path)
    if index is None:
        index = build_index(path)
        _save_index(index, index_path(path))
    return index


def _stored_index(path):
    """The index beside a tar, or None where it is missing, damaged or another tar's: it is only a cache."""
    beside = index_path(path)
    try:
        if os.path.getmtime(beside) >= os.path.getmtime(path):
            with np.load(beside, allow_pickle=False) as a:
                if int(a["format"]) > INDEX_FORMAT:
                    raise UserError(f"{beside} has format {int(a['format'])}; this software reads up to {INDEX_FORMAT}")
                index = Index(path, int(a["size"]), a["keys"], a["offers"], a["starts"], a["suffixes"][a["suffix"]],
                              a["offsets"], a["lengths"])
                if int(a["tar_bytes"]) == os.path.getsize(path) and _fits(index):
                    return index
    except (OSError, KeyError, ValueError, EOFError, IndexError, zipfile.BadZipFile):
        return None
    return None


def _fits(index):
    """Whether the tar has the headers that an index promises, at a few places.

    Sizes of tars are multiples of 10 kB, and a tar that was moved or copied here may be older than the index it replaces
    the tar of.
    """
    with open(index.path, "rb") as file:
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
        raise UserError(f"cannot read shard {path}: {explain(error)}") from None
    if len(set(keys)) != len(keys):
        raise UserError(f"shard {path}: members of one sample do not lie together, or two samples have one key")
    if not keys or not any(metas):
        raise UserError(f"shard {path} holds no clips: none of its {len(keys)} samples has a .json member")
    sizes, offers = _offers(path, keys, metas)
    suffixes, offsets, lengths = zip(*rows, strict=True)
    return Index(path, max(sizes), np.array(keys), np.array(offers, np.uint8), np.array(starts, np.int64),
                 np.array(suffixes), np.array(offsets, np.int64), np.array(lengths, np.int64))


def pair_matrix(clip, pair_kind, crop_kinds=KINDS):
    """(N, N) bool, true at [a, b] where those crops are a cross-view or cross-pose pair, before any rule."""
    times = np.array([crop.time_s for crop in clip.crops])
    cameras = np.array([crop.camera for crop in clip.crops])
    kinds = np.array([KINDS.index(crop.kind) if crop.kind in crop_kinds else -1 for crop in clip.crops])
    same_time, same_camera = times[:, None] == times, cameras[:, None] == cameras
    wanted = same_time & ~same_camera if pair_kind == "cross_view" else same_camera & ~same_time
    return wanted & (kinds[:, None] == kinds) & (kinds >= 0)


def _offers(path, keys, metas):
    sizes, offers = [0], []
    for key, data in zip(keys, metas, strict=True):
        bits = 0
        if data is not None:
            # A sample whose JSON is bad offers nothing here; `verify` lists it and the loader replaces and counts it.
            with contextlib.suppress(ValueError):
                clip = decode_meta(data, f"{path}:{key}")
                sizes.append(clip.size)
                for k, kind in enumerate(KINDS):
                    for p, pair_kind in enumerate(PAIR_KINDS):
                        bits |= bool(pair_matrix(clip, pair_kind, (kind,)).any()) << (2 * k + p)
        offers.append(bits)
    return sizes, offers


def _save_index(index, beside):
    names, rows = np.unique(index.suffixes, return_inverse=True)
    temporary = f"{beside}.{os.getpid()}.npz"
    try:
        np.savez(temporary, format=INDEX_FORMAT, clip_format=FORMAT, tar_bytes=os.path.getsize(index.path), size=index.size,
                 keys=index.keys, offers=index.offers, starts=index.starts, suffixes=names, suffix=rows.astype(np.uint16),
                 offsets=index.offsets, lengths=index.lengths)
        os.replace(temporary, beside)
    except OSError as error:
        print(f"note: index {beside} not written ({explain(error)}); it is built anew at each start", file=sys.stderr)
        with contextlib.suppress(OSError):
            os.remove(temporary)
