"""Training and sampling steps of the source of another checkout, for comparisons side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class StepProcess:
    """Our entry in a process of its own, which runs the source of a checkout and takes a step when it is asked to.

    Attributes:
        parameters: of its network.
        source: folder of the package that it imported.
    """

    def __init__(self, checkout: Path, options: list[str]) -> None:
        """Start the process and wait until its network is built.

        Args:
            checkout: folder with ``src/fromnoise``.
            options: of ``step.py``.
        """
        command = [sys.executable, str(Path(__file__).with_name("step.py")), "--serve", *options]
        environment = os.environ | {"PYTHONPATH": str(checkout.resolve() / "src")}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        built = self._answer()
        self.parameters, self.source = int(built["parameters"]), Path(built["source"])

    def ask(self, what: str) -> None:
        """Take one step, ``train`` or ``evaluate``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                f"the process of --against ended with exit code {self._process.wait()}; its message is above"
            )
        return json.loads(line)
