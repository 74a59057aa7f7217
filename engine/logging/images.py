"""Images in a run's folder: lost on a full disk, which is no reason to lose the run."""

from pathlib import Path

from PIL import Image

from engine.errors import explain
from engine.logging.console import get_logger
from engine.run.files import replace_file

log = get_logger(__name__)


def save_image(image: Image.Image, path: Path) -> bool:
    """Write an image as a PNG, whole or not at all, and return whether it was written.

    A failure is a warning and no more.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        with replace_file(path) as temporary:
            image.save(temporary, "PNG")
    except OSError as error:
        log.warning("%s cannot be written: %s; the run continues without it", path, explain(error))
        return False
    return True
