"""An extension of griffe: docstrings are plain text, and Markdown must not read more into them."""

import re

from griffe import Extension, Object

# Code stays as it is; outside it a [a][b] is not a link and a <word> no HTML.
SPECIAL = re.compile(r"```.*?```|``.*?``|`.*?`|\](\s*)\[|<(?=\w|/)", re.DOTALL)
DOCTEST = re.compile(r"^( *)(>>> .*(?:\n *\S.*)*)", re.MULTILINE)
HEADING = re.compile(r"(?<=\S)\n(?= *(?:Args|Returns|Raises|Yields|Attributes):\n)")
SECTION = re.compile(r"^( *)(?:Args|Attributes):\n(?:\1 +\S.*\n?|\n(?=\1 ))+", re.MULTILINE)
BESIDE = re.compile(r"^( +)(\S.*?)  (?=\w+(?:, \w+)*: )", re.MULTILINE)


class PlainDocstrings(Extension):
    """Escapes what Markdown would take for links and HTML, shows doctests as code, and gives each
    argument a line and each section a blank line before it, as griffe wants them."""

    def on_object(self, *, obj: Object, **_) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring:
            text = HEADING.sub("\n\n", obj.docstring.value)
            text = SECTION.sub(_split_arguments, text)
            text = DOCTEST.sub(r"\1```pycon\n\1\2\n\1```", text)
            obj.docstring.value = SPECIAL.sub(_escape, text)


def _split_arguments(match: re.Match[str]) -> str:
    """Return a section with ``a: ...  b: ...`` on two lines."""
    text, before = match[0], ""
    while text != before:
        text, before = BESIDE.sub(r"\1\2\n\1", text), text
    return text


def _escape(match: re.Match[str]) -> str:
    if match[0].startswith("]"):
        return rf"]{match[1]}\["
    return "&lt;" if match[0] == "<" else match[0]
