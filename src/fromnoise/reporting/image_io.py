"""Image grids, strips and GIFs, and the files that they are saved to.

Images are uint8 tensors (N, C, H, W), as ``data.to_uint8`` returns them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fromnoise.utils.errors import UserError
from fromnoise.utils.files import check_file, check_folder, write_atomic

_BACKGROUND, _TEXT = (255, 255, 255), (40, 40, 40)
_LONGEST_NAME = 60  # characters of a class name in a grid
_TILE = 32  # images up to this size are magnified by an integer factor, to at most twice this
_UNSUPPORTED = {".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".gif", ".zip", ".pt", ".safetensors"}
_UNSUPPORTED |= {".mp4", ".webm", ".mov", ".avi", ".svg", ".pdf", ".csv", ".json", ".txt", ".h5", ".parquet"}


# ---- grids and strips


def grid(images: Tensor, columns: int | None = None, gap: int = 2, scale: int | None = None) -> Image.Image:
    """Images in rows and columns.

    Args:
        images: uint8 (N, C, H, W).
        columns: images per row; by default the square root of N, rounded up.
        gap: white pixels between images.
        scale: integer magnification; by default small images are magnified.
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
    """One row of images per class, in the order of the classes, each with the name of the class on its left.

    Args:
        images: uint8 (N, C, H, W).
        labels: class of each image, (N,), an index into ``names``.
        names: of the classes; a class without images has no row, and a long name is cut.
        gap: white pixels between images.
    """
    classes: list[int] = [int(k) for k in labels.unique()]
    columns = int(torch.bincount(labels).max())
    rows = [grid(images[labels == k], columns, gap) for k in classes]
    font = ImageFont.load_default(12)
    shown = {k: names[k] if len(names[k]) <= _LONGEST_NAME else names[k][: _LONGEST_NAME - 3] + "..." for k in classes}
    indent = math.ceil(max(font.getlength(name) for name in shown.values())) + 8
    sheet = Image.new("RGB", (indent + rows[0].width, sum(r.height + gap for r in rows) - gap), _BACKGROUND)
    pen, top = ImageDraw.Draw(sheet), 0
    for k, row in zip(classes, rows, strict=True):
        pen.text((indent - 8, top + row.height / 2), shown[k], fill=_TEXT, font=font, anchor="rm")
        sheet.paste(row, (indent, top))
        top += row.height + gap
    return sheet


def _magnification(height: int, width: int) -> int:
    return max(1, 2 * _TILE // max(height, width)) if max(height, width) <= _TILE else 1


def _colour(images: Tensor) -> np.ndarray:
    """To RGB (N, H, W, 3): grey is repeated, alpha is composited on white, channels after the third are dropped."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
    pixels = images.cpu().numpy().transpose(0, 2, 3, 1)
    channels = pixels.shape[-1]
    if channels in (2, 4):
        opacity = pixels[..., -1:] / 255.0
        pixels = np.rint(pixels[..., :-1] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]


def strip(columns: Sequence[Tensor], captions: Sequence[str]) -> Image.Image:
    """Batches as captioned columns side by side; row i shows image i of every batch.

    Args:
        columns: uint8 (B, C, H, W) each, all of one shape.
        captions: one per column.
    """
    return side_by_side([(c, grid(b, columns=1)) for c, b in zip(captions, columns, strict=True)], gap=2)


def forward_strip(batches: Sequence[Tensor], times: Sequence[float]) -> Image.Image:
    """The forward process: images with increasing noise.

    Args:
        batches: uint8 (B, C, H, W) at each time.
        times: t in [0, 1], shown in per cent.
    """
    return strip(batches, [f"{t:.0%}" for t in times])


def reverse_strip(frames: Sequence[Tensor], times: Sequence[float], columns: int = 10) -> Image.Image:
    """The reverse process: equally spaced frames, with the first and the last.

    Args:
        frames: uint8 (B, C, H, W) each.
        times: t of each frame.
        columns: number of frames to show, at most.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int))
    return strip([frames[i] for i in chosen], [f"{times[i]:.0%}" for i in chosen])


def side_by_side(panels: Sequence[tuple[str, Image.Image]], gap: int = 12) -> Image.Image:
    """Images next to each other, each under its title.

    Args:
        panels: titles and images.
        gap: white pixels between the panels.
    """
    font = ImageFont.load_default(12)
    widths = [max(p.width, math.ceil(font.getlength(title)) + 2) for title, p in panels]
    head = 18
    sheet = Image.new(
        "RGB", (sum(widths) + gap * (len(panels) - 1), head + max(p.height for _, p in panels)), _BACKGROUND
    )
    pen, left = ImageDraw.Draw(sheet), 0
    for (title, panel), width in zip(panels, widths, strict=True):
        pen.text((left + width / 2, head / 2), title, fill=_TEXT, font=font, anchor="mm")
        sheet.paste(panel, (left + (width - panel.width) // 2, head))
        left += width + gap
    return sheet


# ---- files


def save(image: Image.Image, path: Path) -> None:
    """Write an image as PNG, atomically.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())


def check_writable(path: Path) -> None:
    """Check that ``save_images`` can write to a path, before the images are made.

    Raises:
        UserError: the file type is unsupported, the folder is not empty, or the path cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix in (".png", ".npz"):
        return check_file(path)
    if suffix in _UNSUPPORTED:
        raise UserError(
            f"cannot write {path}: images are not saved as {suffix}; "
            "use .png for a grid, .npz for an array, or a folder"
        )
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"the folder {path} is not empty: choose another --out")
    check_folder(path)


def save_images(
    images: Tensor,
    path: str | Path,
    labels: Tensor | None = None,
    indices: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    columns: int | None = None,
) -> None:
    """Save images as a grid (.png), as an array (.npz) or as a folder of PNGs.

    Args:
        images: uint8 (N, C, H, W).
        path: its extension selects the format. A .npz holds ``images`` unchanged, and ``labels`` (N,) if given.
        labels: classes, (N,); in a folder the file names end with them.
        indices: of the images, for the file names; by default from 0.
        names: of the classes; with them a grid has a labelled row per class.
        columns: images per row of a grid without labels; as of ``grid``.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind == ".png":
        if labels is None or names is None:
            save(grid(images, columns), path)
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
            name = f"{i if indices is None else indices[i]:06d}" + (f"_{int(labels[i])}" if labels is not None else "")
            save(single(image), path / f"{name}.png")


def single(image: Tensor) -> Image.Image:
    """One image, uint8 (C, H, W), with its own channels: grey, grey and alpha, RGB or RGBA."""
    pixels = image.cpu().numpy()
    if len(pixels) in (1, 2, 3, 4):
        return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return Image.fromarray(_colour(image[None])[0])


def save_gif(frames: Sequence[Tensor], path: Path, columns: int | None = None, seconds: float = 6.0) -> None:
    """Save an animation of grids; the last frame is held for a third of the time.

    Args:
        frames: uint8 (B, C, H, W) each.
        path: of the GIF.
        columns: as of ``grid``.
        seconds: duration of one loop; longer for many frames. The animation loops for ever.

    Raises:
        UserError: it cannot be written.
    """
    sheets = [grid(f, columns) for f in frames]
    if frames[0].shape[1] == 1:
        sheets = [s.convert("L") for s in sheets]
    others = len(sheets) - 1
    # the format has hundredths of a second; viewers slow down below two of them
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
