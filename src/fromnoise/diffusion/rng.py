"""Randomness as an argument: every random number is a pure function of (seed, sample, purpose).

A counter-based generator (Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") instead of
one with a state: picture 17 is the same at any batch size, on any device and any number of processes, and a resumed
run has nothing to restore.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


class Stream(IntEnum):
    """What a random number is for; numbers of different purposes are independent."""

    START = 0  # x_T
    STEP = 1  # noise of a sampler's step
    EPS = 2  # noise of a training image
    TIME = 3  # its time
    OFFSET = 4  # its offset noise
    SELF_CONDITION = 5  # whether a training step is self-conditioned
    LABEL = 6  # whether its label is dropped
    DATA = 7  # anything a data set or an oracle draws
    BOUND = 8  # steps and noise of an estimate of the bound
    PROBE = 9  # signs that estimate a trace
    CLUSTER = 10  # the component that a training image is told
    PSEUDO_LABEL = 11  # the pseudo-label of a sample


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10.

    Args:
        counter: four int64 tensors that broadcast together, each holding 32-bit words.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, which leaves both 32-bit halves right
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


@dataclass(frozen=True)
class Noise:
    """The random numbers of some samples.

    Attributes:
        seed: any integer of 64 bits.
        ids: which samples, int64 (B,): a picture's number when sampling, its position in the stream when training.
        offset: of ``image``: strength of a shift per image and channel, for a model trained with offset noise.
        truncation: of ``image``: the largest size of a number before the shift; None is unbounded.
    """

    seed: int
    ids: Tensor
    offset: float = 0.0
    truncation: float | None = None

    def _words(
        self, count: int, draw: Stream, part: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four words a block, each (B, count) int64 below 2^32."""
        ids = self.ids.to(device)[:, None]
        block = torch.arange(count, dtype=torch.int64, device=device)[None]
        purpose = torch.full((1, 1), (int(draw) << 24) + part, dtype=torch.int64, device=device)
        return philox(
            (block, ids & _MASK, (ids >> 32) & _MASK, purpose), (self.seed & _MASK, (self.seed >> 32) & _MASK)
        )

    def normal(self, shape: tuple[int, ...], draw: Stream, part: int = 0, *, like: Tensor) -> Tensor:
        """Standard normal numbers (Box and Muller 1958).

        Args:
            shape: of one sample.
            draw: what they are for.
            part: which of them (a step's number, say), below 2^24.
            like: tensor whose device and dtype the result takes.

        Returns:
            Tensor (B, *shape).
        """
        size = math.prod(shape)
        # drawn in double where the device has it: the last bit of a float32 logarithm may depend on where in a vector
        # it stood
        wide = torch.float32 if like.device.type == "mps" else torch.float64
        words = self._words(-(-size // 4), draw, part, like.device)
        u = [(w.to(wide) + 0.5) * 2.0**-32 for w in words]
        out = []
        for a, b in ((u[0], u[1]), (u[2], u[3])):
            radius, angle = torch.sqrt(-2 * torch.log(a)), (2 * math.pi) * b
            out += [(radius * torch.cos(angle)).to(like.dtype), (radius * torch.sin(angle)).to(like.dtype)]
        return torch.stack(out, dim=-1).flatten(1)[:, :size].reshape(len(self.ids), *shape)

    def image(self, shape: tuple[int, ...], draw: Stream, part: int = 0, *, like: Tensor) -> Tensor:
        """Noise as a sampler adds it to images: ``normal``, perhaps truncated, perhaps shifted.

        A model trained with offset noise (Guttenberg 2023) is one of a forward process whose noise is correlated within
        a channel, N(0, I + offset^2 J): its samples start from that noise, and their steps add that noise. Truncated
        numbers follow N(0, 1) given |z| <= truncation (Brock et al. 2018, "BigGAN", sec. 3.1), each a rising function
        of the number that it replaces.

        Args:
            shape: (C, ...) of one image.
            draw: what it is for.
            part: as of ``normal``.
            like: as of ``normal``.

        Returns:
            Tensor (B, *shape).
        """
        size, shifts = math.prod(shape), shape[0] if self.offset else 0
        flat = self.normal((size + shifts,), draw, part, like=like)
        z = flat[:, :size].reshape(len(flat), *shape)
        if self.truncation is not None:
            inside = torch.special.ndtr(torch.tensor(self.truncation, dtype=torch.float64)).item() * 2 - 1
            z = torch.special.ndtri(0.5 + inside * (torch.special.ndtr(z) - 0.5))
        if self.offset:
            z = z + self.offset * flat[:, size:].reshape(len(flat), -1, *[1] * (len(shape) - 1))
        return z

    def uniform(self, draw: Stream, part: int = 0) -> Tensor:
        """One number a sample, uniform on [0, 1), float64 (B,) on the CPU."""
        high, low, _, _ = self._words(1, draw, part, torch.device("cpu"))
        return ((high << 20) + (low >> 12)).squeeze(1).to(torch.float64) * 2.0**-52
