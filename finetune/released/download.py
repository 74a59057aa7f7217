"""Weights from a URL, kept in a cache: whole or not at all, resumed, their hash checked.

    https://host/body.safetensors#sha256=HEX

Processes of a machine that want the same file take turns by a lock beside it: one downloads, the
others find it. Plain http is taken with a hash alone, also where an https server sends on to it.
"""

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from data.storage.fetch import BLOCK, FORBIDDEN, MISSING, TIMEOUT_S, base_name
from data.storage.patience import Patience
from engine.errors import EnvironmentFault, UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import sync
from engine.run.locks import lock_file
from finetune.released.cache import MEND, cache_folder, make_cache_folder
from finetune.released.catalogue import SUFFIX, hash_file

PATIENCE_S = 60.0  # how long a server that does not answer is asked again
NO_RANGE = 416  # the server's answer where nothing is left to send
MARK = "sha256="
HASH = re.compile(r"[0-9a-f]{64}")

log = get_logger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A file of weights elsewhere.

    Attributes:
        url: without what follows "#".  sha256: in hex, or "" where none was named.
    """

    url: str
    sha256: str

    @property
    def file(self) -> str:
        """The file's name in the cache: other bytes have another one."""
        mark = self.sha256 or hashlib.sha256(self.url.encode()).hexdigest()
        return f"{mark[:16]}-{base_name(self.url)}"


class _Changed(Exception):
    """What was downloaded before is not the beginning of what is wanted."""


def is_url(text: str) -> bool:
    """Return whether a text names a file of a web server."""
    return text.startswith(("http://", "https://"))


def read_url(text: str, name: str) -> Wanted:
    """Return what a URL names.

    Raises:
        UserError: it names no file of weights, its hash is none, or http has no hash.
    """
    url, _, mark = text.partition("#")
    sha256 = mark.removeprefix(MARK).lower()
    if mark and (not mark.startswith(MARK) or not HASH.fullmatch(sha256)):
        raise UserError(f"{name}={text}: what follows '#' is not {MARK} and 64 hex digits")
    if not base_name(url).endswith(SUFFIX):
        raise UserError(f"{name}={text} names no {SUFFIX} file")
    if url.startswith("http://") and not sha256:
        raise UserError(
            f"{name}={text}: anybody on the way can change what http brings; take https, or add "
            f"#{MARK}HEX"
        )
    return Wanted(url, sha256)


def fetch_weights(text: str, name: str) -> Path:
    """Return the file in the cache of what a URL names, downloaded where it is not there.

    Args:
        name: of the key that gave the URL, for messages.
    Raises:
        UserError: there is no such file, its hash is another, or the cache cannot be written.
        EnvironmentFault: the server does not answer for PATIENCE_S, or the disk is full.
    """
    wanted = read_url(text, name)
    path = cache_folder() / wanted.file
    if _is_kept(path, wanted):
        return path
    make_cache_folder()
    try:
        with path.with_name(f"{path.name}.lock").open("ab") as lock:
            lock_file(lock)
            if not _is_kept(path, wanted):
                _download(wanted, path)
    except OSError as error:
        raise failure_of(
            error, f"the cache of weights cannot be written: {path}: {explain(error)}; {MEND}"
        ) from None
    return path


def _is_kept(path: Path, wanted: Wanted) -> bool:
    """Whether the cache has the file; bytes that are not of its hash count for nothing."""
    try:
        return path.is_file() and (not wanted.sha256 or hash_file(path) == wanted.sha256)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}; {MEND}") from None


def _download(wanted: Wanted, path: Path) -> None:
    """Fill ``path``; what an earlier try left is gone on with where its end can be checked."""
    part = path.with_name(f"{path.name}.part")
    try:
        _fill(wanted, part)
        _check(wanted, part)
    except _Changed:
        part.unlink(missing_ok=True)
        _fill(wanted, part)
        try:
            _check(wanted, part)
        except _Changed:
            found = hash_file(part)
            part.unlink()
            raise UserError(
                f"{wanted.url} has SHA-256 {found}, {wanted.sha256} is wanted: nothing was kept"
            ) from None
    sync(part)
    os.replace(part, path)
    log.info("note: %s is kept as %s", wanted.url, path)
    if not wanted.sha256:
        log.info("note: its SHA-256 was not given; #%s%s checks it", MARK, hash_file(path))


def _check(wanted: Wanted, part: Path) -> None:
    if wanted.sha256 and hash_file(part) != wanted.sha256:
        raise _Changed


def _fill(wanted: Wanted, part: Path) -> None:
    """Bring what is missing of a file, with tries until patience ends."""
    trial = Patience(PATIENCE_S).trial()
    while True:
        if not wanted.sha256:  # two halves may be of two files, and nothing would tell
            part.unlink(missing_ok=True)
        try:
            _append(wanted, part)
        except _ServerFault as error:
            if not trial.failed().again(f"{wanted.url} cannot be read: {error}"):
                goes_on = "goes on where this one stopped" if wanted.sha256 else "begins anew"
                raise EnvironmentFault(
                    f"{wanted.url} cannot be read: {error} ({trial}); the same command {goes_on}"
                ) from None
        else:
            return


class _ServerFault(Exception):
    """The network's or the server's, and not the disk's: another try may help."""


def _append(wanted: Wanted, part: Path) -> None:
    """Add to a file what a URL has beyond its length."""
    url = wanted.url
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == NO_RANGE:
            return  # all of it is here; the hash says whether it is right
        said = f"the server says {error.code} {error.reason}"
        if error.code in (*MISSING, *FORBIDDEN):
            raise UserError(f"{url} cannot be read: {said}") from None
        raise _ServerFault(said) from None
    except urllib.error.URLError as error:
        raise _ServerFault(str(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _ServerFault(f"{type(error).__name__} {error}".strip()) from None
    if url.startswith("https://") and answer.url.startswith("http://") and not wanted.sha256:
        answer.close()
        raise UserError(
            f"{url} leads to {answer.url}, and anybody on the way can change what http brings: add "
            f"#{MARK}HEX"
        )
    with answer, part.open("ab" if answer.status == http.HTTPStatus.PARTIAL_CONTENT else "wb") as f:
        while True:
            try:
                block = answer.read(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _ServerFault(f"{type(error).__name__} {error}".strip()) from None
            if not block:
                break
            f.write(block)
        if answer.length:
            raise _ServerFault(f"it ended {answer.length} bytes before its end")
