"""The small index beside each tar: where each member lies, so that one clip is read with a seek.

``NAME.tar.index.npz`` is only a cache: it is rebuilt when it is missing, older than the tar or for
another tar. Its arrays are mapped, not loaded: a reader touches the few bytes of the clips it
wants, and the processes of a node share them.
"""

import contextlib
import hashlib
import os
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from data.format.clip import FORMAT, KINDS, MADE, Clip, decode_meta
from data.format.frame import ASPECTS, decode_frame, find_aspect, is_frame
from data.format.mapped import map_npz
from data.format.moments import Moments, moments_of, unpack_moments
from data.format.names import mark
from data.format.tar import BLOCK, is_end, is_hidden, read_tars
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import replace_file
from engine.run.private import create_file

log = get_logger(__name__)

INDEX_FORMAT = 2
PAIR_KINDS = ("cross_view", "cross_pose")
FIRST_LONE = len(KINDS) * len(PAIR_KINDS)  # first bit of Index.offers for crops without a pair
FIRST_FRAME = FIRST_LONE + len(KINDS)  # first bit of it for whole frames, one an aspect


@dataclass
class Index:
    """Where the samples of one tar lie.

    Attributes:
        path: the tar.  tar_bytes: its size.
        size: pixels of a crop's side (the largest, if they differ).
        digest: 16 hex digits that change when a sample is added, dropped, renamed or resized.
        keys: (n,) names.
        offers: (n,) uint16, bit 2*k + p is set where the clip has a pair of crops of KINDS[k] that
            is PAIR_KINDS[p], and bit 6 + k where it has crops of KINDS[k] but no such pair.
            (Without the latter, and uint8, in an index of clip format 1.) A whole frame
            (data.format.frame) has bit 9 + a alone, of the aspect in ASPECTS that it is nearest to.
        starts: (n + 1,) where each sample's rows begin in the three columns below.
        suffix, offsets, lengths: a row a member: which of ``suffixes`` follows the key's dot, first
            byte in the tar, bytes.
        suffixes: the names that occur.
        notes: what was unusual about the tar when this was built from it, in words; not stored.
        people: (n,) uint64, data.format.names.mark of each clip's subject, or frame's scene, 0
            where its JSON is unreadable; None in an index of before people were kept in it.
        moments: when and where filmed crops were seen; None in an index of before they were kept.
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
    moments: Moments | None = None
    notes: list = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, i: int) -> dict[str, tuple[int, int]]:
        """{suffix: (offset, length)} of sample i."""
        rows = slice(self.starts[i], self.starts[i + 1])
        spans = zip(self.offsets[rows].tolist(), self.lengths[rows].tolist(), strict=True)
        return dict(
            zip([self.suffixes[name] for name in self.suffix[rows].tolist()], spans, strict=True)
        )


def index_path(path: str) -> str:
    """Return the path of a shard's index file."""
    return path + ".index.npz"


def read_index(path: str) -> Index:
    """The index of a tar on this machine, from the file beside it or built anew.

    Raises:
        UserError: the tar is cut off, is not a tar, or its samples are not clips.
        EnvironmentFault: it cannot be read.
    """
    return _told(find_index, path)


def build_index(path: str) -> Index:
    """As ``read_index``, but always from the tar."""
    return _told(index_tar, path)


def _told(function, path):
    try:
        return function(path)
    except OSError as error:
        raise failure_of(error, f"cannot read shard {path}: {explain(error)}") from None


def find_index(path: str) -> Index:
    """As ``read_index``, but a disk that fails is an OSError, for whoever tries again."""
    index = _stored_index(path)
    if index is None:
        index = index_tar(path)
        for note in index.notes:
            log.info("note: shard %s: %s", path, note)
        save_index(index, index_path(path))
    return index


def with_people(index: Index) -> Index:
    """Return a local tar's index that lists people.

    The same, or one made anew where it is of before they were kept in it.
    """
    return index if index.people is not None else _renew(index)


