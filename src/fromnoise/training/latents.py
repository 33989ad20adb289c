"""Training in a latent space: the autoencoder, the statistics of its latents, and their cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, final

import torch
from accelerate.utils import broadcast
from torch import Tensor

from fromnoise import checkpoint
from fromnoise.config import BUDGETS, Recipe, change, get
from fromnoise.config import load as load_recipe
from fromnoise.data import BatchStream, Images, MemoryImages, to_float
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import AutoencoderModel, Model
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

if TYPE_CHECKING:
    from fromnoise.training.loop import TrainingLoop

FOLDER = "autoencoder"
"""The run directory of the autoencoder, within that of the diffusion model."""
_BATCH = 64  # images encoded together
_SHARED_KEYS = (
    *("data.source", "data.size", "data.channels", "data.resize", "data.holdout", "data.flip"),
    *("data.memory_gb", "data.workers", "data.skip_damaged", "train.seed", "train.threads"),
)

Log = Callable[[str], None]


# ---- the autoencoder


def with_autoencoder(recipe: Recipe, run_dir: RunDir | None) -> Recipe:
    """The recipe with the autoencoder of the run that the directory contains, or of ``latent.source``.

    Args:
        recipe: of any model.
        run_dir: None for a model that is trained in memory.

    Raises:
        UserError: ``latent.source`` is no autoencoder.
    """
    if recipe.autoencoder is None or recipe.reconstruction is not None:
        return recipe
    if run_dir is not None and run_dir.exists:
        return change(recipe, {"autoencoder": run_dir.recipe().autoencoder})
    if recipe.latent.source:
        return change(recipe, {"autoencoder": checkpoint.load_autoencoder(recipe.latent.source).recipe.autoencoder})
    return recipe


def load_source(recipe: Recipe, dataset_info: DatasetInfo) -> AutoencoderModel:
    """The autoencoder ``latent.source``.

    Raises:
        UserError: it is none, or was trained on images of another shape.
    """
    source = recipe.latent.source
    model = checkpoint.load_autoencoder(source)
    (own, *own_size), (channels, *size) = model.dataset_info.shape, dataset_info.shape
    if own != channels:
        raise UserError(
            f"the autoencoder {source} has images of {own} channels, the data have {channels}: "
            f"use --data.channels {own}, or another --autoencoder"
        )
    factor = model.module.factor
    if factor is not None and any(side % factor for side in size):
        fits = "x".join(str(-(-side // factor) * factor) for side in dict.fromkeys(size))
        raise UserError(
            f"images of {size[0]}x{size[1]} cannot be divided by the factor {factor} of the autoencoder {source}: "
            f"use --data.size {fits}, or another --autoencoder"
        )
    if own_size != size and factor is None:
        raise UserError(
            f"the autoencoder {source} is built for images of {own_size[0]}x{own_size[1]}, the data have "
            f"{size[0]}x{size[1]}: use --data.size {own_size[0]}x{own_size[1]}, or another --autoencoder"
        )
    return model


def trains_first(recipe: Recipe) -> bool:
    """Whether a run trains an autoencoder before its diffusion model."""
    given = recipe.latent.source or recipe.train.init_from
    return recipe.autoencoder is not None and recipe.reconstruction is None and not given


def own_budget(recipe: Recipe, seconds: float | None = None) -> Recipe:
    """The recipe with the part of a budget in minutes that is left to the diffusion model.

    Learning rate, plan of measurements and choice of the width follow this part.

    Args:
        recipe: of any model.
        seconds: duration of the autoencoder's training; None is ``latent.share`` of the budget.
    """
    minutes = recipe.train.minutes
    if minutes is None or not trains_first(recipe):
        return recipe
    used = recipe.latent.share * minutes if seconds is None else seconds / 60
    return change(recipe, {"train.minutes": max(0.01, minutes - used)})


def autoencoder_recipe(recipe: Recipe, processes: int = 1) -> Recipe:
    """The recipe by which the autoencoder of a latent diffusion model is trained first.

    Loss and training are those of recipe ``latent.recipe``; the network, the images and the seed are those of
    ``recipe``, and its budget is ``latent.share`` of that of ``recipe``.

    Args:
        recipe: of the diffusion model.
        processes: among which a batch is divided; it is rounded up to a multiple.

    Raises:
        UserError: ``latent.recipe`` is not that of an autoencoder.
    """
    own = load_recipe(recipe.latent.recipe)
    if own.reconstruction is None:
        raise UserError(f"latent.recipe {recipe.latent.recipe} trains no autoencoder: use autoencoder")
    values: dict[str, Any] = {key: get(recipe, key) for key in _SHARED_KEYS}
    values |= {"autoencoder": recipe.autoencoder, "train.autosize": ()}
    parts = processes * own.train.accumulate
    values["train.batch"] = -(-own.train.batch // parts) * parts
    budget = next(key for key in BUDGETS if getattr(recipe.train, key) is not None)
    amount = getattr(recipe.train, budget) * recipe.latent.share
    values[f"train.{budget}"] = max(1, round(amount)) if budget in ("steps", "images") else amount
    return change(own, values)


# ---- latents of images


@final
class LatentImages(Images):
    """Mean and deviation of the latents of images, in memory, in place of the images.

    ``get_with_indices`` returns (B, 2 Z, h, w), float16, which ``Model.training_inputs`` accepts.
    """

    def __init__(self, moments: Tensor, mirrored: Tensor | None, labels: Tensor | None) -> None:
        """Use tensors without copying them.

        Args:
            moments: (N, 2 Z, h, w).
            mirrored: moments of the mirrored images, same shape; None if none are mirrored.
            labels: as of ``Images``.
        """
        super().__init__(torch.arange(len(moments)), tuple(moments.shape[1:]), labels)  # pyright: ignore[reportArgumentType]
        self._moments, self._mirrored = moments, mirrored

    def get_with_indices(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Images``."""
        return self._moments.index_select(0, indices), indices

    def get_mirrored(self, indices: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Images``."""
        moments = self._moments.index_select(0, indices)
        if self._mirrored is not None:
            moments[mirrored] = self._mirrored.index_select(0, indices[mirrored])
        return moments, indices


def fit_latent_space(loop: TrainingLoop[Any], autoencoder: AutoencoderModel) -> None:
    """Take the weights of an autoencoder, and standardize its latents.

    Raises:
        UserError: the weights are those of another network.
    """
    space = loop.model.latent_space
    try:
        space.autoencoder.load_state_dict(autoencoder.module.state_dict())
    except RuntimeError:
        raise UserError(
            "the autoencoder has other layers than section autoencoder of the recipe: leave it out"
        ) from None
    fit_statistics(loop.model, loop.data.train, loop.compute)
    if loop.accelerator.num_processes > 1:  # rounding may differ between processes
        for buffer in (space.mean, space.deviation):
            broadcast(buffer)


def cache_latents(loop: TrainingLoop[Any], log: Log) -> None:
    """Encode the images of a diffusion model of latents once, as far as they fit in memory."""
    model, recipe, train = loop.model, loop.model.recipe, loop.data.train
    if getattr(model, "latent_space", None) is None:
        return
    pixels, used = loop.data.held_out.get_with_indices(loop.held_out_loss.indices)
    labels = loop.data.held_out.labels
    held_out = MemoryImages(pixels, labels[used] if labels is not None else None)
    loop.held_out_loss.replace_images(encoded(model, held_out, loop.compute, flip=False))
    channels, height, width = model.latent_space.shape
    size = len(train) * 2 * channels * height * width * 2 * (1 + recipe.data.flip)
    if not recipe.latent.cache or size > recipe.data.memory_gb * 2**30:
        log("latents of the training images are computed when they are needed (latent.cache)")
        return
    loop.stream = BatchStream(
        encoded(model, train, loop.compute, recipe.data.flip), recipe.train.seed, recipe.data.flip
    )
    log(f"latents of {len(train):,} training images in memory ({size / 2**20:.0f} MB)")


def fit_statistics(model: Model, images: Images, compute: ComputeConfig) -> None:
    """Set mean and deviation of each latent channel to those of all images, with the variance of q(z | x).

    Args:
        model: whose latent space has the weights of its autoencoder; it is changed in place.
        images: the training images.
        compute: device and precision.
    """
    space = model.latent_space
    space.mean.zero_()
    space.deviation.fill_(1.0)
    count, total = 0, torch.zeros(2, space.shape[0], dtype=torch.float64)
    for moments, _ in _encoded(model, images, compute, mirror=False):
        mean, deviation = moments.double().chunk(2, dim=1)
        count += mean[:, 0].numel()
        total += torch.stack([mean.sum((0, 2, 3)), (mean**2 + deviation**2).sum((0, 2, 3))])
    mean, square = total / count
    space.mean.copy_(mean)
    space.deviation.copy_((square - mean**2).clamp(min=1e-12).sqrt())


def encoded(model: Model, images: Images, compute: ComputeConfig, flip: bool) -> LatentImages:
    """Encode images, and mirrored ones if ``flip``, into memory."""
    channels, height, width = model.latent_space.shape_for(*images.shape[1:])
    shape = (len(images), 2 * channels, height, width)
    sets = [torch.empty(shape, dtype=torch.float16) for _ in range(1 + flip)]
    # an image that cannot be read is replaced by another one, whose label counts then
    used = torch.arange(len(images))
    for mirror, moments in enumerate(sets):
        first = 0
        for part, indices in _encoded(model, images, compute, bool(mirror)):
            moments[first : first + len(part)] = part
            used[first : first + len(part)] = indices
            first += len(part)
    labels = images.labels[used] if images.labels is not None else None
    return LatentImages(sets[0], sets[1] if flip else None, labels)


def _encoded(model: Model, images: Images, compute: ComputeConfig, mirror: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Mean and deviation of latents, float32 (B, 2 Z, h, w) on the CPU, and indices of their images, by batches."""
    for indices in torch.arange(len(images)).split(_BATCH):
        pixels, used = images.get_with_indices(indices)
        x = to_float(pixels.to(compute.device))
        x = (x.flip(-1) if mirror else x).contiguous(memory_format=compute.memory_format)
        yield torch.cat(model.latent_moments(x, compute), dim=1).float().cpu(), used
