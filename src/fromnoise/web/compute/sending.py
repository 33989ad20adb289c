"""What the jobs of the computing process share: how they answer."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Send(Protocol):
    """Sends an answer: a header with its event, and bytes."""

    def __call__(self, event: str, content: bytes = b"", **values: Any) -> None:
        """Send it."""


def pixels(images: Tensor) -> bytes:
    """The bytes of images, uint8 (N, C, H, W), on the CPU."""
    return images.contiguous().numpy().tobytes()