def with_moments(index: Index) -> Index:
    """As ``with_people``, of an index that has moments."""
    return index if index.moments is not None else _renew(index)


def _renew(index):
    index = build_index(index.path)
    save_index(index, index_path(index.path))
    return index


def _stored_index(path):
    """Return the index beside a tar, or None where it is missing, damaged or another tar's.

    It is only a cache.
    """
    beside = index_path(path)
    try:
        if os.path.getmtime(beside) < os.path.getmtime(path):
            return None
        with open(beside, "rb") as file:
            index = load_index(file.fileno(), path, beside)
        return index if index and fits(index, path) else None
    except OSError:
        return None


def load_index(file: int, path: str, name: str) -> Index | None:
    """The Index in an npz for the tar ``path``, or None where it is damaged or of an older format.

    Args:
        file: descriptor of the npz, which may be closed afterwards.  path: of the tar, or its URL.
        name: the npz's, for messages.
    Raises:
        UserError: a newer version of this software wrote it.
        OSError: it cannot be read.
    """
    try:
        a = map_npz(file)
        if int(a["format"]) > INDEX_FORMAT:
            raise UserError(
                f"{name} has format {int(a['format'])}; this software reads up to {INDEX_FORMAT}"
            )
        return Index(
            path,
            int(a["tar_bytes"]),
            int(a["size"]),
            str(a["digest"]),
            a["keys"],
            a["offers"],
            a["starts"],
            a["suffix"],
            a["offsets"],
            a["lengths"],
            a["suffixes"].tolist(),
            a.get("people"),
            unpack_moments(a),
        )
    except (KeyError, ValueError, EOFError, IndexError, zipfile.BadZipFile):
        return None


