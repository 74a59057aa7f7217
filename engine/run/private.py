"""Folders and files that no other user of a machine can read or plant.

Caches lie under names that everybody can guess. What is in them is images of people and, for
compiled code, what this process will run: a folder that somebody else may have put there first is
refused. Imports no torch.
"""

import contextlib
import os
import stat
import tempfile

from engine.errors import UserError, explain, failure_of

EVERYBODY = stat.S_IWOTH
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Variables that say where torch and triton keep what they compiled. Without the first, torch takes
# /tmp/torchinductor_USER, whoever made it.
COMPILED = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def temporary_folder(name: str) -> str:
    """Return a path in the folder for temporary files that carries this user's number.

    See ``own_folder``.
    """
    return os.path.join(tempfile.gettempdir(), f"{name}-{os.getuid()}")


def own_folder(path: str, remedy: str) -> str:
    """Make a folder that this user alone can read and write, and return its path.

    For names that everybody can guess. A folder of this user that others could read is closed to
    them.

    Args:
        path: the folder.  remedy: what to do where it cannot be used, such as "set
            data.cache.folder".
    Raises:
        UserError: it is a link, belongs to another user, or others could write into it.
        EnvironmentFault: the disk is full or fails.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            kind = "a link" if stat.S_ISLNK(found.st_mode) else "no folder"
            raise UserError(f"{path} is {kind}: remove it, or {remedy}")
        if found.st_uid != os.geteuid():
            raise UserError(
                f"{path} belongs to user {found.st_uid}, this process runs as user "
                f"{os.geteuid()}: {remedy}"
            )
        if found.st_mode & OTHERS_WRITE:
            raise UserError(
                f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, so others may have "
                f"put files there: remove it, or {remedy}"
            )
        if found.st_mode & OTHERS:
            os.chmod(path, 0o700)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be used: {explain(error)}; {remedy}") from None
    return path


def refuse_planted(path: str, remedy: str) -> None:
    """Refuse a folder that the user named, where another user may have put it, or anything into it.

    A folder or link on the way to it counts as planted where it is another user's (root aside) and
    everybody can write into the folder around it, as in /tmp. Elsewhere only who may be trusted can
    have made it. Nothing is said of a folder that is missing.

    Args:
        path: the folder.  remedy: what to do, such as "set data.cache.folder".
    Raises:
        UserError: it may be planted, or everybody can write into it.
    """
    trusted = {0, os.geteuid()}
    for place in (os.path.abspath(path), os.path.realpath(path)):
        around = os.stat(os.sep)
        for step in _steps(place):
            try:
                found = os.lstat(step)
            except OSError:
                break  # missing, or not for this user: whoever uses it says so
            if found.st_uid not in trusted and around.st_mode & EVERYBODY:
                raise UserError(
                    f"{step} belongs to user {found.st_uid} and lies where everybody can put "
                    f"files, this process runs as user {os.geteuid()}: {remedy}"
                )
            around = found
    with contextlib.suppress(OSError):
        if os.stat(path).st_mode & EVERYBODY:
            raise UserError(
                f"everybody can write into {path}: name a folder inside it, or close it to "
                f"others (chmod go-w); {remedy}"
            )


def _steps(path: str) -> list[str]:
    """A path's folders from the outermost to itself, but for the root."""
    parts = path.strip(os.sep).split(os.sep)
    return [os.sep + os.path.join(*parts[:count]) for count in range(1, len(parts) + 1) if parts[0]]


def create_file(path: str, mode: int = 0o600) -> int:
    """Return the descriptor of a new, empty file, open for reading and writing.

    What a killed process left under that name goes first. No link is followed, whoever put it
    there.

    Args:
        path: the file.  mode: its rights, less the umask's.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def compiled_code(folder: str = "") -> dict[str, str]:
    """Return {variable: folder} for compiled code, of those variables that are not set.

    Args:
        folder: that holds them; default: one of this user in the folder for temporary files.
    Raises:
        UserError: it may be another user's.
    """
    remedy = f"set {' and '.join(COMPILED)}"
    if folder:
        refuse_planted(folder, remedy)
    out = {}
    for name, inside in COMPILED.items():
        if name not in os.environ:
            base = folder or own_folder(temporary_folder("counterpose"), remedy)
            out[name] = own_folder(os.path.join(base, inside), remedy)
    return out
