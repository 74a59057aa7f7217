"""Which photographs lie in a folder of the user's."""

from data.sources.user_folder import list_files

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def list_photos(folder: str, name: str) -> list[str]:
    """Paths of the images below a folder, relative to it and in order.

    Args:
        name: the key that names the folder, for messages.
    Raises:
        UserError: there is no such folder, or no image in it.
    """
    return list_files(folder, SUFFIXES, name, "image")
