"""The random numbers: each is a pure function of (seed, sample, purpose).

A counter-based generator replaces one with a state: sample 17 is the same for any batch size, device and number of
processes, and a resumed run has no generator state to restore. torch has no such generator, so it is written here.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


class Stream(IntEnum):
    """The purpose of a random number; numbers of different streams are independent."""

    START = 0  # x_T
    STEP = 1  # noise of a sampler's step
    EPS = 2  # noise of a training image
    TIME = 3  # time of a training image
    OFFSET = 4  # offset noise of a training image
    SELF_CONDITION = 5  # whether a training step is self-conditioned
    LABEL_DROPOUT = 6  # whether the label of a training image is dropped
    DATA = 7  # samples of a data set or an oracle
    BOUND = 8  # steps and noise of an estimate of the variational bound
    PROBE = 9  # probes of a trace estimator
    TRAINING_CLUSTER = 10  # the cluster label of a training image
    PSEUDO_LABEL = 11  # the pseudo-label of a sample
    LATENT = 12  # the latents of a training image, z ~ q(z | x)
    BOUND_LATENT = 13  # those of an estimate of the bound
    AUGMENTATION = 14  # what is done to a training image
    CROSS_FIT = 15  # steps and noise that evaluate responsibilities which were estimated with BOUND
    ACTIVATION = 16  # noise of images at which the activations of a network are read


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The Philox4x32-10 generator (Salmon et al. 2011).

    Args:
        counter: four int64 tensors that broadcast together, holding 32-bit words.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, which keeps both 32-bit halves correct
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


@dataclass(frozen=True)
class Noise:
    """The random numbers of a batch of samples.

    Attributes:
        seed: any 64-bit integer.
        ids: the samples, int64 (B,): the number of a generated sample, or a position in the stream of training images.
        offset: strength of the offset noise in ``image``: a shift per image and channel.
        truncation: bound of |z| in ``image``, before the offset; None is unbounded.
    """

    seed: int
    ids: Tensor
    offset: float = 0.0
    truncation: float | None = None

    def _words(
        self, count: int, stream: Stream, part: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four tensors (B, count) of 32-bit words, int64."""
        ids = self.ids.to(device)[:, None]
        block = torch.arange(count, dtype=torch.int64, device=device)[None]
        purpose = torch.full((1, 1), (int(stream) << 24) + part, dtype=torch.int64, device=device)
        return philox(
            (block, ids & _MASK, (ids >> 32) & _MASK, purpose), (self.seed & _MASK, (self.seed >> 32) & _MASK)
        )

    def normal(self, shape: tuple[int, ...], stream: Stream, part: int = 0, *, like: Tensor) -> Tensor:
        """Standard normal numbers, by the Box-Muller transform (Box and Muller 1958).

        Args:
            shape: of one sample.
            stream: the purpose.
            part: index within the stream, such as the number of a step; below 2^24.
            like: tensor whose device and dtype the result has.

        Returns:
            Tensor (B, *shape).
        """
        size = math.prod(shape)
        # in float64 where the device has it: the last bit of a vectorized float32 logarithm may depend on the position
        # of the element
        wide = torch.float32 if like.device.type == "mps" else torch.float64
        words = self._words(-(-size // 4), stream, part, like.device)
        u = [(w.to(wide) + 0.5) * 2.0**-32 for w in words]
        out = []
        for a, b in ((u[0], u[1]), (u[2], u[3])):
            radius, angle = torch.sqrt(-2 * torch.log(a)), (2 * math.pi) * b
            out += [(radius * torch.cos(angle)).to(like.dtype), (radius * torch.sin(angle)).to(like.dtype)]
        return torch.stack(out, dim=-1).flatten(1)[:, :size].reshape(len(self.ids), *shape)

    def image(self, shape: tuple[int, ...], stream: Stream, part: int = 0, *, like: Tensor) -> Tensor:
        """The noise that a sampler adds to images: ``normal``, with truncation and offset.

        A model trained with offset noise (Guttenberg 2023) has a forward process with noise N(0, I + offset^2 J), J all
        ones within a channel: sampling starts from that noise and adds it in each step. Truncated numbers follow
        N(0, 1) given |z| <= truncation (Brock et al. 2019, "BigGAN", sec. 3.1), each an increasing function of the
        number that it replaces.

        Args:
            shape: (C, ...) of one image.
            stream: as of ``normal``.
            part: as of ``normal``.
            like: as of ``normal``.

        Returns:
            Tensor (B, *shape).
        """
        size, shifts = math.prod(shape), shape[0] if self.offset else 0
        flat = self.normal((size + shifts,), stream, part, like=like)
        z = flat[:, :size].reshape(len(flat), *shape)
        if self.truncation is not None:
            wide = (
                z if z.device.type == "mps" else z.double()
            )  # in float32 ndtr is 1 above 5.5, and its inverse infinite
            inside = torch.special.ndtr(torch.tensor(self.truncation, dtype=torch.float64)).item() * 2 - 1
            wide = torch.special.ndtri(0.5 + inside * (torch.special.ndtr(wide) - 0.5))
            z = wide.clamp(-self.truncation, self.truncation).to(z.dtype)
        if self.offset:
            z = z + self.offset * flat[:, size:].reshape(len(flat), -1, *[1] * (len(shape) - 1))
        return z

    def uniform(self, stream: Stream, part: int = 0) -> Tensor:
        """One number for each sample, uniform in [0, 1), float64 (B,) on the CPU; arguments as of ``normal``."""
        high, low, _, _ = self._words(1, stream, part, torch.device("cpu"))
        return ((high << 20) + (low >> 12)).squeeze(1).to(torch.float64) * 2.0**-52
