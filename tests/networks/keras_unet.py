"""The U-Net of the Keras example "Denoising Diffusion Probabilistic Model" (A_K_Nain, 2022), written out.

Channels last and weights in Keras' layout, as in the source: convolution kernels (height, width, in, out), dense
kernels (in, out). A weight is made where it is first used, so running the network once lists them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GROUPS = 8
EPSILON = 1e-3  # default of keras.layers.GroupNormalization


class KerasUNet:
    """The network at any width; as published width 64, multipliers 1, 2, 4, 8 and attention on the last two levels."""

    def __init__(
        self,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        attention: Sequence[bool] = (False, False, True, True),
        *,
        dtype: torch.dtype = torch.float64,
        device: str = "cpu",
    ) -> None:
        self.first, self.widths = width, [width * m for m in multipliers]
        self.has_attention = attention
        self.dtype, self.device = dtype, device
        self.weights: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, steps: Tensor) -> Tensor:
        """Noise predicted from images (B, H, W, 3) at integer steps (B,)."""
        x = self.conv("stem", images, self.first)
        time = self.time(steps)
        skips = [x]
        for i, width in enumerate(self.widths):
            for j in range(2):
                x = self.residual(f"down.{i}.{j}", x, time, width)
                if self.has_attention[i]:
                    x = self.attention(f"down.{i}.{j}.attention", x)
                skips.append(x)
            if width != self.widths[-1]:
                x = self.conv(f"down.{i}.sample", x, width, stride=2)
                skips.append(x)

        x = self.residual("middle.0", x, time, self.widths[-1])
        x = self.attention("middle.attention", x)
        x = self.residual("middle.1", x, time, self.widths[-1])

        for i in reversed(range(len(self.widths))):
            for j in range(3):
                x = torch.cat([x, skips.pop()], -1)
                x = self.residual(f"up.{i}.{j}", x, time, self.widths[i])
                if self.has_attention[i]:
                    x = self.attention(f"up.{i}.{j}.attention", x)
            if i != 0:
                x = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
                x = self.conv(f"up.{i}.sample", x, self.widths[i])
        assert not skips
        return self.conv("end", swish(self.group_norm("end.norm", x)), images.shape[-1])

    def weight(self, name: str, *shape: int) -> Tensor:
        """The weight of this name, random when it is first used: norms' scales around 1, kernels by fan-in."""
        if name not in self.weights:
            value = torch.randn(shape, dtype=self.dtype, device=self.device)
            if name.endswith("gamma"):
                value = 1 + 0.3 * value
            elif name.endswith("kernel"):
                value = value / max(1, value[..., 0].numel()) ** 0.5
            else:
                value = 0.1 * value
            self.weights[name] = value
        assert self.weights[name].shape == shape
        return self.weights[name]

    def dense(self, name: str, x: Tensor, units: int) -> Tensor:
        """Dense layer on the last axis."""
        return x @ self.weight(f"{name}.kernel", x.shape[-1], units) + self.weight(f"{name}.bias", units)

    def conv(self, name: str, x: Tensor, filters: int, size: int = 3, stride: int = 1) -> Tensor:
        """Conv2D with padding="same": output ceil(n / stride), an odd zero below and on the right."""
        kernel = self.weight(f"{name}.kernel", size, size, x.shape[-1], filters)
        outs = [-(-n // stride) for n in x.shape[1:3]]
        totals = [max((out - 1) * stride + size - n, 0) for out, n in zip(outs, x.shape[1:3], strict=True)]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        x = torch.nn.functional.pad(x, (0, 0, left, right, top, bottom))
        y: Tensor | float = 0.0
        for i in range(size):
            for j in range(size):
                rows = slice(i, i + (outs[0] - 1) * stride + 1, stride)
                columns = slice(j, j + (outs[1] - 1) * stride + 1, stride)
                y = y + x[:, rows, columns] @ kernel[i, j]
        return y + self.weight(f"{name}.bias", filters)

    def group_norm(self, name: str, x: Tensor) -> Tensor:
        """GroupNormalization with its default epsilon."""
        batch, height, width, channels = x.shape
        grouped = x.reshape(batch, height, width, GROUPS, channels // GROUPS)
        centred = grouped - grouped.mean((1, 2, 4), keepdim=True)
        normal = centred / (centred.square().mean((1, 2, 4), keepdim=True) + EPSILON).sqrt()
        return normal.reshape(x.shape) * self.weight(f"{name}.gamma", channels) + self.weight(f"{name}.beta", channels)

    def time(self, steps: Tensor) -> Tensor:
        """Sinusoids of dimension 4 width, then two dense layers with swish between."""
        half = 2 * self.first
        frequencies = 10_000.0 ** (-torch.arange(half, dtype=self.dtype, device=self.device) / (half - 1))
        angles = steps[:, None].to(self.dtype) * frequencies
        waves = torch.cat([torch.sin(angles), torch.cos(angles)], 1)
        return self.dense("time.1", swish(self.dense("time.0", waves, 4 * self.first)), 4 * self.first)

    def residual(self, name: str, x: Tensor, time: Tensor, width: int) -> Tensor:
        """Norm, swish, conv; plus the time; norm, swish, conv; plus the input, through 1x1 where widths differ."""
        shortcut = x if x.shape[-1] == width else self.conv(f"{name}.shortcut", x, width, size=1)
        x = self.conv(f"{name}.conv1", swish(self.group_norm(f"{name}.norm1", x)), width)
        x = x + self.dense(f"{name}.time", swish(time), width)[:, None, None, :]
        x = self.conv(f"{name}.conv2", swish(self.group_norm(f"{name}.norm2", x)), width)
        return x + shortcut

    def attention(self, name: str, x: Tensor) -> Tensor:
        """One head over all pixels; the output is added to the *normalized* input."""
        units = x.shape[-1]
        x = self.group_norm(f"{name}.norm", x)
        q, k, v = (self.dense(f"{name}.{part}", x, units).flatten(1, 2) for part in ("query", "key", "value"))
        scores = torch.einsum("bnc,bmc->bnm", q, k) * units**-0.5
        shares = torch.exp(scores - scores.amax(2, keepdim=True))
        shares = shares / shares.sum(2, keepdim=True)
        out = torch.einsum("bnm,bmc->bnc", shares, v).reshape(x.shape)
        return x + self.dense(f"{name}.proj", out, units)


def swish(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return x / (1 + torch.exp(-x))
