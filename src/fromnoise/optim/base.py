"""The interface of an optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Optimizer(ABC):
    """The options of an optimizer, and how to build it for a network.

    Subclasses are frozen dataclasses whose fields are the options. They refuse bad values with a ValueError.
    """

    @abstractmethod
    def build(self, network: nn.Module, lr: float, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        """Build the torch optimizers of a network; together they hold each trainable parameter once.

        Args:
            network: its parameters with ``requires_grad`` are optimized.
            lr: learning rate of the first step.
            dtype: dtype of the network's arithmetic; parameters stay float32.
        """
