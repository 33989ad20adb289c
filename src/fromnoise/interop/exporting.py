"""What an exporter is, and how one is chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from fromnoise.interop.options import build_with_options
from fromnoise.model import Model


class Exporter(ABC):
    """Writes models for other programs; the typed attributes of a frozen dataclass are its options."""

    @abstractmethod
    def check_out(self, out: Path) -> None:
        """Check the path before the work; nothing is created.

        Raises:
            UserError: the model cannot be written there.
        """

    @abstractmethod
    def write(self, model: Model, out: Path) -> list[str]:
        """Write a model.

        Args:
            model: on the CPU.
            out: path of the result.

        Returns:
            One line for each thing that the user of the result must know.

        Raises:
            UserError: the model cannot be expressed exactly in the format; the message says why.
        """


def build_exporter(name: str, options: dict[str, Any]) -> Exporter:
    """An exporter from its options.

    Raises:
        UserError: an unknown exporter, option or value.
    """
    return build_with_options("exporter", "export to", name, options)


def export_model(model: Model, out: str | Path, to: str, options: dict[str, Any] | None = None) -> list[str]:
    """Write a model for another program.

    Args:
        model: to write.
        out: path of the result; nothing is overwritten.
        to: name of an exporter.
        options: of the exporter.

    Returns:
        As ``Exporter.write``.

    Raises:
        UserError: as ``Exporter.write``, or the path is taken.
    """
    exporter, path = build_exporter(to, options or {}), Path(out)
    exporter.check_out(path)
    return exporter.write(model, path)