def fits(index: Index, tar: str | int) -> bool:
    """Return whether the file ``tar`` is the one that an index describes.

    Its size and, at a few places, its headers are as promised, with nothing after.

    Sizes of tars are multiples of 10 kB, and a tar that was moved or copied here may be older than
    the index it replaces the tar of.

    Args:
        tar: a path, or a descriptor, which stays open.
    Raises:
        OSError: it cannot be read.
    """
    if os.stat(tar).st_size != index.tar_bytes:
        return False
    with open(tar, "rb", closefd=not isinstance(tar, int)) as file:
        for sample in {0, len(index) // 2, len(index) - 1}:
            for suffix, (offset, length) in index.members(sample).items():
                file.seek(offset - BLOCK)
                header = file.read(BLOCK)
                name = header[:100].rstrip(b"\0").decode(errors="replace").rpartition("/")[2]
                member = f"{index.keys[sample]}.{suffix}".rpartition("/")[2]
                if not member.startswith(name) or header[124:135] != b"%011o" % length:
                    return False
        # An index that was made before tars joined by cat were read to their end lacks the later
        # ones.
        end = -(-int(index.offsets[-1] + index.lengths[-1]) // BLOCK) * BLOCK
        try:
            return not any(
                _is_wanted(member) for joined in read_tars(file, end) for member in joined
            )
        except tarfile.TarError:
            return False


def _is_wanted(member):
    return member.isfile() and not is_hidden(member.name)


class _Columns:
    """The samples of a tar as they come.

    Keys, first row of each, rows of (suffix, offset, length), JSON of each or None.
    """

    def __init__(self) -> None:
        self.keys, self.starts, self.rows, self.metas = [], [0], [], []

    def add(self, member: tarfile.TarInfo, raw: IO[bytes]) -> None:
        """Enter a member of the tar.

        The bytes of a JSON one are read from ``raw``, the open file.
        """
        folder, _, name = member.name.rpartition("/")
        key, _, suffix = name.partition(".")
        key = f"{folder}/{key}" if folder else key
        if not self.keys or self.keys[-1] != key:
            self.keys.append(key)
            self.starts.append(self.starts[-1])
            self.metas.append(None)
        self.starts[-1] += 1
        self.rows.append((suffix, member.offset_data, member.size))
        if suffix == "json":
            raw.seek(member.offset_data)
            self.metas[-1] = raw.read(member.size)


def index_tar(path: str) -> Index:
    """Read a tar's headers and JSON members. Several tars that cat joined are read to the end.

    Raises:
        UserError: it is cut off, is not a tar, or its samples are not clips.
        OSError: it cannot be read.
    """
    columns, hidden, ends = _Columns(), [], []
    try:
        total = os.path.getsize(path)
        with open(path, "rb") as file, open(path, "rb") as raw:
            for tar in read_tars(file):
                for member in tar:
                    end = member.offset_data + member.size
                    if member.isfile() and end > total:
                        raise UserError(
                            f"shard {path} is cut off: {member.name} ends at byte {end}, the file "
                            f"at {total}"
                        )
                    if _is_wanted(member):
                        columns.add(member, raw)
                    elif member.isfile():
                        hidden.append(member.name)
                # Python's tarfile takes a file that ends after any whole member; a real end is two
                # empty blocks.
                if not is_end(raw, tar.offset, total):
                    _refuse_end(path, tar.offset, columns.keys, ends)
                ends.append(len(columns.keys))
    except tarfile.TarError as error:
        raise UserError(
            f"shard {path} is cut off or no tar: {str(error).splitlines()[0]}"
        ) from None
    keys, metas = columns.keys, columns.metas
    _refuse_apart(path, keys)
    if not keys or not any(metas):
        raise UserError(
            f"shard {path} holds no clips: none of its {len(keys)} samples has a .json member"
        )
    sizes, offers, people, moments = _offers(path, keys, metas)
    names, offsets, lengths = zip(*columns.rows, strict=True)
    suffixes, suffix = np.unique(np.array(names), return_inverse=True)
    arrays = (
        np.array(columns.starts, np.int64),
        np.array(offsets, np.int64),
        np.array(lengths, np.int64),
    )
    return Index(
        path,
        total,
        max(sizes),
        _digest(keys, names, *arrays),
        np.array(keys),
        np.array(offers, np.uint16),
        arrays[0],
        suffix.astype(np.uint16),
        *arrays[1:],
        suffixes.tolist(),
        np.array(people, np.uint64),
        moments,
        _notes(hidden, ends),
    )


def _refuse_end(path, at, keys, ends):
    """UserError for a tar that ends without an end mark, or is followed by what is not a tar."""
    if ends and len(keys) == ends[-1]:
        raise UserError(
            f"shard {path}: what follows the tar's end, from byte {at} on, is not a tar; "
            f"{len(keys)} samples lie "
            f"before it"
        )
    raise UserError(
        f"shard {path} is cut off after {len(keys)} samples: the tar's end mark is missing"
    )


def _refuse_apart(path, keys):
    """UserError, with a name, where members of a sample lie apart."""
    if len(set(keys)) != len(keys):
        key, times = Counter(keys).most_common(1)[0]
        raise UserError(
            f"shard {path}: members of one sample do not lie together, or two samples have one "
            f"key: those of "
            f"'{key}' lie in {times} places"
        )


def _notes(hidden, ends):
    """Words on what is unusual about a tar.

    Args:
        hidden: names of members that were passed over.  ends: samples up to the end of each tar
            that cat joined.
    """
    notes = []
    if hidden:
        notes.append(
            f"{len(hidden)} members whose names begin with a dot are passed over, such as "
            f"{hidden[0]} (macOS adds "
            f"such to what it packs)"
        )
    if len(ends) > 1:
        notes.append(
            f"{len(ends)} tars joined by cat, all read; tar tf and webdataset's own reader see the "
            f"first {ends[0]} of "
            f"{ends[-1]} samples (python -m data merge writes one)"
        )
    return notes


def _digest(keys, names, *columns):
    hasher = hashlib.blake2b("\n".join([*keys, *names]).encode(), digest_size=8)
    for column in columns:
        hasher.update(column.tobytes())
    return hasher.hexdigest()


def pair_matrix(clip: Clip, pair_kind: str, crop_kinds: tuple[str, ...] = KINDS) -> np.ndarray:
    """Return (N, N) bool, true at [a, b] where those crops are a pair of a kind.

    Cross-view or cross-pose, before any rule.
    """
    times = np.array([crop.time_s for crop in clip.crops])
    cameras = np.array([crop.camera for crop in clip.crops])
    kinds = np.array(
        [KINDS.index(crop.kind) if crop.kind in crop_kinds else -1 for crop in clip.crops]
    )
    same_time, same_camera = times[:, None] == times, cameras[:, None] == cameras
    wanted = same_time & ~same_camera if pair_kind == "cross_view" else same_camera & ~same_time
    return wanted & (kinds[:, None] == kinds) & (kinds >= 0)


def offer_bits_of(clip: Clip) -> int:
    """What a clip offers, as bits; see Index.offers."""
    bits = 0
    for k, kind in enumerate(KINDS):
        if not any(crop.kind == kind for crop in clip.crops):
            continue
        pairs = 0
        for p, pair_kind in enumerate(PAIR_KINDS):
            pairs |= bool(pair_matrix(clip, pair_kind, (kind,)).any()) << p
        bits |= pairs << 2 * k if pairs else 1 << FIRST_LONE + k
    return bits


def aspects_of(offers: int) -> list[int]:
    """Of which ASPECTS, by number, there are whole frames, by bits of Index.offers."""
    return [a for a in range(len(ASPECTS)) if offers >> FIRST_FRAME + a & 1]


def crop_kinds_of(offers: int) -> list[str]:
    """Of which KINDS there are crops, by bits of Index.offers."""
    found = []
    for k, kind in enumerate(KINDS):
        if offers & (0b11 << 2 * k | 1 << FIRST_LONE + k):
            found.append(kind)
    return found


def _offers(path, keys, metas):
    sizes, offers, people, clips = [0], [], [], []
    for number, (key, data) in enumerate(zip(keys, metas, strict=True)):
        bits = who = 0
        if data is not None:
            # A sample whose JSON is bad offers nothing here; `verify` lists it and the loader
            # replaces and counts it.
            with contextlib.suppress(ValueError):
                if is_frame(data):
                    frame = decode_frame(data, f"{path}:{key}")
                    sizes.append(max(frame.width, frame.height))
                    who = mark(frame.scene)
                    bits = 1 << FIRST_FRAME + find_aspect(frame.width, frame.height)
                else:
                    clip = decode_meta(data, f"{path}:{key}")
                    sizes.append(clip.size)
                    who = mark(clip.subject)
                    bits = offer_bits_of(clip)
                    if clip.source != MADE:
                        clips.append((number, clip))
        offers.append(bits)
        people.append(who)
    return sizes, offers, people, moments_of(clips)


def save_index(index: Index, file: str) -> None:
    """Write an index.

    Where the folder cannot be written, a note says so and nothing else happens.
    """
    more = {} if index.people is None else {"people": index.people}
    if index.moments is not None:
        more |= index.moments.pack()
    try:
        with (
            replace_file(file) as temporary,
            os.fdopen(create_file(str(temporary), 0o666), "wb") as out,
        ):
            np.savez(
                out,
                format=INDEX_FORMAT,
                clip_format=FORMAT,
                tar_bytes=index.tar_bytes,
                size=index.size,
                digest=index.digest,
                keys=index.keys,
                offers=index.offers,
                starts=index.starts,
                suffixes=index.suffixes,
                suffix=index.suffix,
                offsets=index.offsets,
                lengths=index.lengths,
                **more,  # type: ignore - numpy's stubs take any name for its switch
            )
    except OSError as error:
        log.info(
            "note: index %s not written (%s); it is built anew at each start", file, explain(error)
        )
