"""The keys of ``python -m engine report``, apart from what draws: help is printed at once."""

from dataclasses import dataclass

from engine.config.parser import key
from engine.errors import UserError


@dataclass
class ReportConfig:
    """Holds the keys of ``python -m engine report``."""

    out: str = key(
        "", "the HTML file to write; default: report.html in the first run's folder", path="one"
    )

    def check(self) -> None:
        """UserError where the file's name is none of a page."""
        if self.out and not self.out.lower().endswith((".html", ".htm")):
            raise UserError(f"out={self.out}: the file's name does not end in .html")
