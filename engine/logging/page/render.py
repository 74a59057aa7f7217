"""From a template to one HTML file that needs no other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from engine.errors import explain, failure_of
from engine.run.files import write_file

LOOKS = Path(__file__).resolve().parent


def page(
    template: str,
    values: Mapping[str, Any],
    looks: Sequence[Path] = (),
    scripts: Sequence[Path] = (),
) -> str:
    """Return the text of a page.

    All text is escaped but this project's own style and scripts and the charts, which are its own
    too.

    Args:
        template: name of a template in one of the folders.  values: what it shows.
        looks: more folders of templates, with a style.css each.  scripts: more scripts, as paths.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*looks, LOOKS]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "".join(_text(folder / "style.css") for folder in (LOOKS, *looks))
    script = "".join(_text(path) for path in (LOOKS / "page.js", *scripts))
    return environment.get_template(template).render(
        {**values, "style": Markup(style), "script": Markup(script)}
    )


def write(path: str | Path, text: str) -> None:
    """Write a page's file, whole or not at all.

    Raises:
        UserError: the folder is missing or cannot be written.
    """
    try:
        write_file(path, text)
    except OSError as error:
        raise failure_of(error, f"out={path}: cannot be written: {explain(error)}") from None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
