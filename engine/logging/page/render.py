"""From a template to one HTML file that needs no other."""

import os
from pathlib import Path

import jinja2
from markupsafe import Markup

from engine.errors import explain, failure_of

LOOKS = Path(__file__).resolve().parent


def page(template, values, looks=(), scripts=()):
    """The text of a page.

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


def write(path, text):
    """Write a file whole or not at all.

    Raises:
        UserError: the folder is missing or cannot be written.
    """
    temporary = f"{path}.writing"
    try:
        Path(temporary).write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise failure_of(error, f"out={path}: cannot be written: {explain(error)}") from None


def _text(path):
    return path.read_text(encoding="utf-8")
