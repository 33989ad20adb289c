"""Pictures of pictures: grids, strips, GIFs and loss curves, and the files they go to.

Images are uint8 tensors (N, C, H, W), as ``data.to_uint8`` makes them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fromnoise.utils.errors import UserError
from fromnoise.utils.files import check_file, check_folder, write_atomic

_PAPER, _INK = (255, 255, 255), (40, 40, 40)
_TILE = 32  # smaller images are shown magnified by whole numbers, up to about twice this
_WRONG = {".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".gif", ".zip", ".pt", ".safetensors"}


# ---- composing


def grid(images: Tensor, columns: int | None = None, gap: int = 2, scale: int | None = None) -> Image.Image:
    """Images in rows, as near to a square as they go.

    Args:
        images: uint8 (N, C, H, W).
        columns: in a row; left out: the square root of N, rounded up.
        gap: white pixels between them.
        scale: whole-number magnification; left out: small images are magnified.
    """
    n, _, h, w = images.shape
    scale = scale or _magnification(h, w)
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    tiles = _colour(images).repeat(scale, axis=1).repeat(scale, axis=2)
    sheet = np.full((rows * (h * scale + gap) - gap, columns * (w * scale + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (h * scale + gap), i % columns * (w * scale + gap)
        sheet[top : top + h * scale, left : left + w * scale] = tile
    return Image.fromarray(sheet)


def labelled_grid(images: Tensor, labels: Tensor, names: Sequence[str], gap: int = 2) -> Image.Image:
    """A row a class, under one another in the order of the classes, with its name before it.

    Args:
        images: uint8 (N, C, H, W).
        labels: class of each, (N,), an index into ``names``.
        names: of the classes; those without images have no row.
        gap: white pixels between images.
    """
    classes: list[int] = [int(k) for k in labels.unique()]
    columns = int(torch.bincount(labels).max())
    rows = [grid(images[labels == k], columns, gap) for k in classes]
    font = ImageFont.load_default(12)
    indent = math.ceil(max(font.getlength(names[k]) for k in classes)) + 8
    sheet = Image.new("RGB", (indent + rows[0].width, sum(r.height + gap for r in rows) - gap), _PAPER)
    pen, top = ImageDraw.Draw(sheet), 0
    for k, row in zip(classes, rows, strict=True):
        pen.text((indent - 8, top + row.height / 2), names[k], fill=_INK, font=font, anchor="rm")
        sheet.paste(row, (indent, top))
        top += row.height + gap
    return sheet


def _magnification(height: int, width: int) -> int:
    return max(1, 2 * _TILE // max(height, width)) if max(height, width) <= _TILE else 1


def _colour(images: Tensor) -> np.ndarray:
    """To (N, H, W, 3): grey is tripled, transparency is laid on white, further channels are left out."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"pictures are uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
    pixels = images.cpu().numpy().transpose(0, 2, 3, 1)
    channels = pixels.shape[-1]
    if channels in (2, 4):
        opacity = pixels[..., -1:] / 255.0
        pixels = np.rint(pixels[..., :-1] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]


def strip(columns: Sequence[Tensor], captions: Sequence[str]) -> Image.Image:
    """Batches side by side, each a captioned column: row i follows image i through them.

    Args:
        columns: uint8 (B, C, H, W) each, all of one shape.
        captions: one a column.
    """
    return side_by_side([(c, grid(b, columns=1)) for c, b in zip(captions, columns, strict=True)], gap=2)


def forward_strip(batches: Sequence[Tensor], times: Sequence[float]) -> Image.Image:
    """The forward process: images under more and more noise.

    Args:
        batches: uint8 (B, C, H, W) at each time.
        times: t in [0, 1], shown in percent of the way to noise.
    """
    return strip(batches, [f"{t:.0%}" for t in times])


def reverse_strip(frames: Sequence[Tensor], times: Sequence[float], columns: int = 10) -> Image.Image:
    """The reverse process: equally spaced frames, the first and the finished one among them.

    Args:
        frames: uint8 (B, C, H, W) each.
        times: t of each frame.
        columns: how many frames to show, at most.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int))
    return strip([frames[i] for i in chosen], [f"{times[i]:.0%}" for i in chosen])


def side_by_side(panels: Sequence[tuple[str, Image.Image]], gap: int = 12) -> Image.Image:
    """Pictures next to each other, each under its title.

    Args:
        panels: titles and pictures.
        gap: white pixels between them.
    """
    font = ImageFont.load_default(12)
    widths = [max(p.width, math.ceil(font.getlength(title)) + 2) for title, p in panels]
    head = 18
    sheet = Image.new("RGB", (sum(widths) + gap * (len(panels) - 1), head + max(p.height for _, p in panels)), _PAPER)
    pen, left = ImageDraw.Draw(sheet), 0
    for (title, panel), width in zip(panels, widths, strict=True):
        pen.text((left + width / 2, head / 2), title, fill=_INK, font=font, anchor="mm")
        sheet.paste(panel, (left + (width - panel.width) // 2, head))
        left += width + gap
    return sheet


# ---- writing


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())


def check_writable(path: Path) -> None:
    """Look whether ``save_images`` could write there, before the images are made.

    Raises:
        UserError: another kind of file, a folder that is not empty, or a place that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix in (".png", ".npz"):
        return check_file(path)
    if suffix in _WRONG:
        raise UserError(f"pictures cannot go to a {suffix} file: take .png for a grid, .npz for an array, or a folder")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"the folder {path} is not empty: choose another --out")
    check_folder(path)


