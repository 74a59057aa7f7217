"""Remote bytes: http(s), a command's output, and whatever fsspec opens (s3, gs, az, hf, ...)."""

import contextlib
import http.client
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

from braceexpand import braceexpand

from engine.config.paths import PIPE
from engine.errors import UserError

BLOCK = 1 << 22
TIMEOUT_S = 60  # without a byte
# Iterator of bytes, how many there are or None.
Bytes = tuple[Iterator[bytes], int | None]
_SHELLS = re.compile(r"\$\{[^{}]*\}?")  # of a command; without its end it is the shell's to refuse
# Object stores answer 403 for what is not there to those who may not list.
MISSING = (403, 404, 410)
FORBIDDEN = (401, 407)  # who asks is not known to the server or the proxy


def is_remote(path: str) -> bool:
    """Return whether a shard's name is a URL or a command rather than a path of this machine."""
    return path.startswith(PIPE) or "://" in path


def beside(url: str, suffix: str) -> str | None:
    """Return the URL of the file beside a shard.

    None for a command: nobody knows what else it could print.
    """
    if url.startswith(PIPE):
        return None
    base, mark, query = url.partition("?")
    return base + suffix + mark + query


def is_folder(url: str) -> bool:
    """Return whether a URL names no tar, and so a folder of them."""
    return not url.startswith(PIPE) and ".tar" not in url.split("?")[0].rpartition("/")[2]


def join(folder: str, name: str) -> str:
    """Return the URL of a file in a folder."""
    base, mark, query = folder.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def expand(url: str) -> list[str]:
    """Return the URLs that one with braces means, such as shard-{000000..000099}.tar.

    A command's ``${...}`` are the shell's, and stay.

    Raises:
        UserError: the braces cannot be read, or make a command of what was none.
    """
    held: list[str] = []  # what is not to be expanded, in the order in which it comes

    def hold(found: re.Match[str]) -> str:
        held.append(found[0])
        return f"\0{len(held) - 1}\0"

    command = url.startswith(PIPE)
    text = _SHELLS.sub(hold, url) if command else url
    try:
        # A backslash is a URL's way to keep a brace; in a command it is the shell's.
        found = list(braceexpand(text, escape=not command))
    except ValueError as error:
        raise UserError(f"the braces of {url} cannot be read: {error}") from None
    if not command and any(one.startswith(PIPE) for one in found):
        raise UserError(f"the braces of {url} make a command of it; a command begins with {PIPE}")
    return [re.sub("\0(\\d+)\0", lambda mark: held[int(mark[1])], one) for one in found]


def base_name(path: str) -> str:
    """Return the last part of a path or URL, such as shard-000000.tar.

    Of a command it is its last word that ends in .tar.
    """
    if path.startswith(PIPE):
        tars = [word for word in path.split() if word.split("?")[0].endswith(".tar")]
        path = tars[-1] if tars else path
    return path.split("?")[0].rstrip("/").rpartition("/")[2]


def stream(url: str) -> AbstractContextManager[Bytes]:
    """Return a context manager that gives (iterator of bytes, how many there are or None).

    Each library has exceptions of its own; whatever one raises while it opens, reads or closes is
    an OSError here.

    Raises:
        FileNotFoundError: there is no such object.
        PermissionError: the server wants to know who asks.
        OSError: it could not be read; another try may help.
        UserError: no installed package opens such URLs.
    """
    if url.startswith(PIPE):
        return _command(url.removeprefix(PIPE))
    if url.startswith(("http://", "https://")):
        return _http(url)
    return _fsspec(url)


@contextlib.contextmanager
def _http(url: str) -> Generator[Bytes, None, None]:
    try:
        answer = urllib.request.urlopen(url, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        said = f"the server says {error.code} {error.reason}"
        if error.code in MISSING:
            raise FileNotFoundError(said) from None
        raise (PermissionError if error.code in FORBIDDEN else OSError)(said) from None
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from None
    except http.client.HTTPException as error:
        raise _as_read_error(error) from None
    with answer:
        yield _blocks(answer), answer.length


@contextlib.contextmanager
def _command(command: str) -> Generator[Bytes, None, None]:
    """The output of a shell command.

    A command that fails is an OSError with the last line it said.
    """
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
        ) as process:
            output: IO[bytes] = process.stdout  # type: ignore[bad-assignment]  # PIPE was asked for
            try:
                yield _blocks(output), None
            except BaseException:
                process.kill()
                raise
            output.close()
            code = process.wait()
        if code:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise OSError(
                f"the command ended with exit code {code}" + (f": {lines[-1]}" if lines else "")
            )


@contextlib.contextmanager
def _fsspec(url: str) -> Generator[Bytes, None, None]:
    import fsspec  # here: most runs never need it

    try:
        opener: Any = fsspec.open(url, "rb")  # its type says nothing of ``open``
    except (ImportError, ValueError) as error:
        # fsspec says which package is missing, or that it knows no such protocol.
        raise UserError(f"shard {url} cannot be opened: {error}") from None
    except Exception as error:
        raise _as_read_error(error) from None
    try:
        file = opener.open()
    except Exception as error:
        raise _as_read_error(error) from None
    try:
        yield _blocks(file), _size(file)
    finally:
        # All bytes are here by now, or the error that says why not is on its way.
        with contextlib.suppress(Exception):
            file.close()


def _size(file: Any) -> int | None:
    """Bytes of an open file, None where nobody knows; some libraries ask their server for it."""
    try:
        return getattr(file, "size", None)
    except Exception as error:
        raise _as_read_error(error) from None


def _blocks(file: Any) -> Iterator[bytes]:
    """Yield a file's bytes, a block at a time; OSError for any exception of its library."""
    while True:
        try:
            block = file.read(BLOCK)
        except Exception as error:
            raise _as_read_error(error) from None
        if not block:
            return
        yield block


def _as_read_error(error: Exception) -> OSError:
    """An exception of a library (aiohttp's, gcsfs's, azure's) as an OSError.

    An OSError stays what it is.
    """
    return error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
