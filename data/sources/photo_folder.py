"""Which photographs lie in a folder of the user's."""

import os

from engine.errors import UserError, explain, failure_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def list_photos(folder: str, name: str) -> list[str]:
    """Paths of the images below a folder, relative to it and in order.

    Args:
        name: the key that names the folder, for messages.
    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{name}={folder}: no such folder")

    def refuse(error: OSError) -> None:
        raise failure_of(error, f"{name}={error.filename}: {explain(error)}")

    found = []
    for place, _, names in os.walk(folder, onerror=refuse):
        for file in names:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                path = os.path.relpath(os.path.join(place, file), folder)
                found.append(path.replace(os.sep, "/"))
    if not found:
        raise UserError(f"{name}={folder} holds no image ({', '.join(SUFFIXES)})")
    return sorted(found)