def save_images(
    images: Tensor,
    path: Path,
    labels: Tensor | None = None,
    numbers: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write images as a grid (.png), an array (.npz) or a folder of PNGs.

    Args:
        images: uint8 (N, C, H, W).
        path: its ending says which. A .npz holds ``images`` as they are, and ``labels`` (N,) where given.
        labels: classes, (N,); in a folder they end the file names.
        numbers: of the images, for the file names; left out: from 0.
        names: of the classes: a grid then has a labelled row for each.

    Raises:
        UserError: it cannot be written.
    """
    kind = path.suffix.lower()
    if kind == ".png":
        if labels is None or names is None:
            save(grid(images), path)
        else:
            save(labelled_grid(images, labels, names), path)
    elif kind == ".npz":
        arrays = {"images": images.cpu().numpy()}
        if labels is not None:
            arrays["labels"] = labels.cpu().numpy()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_atomic(path, buffer.getvalue())
    else:
        for i, image in enumerate(images):
            name = f"{i if numbers is None else numbers[i]:06d}" + (f"_{int(labels[i])}" if labels is not None else "")
            save(single(image), path / f"{name}.png")


def single(image: Tensor) -> Image.Image:
    """One image, uint8 (C, H, W), as it is: grey stays grey and transparency stays."""
    pixels = image.cpu().numpy()
    if len(pixels) in (1, 2, 3, 4):
        return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return Image.fromarray(_colour(image[None])[0])


def gif(frames: Sequence[Tensor], path: Path, columns: int | None = None, seconds: float = 6.0) -> None:
    """Grids in time; the last frame is held for a third of it.

    Args:
        frames: uint8 (B, C, H, W) each.
        path: of the GIF.
        columns: as ``grid`` takes them.
        seconds: of one round, longer where the frames are many; it repeats for ever.

    Raises:
        UserError: it cannot be written.
    """
    sheets = [grid(f, columns) for f in frames]
    if frames[0].shape[1] == 1:
        sheets = [s.convert("L") for s in sheets]
    others = len(sheets) - 1
    # whole hundredths of a second, as the format has them; viewers slow down below two
    each = max(20, 10 * round(100 * seconds * 2 / 3 / others)) if others else 0
    last = 10 * round(each * others / 20) if others else round(1000 * seconds)
    buffer = io.BytesIO()
    sheets[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=sheets[1:],
        duration=[each] * others + [last],
        loop=0,
    )
    write_atomic(path, buffer.getvalue())


# ---- curves


def loss_plot(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss over the steps, with that on held-out images, and held-out loss over t.

    Args:
        reports: lines of reports.jsonl.
        path: of the PNG.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    over_steps, over_t = figure.subplots(1, 2)
    styles = {
        "loss": ("training", "0.75"),
        "held_out_raw": ("held out, raw weights", "tab:orange"),
        "held_out": ("held out, averaged weights", "tab:blue"),
    }
    for key, (name, colour) in styles.items():
        points = [(r["step"], r[key]) for r in reports if (r.get(key) or 0) > 0]  # the axis is logarithmic
        if points:
            marker = "o" if key != "loss" else ""
            over_steps.plot(*zip(*points, strict=True), label=name, color=colour, marker=marker, markersize=3)
    over_steps.set(xlabel="step", ylabel="loss", yscale="log", title="loss")
    if over_steps.lines:
        over_steps.legend()
    measured = [r for r in reports if r.get("loss_by_t")]
    if measured:
        chosen = sorted({0, len(measured) // 4, len(measured) - 1})
        for place, i in enumerate(chosen):
            bins = [v or math.nan for v in measured[i]["loss_by_t"]]
            middles = (np.arange(len(bins)) + 0.5) / len(bins)
            shade = str(0.75 - 0.3 * place) if i != chosen[-1] else "tab:blue"
            over_t.plot(middles, bins, marker="o", markersize=3, color=shade, label=f"step {measured[i]['step']:,}")
        over_t.legend()
    over_t.set(xlabel="t (0 clean, 1 noise)", ylabel="loss", yscale="log", title="held-out loss by noise level")
    for axes in (over_steps, over_t):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
