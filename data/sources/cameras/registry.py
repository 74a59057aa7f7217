"""The formats of calibration files: each one a file in ``formats``, found by name or by content."""

from abc import ABC, abstractmethod
from typing import ClassVar

from data.sources.cameras.documents import Document
from data.sources.cameras.rows import CameraRow
from engine.registry import Registry


class CalibrationFormat(ABC):
    """What a format is, and how its cameras are read.

    Attributes:
        title: for messages: "read as TITLE".
        unit_m: the unit of its lengths in metres; None where the format leaves it open.
    """

    title: ClassVar[str]
    unit_m: ClassVar[float | None] = 1.0

    @abstractmethod
    def recognises(self, document: Document) -> bool:
        """Whether a document is of this format, by what it holds."""

    @abstractmethod
    def read(self, document: Document, part: str | None) -> list[CameraRow]:
        """The cameras of a document, in its order; those without a calibration are named and left.

        Args:
            part: which of several calibrations in it, such as a capture or a subject.
        Raises:
            UserError: a field is missing or makes no sense.
        """


CALIBRATIONS: Registry[type[CalibrationFormat]] = Registry(
    "calibration_format", "data.sources.cameras.formats"
)
