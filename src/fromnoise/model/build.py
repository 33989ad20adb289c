"""From a recipe to a model, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fromnoise import registry
from fromnoise.config import Recipe, change, parse, to_config
from fromnoise.config.component import CUSTOM
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.data.pseudo_labels import PseudoLabels
from fromnoise.diffusion import schedules
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.model.autoencoder import AutoencoderModel
from fromnoise.model.component import component
from fromnoise.model.model import Model
from fromnoise.networks.cluster_means import ClusterMeans
from fromnoise.networks.latent_space import LatentSpace
from fromnoise.utils.construction import limited_by_machine
from fromnoise.utils.errors import UserError


def build(
    recipe: Recipe,
    dataset_info: DatasetInfo,
    seed: int | None = None,
    device: str = "cpu",
    network: nn.Module | None = None,
) -> Model:
    """Make the diffusion model that a recipe describes, with fresh weights.

    Args:
        recipe: every choice.
        dataset_info: shape and labels of the data.
        seed: of the initial weights; None is that of the recipe.
        device: where the weights are made; "meta" makes none, for counting.
        network: a module to use in place of the recipe's network.

    Raises:
        UserError: the choices do not work together, or the recipe is that of an autoencoder.
    """
    if recipe.reconstruction is not None:
        raise UserError(
            f"recipe {recipe.name} is that of an autoencoder, not of a diffusion model: for one in its latent space "
            "use fromnoise train latent --autoencoder RUN"
        )
    schedule = component("schedule", recipe.diffusion.schedule)
    if recipe.diffusion.zero_terminal_snr:
        schedule = schedules.zero_terminal_snr(schedule)
    with _initial_weights(recipe, seed, device):
        latent_space = LatentSpace(_autoencoder(recipe, dataset_info)) if recipe.autoencoder is not None else None
        shape = latent_space.shape if latent_space is not None else dataset_info.shape
        if network is None:
            network = _network(recipe, dataset_info, schedule, shape)
        pseudo_labels = PseudoLabels(recipe.pseudo_labels, shape) if recipe.pseudo_labels else None
    denoiser = Denoiser(
        network,
        schedule,
        component("target", recipe.diffusion.target, schedule=schedule),
        noise_conditioning=component(
            "noise_conditioning", recipe.diffusion.noise_conditioning, timesteps=schedule.steps or 1000
        ),
        self_conditioning=recipe.loss.self_conditioning,
        self_conditioning_clip=recipe.loss.self_conditioning_clip,
        learned_variance=recipe.diffusion.learned_variance,
        clip_x0=recipe.diffusion.clip_x0,
        pseudo_labels=pseudo_labels,
        latent_space=latent_space,
        weak=recipe.ema.weak_at > 0,
    )
    return Model(recipe, dataset_info, denoiser)


def build_autoencoder(
    recipe: Recipe, dataset_info: DatasetInfo, seed: int | None = None, device: str = "cpu"
) -> AutoencoderModel:
    """Make the autoencoder that a recipe describes, with fresh weights; the arguments are those of ``build``.

    Raises:
        UserError: the autoencoder does not fit the images.
    """
    with _initial_weights(recipe, seed, device):
        return AutoencoderModel(recipe, dataset_info, _autoencoder(recipe, dataset_info))


def build_trainable(
    recipe: Recipe, dataset_info: DatasetInfo, seed: int | None = None, device: str = "cpu"
) -> Model | AutoencoderModel:
    """What a recipe trains: an autoencoder if it has a loss of reconstruction, otherwise a diffusion model.

    Raises:
        UserError: as ``build``.
    """
    make = build if recipe.reconstruction is None else build_autoencoder
    return make(recipe, dataset_info, seed, device)


@contextlib.contextmanager
def _initial_weights(recipe: Recipe, seed: int | None, device: str) -> Iterator[None]:
    """Make weights by a seed, on a device, within the memory of the machine."""
    with torch.random.fork_rng(devices=[]), torch.device(device), limited_by_machine():
        torch.manual_seed(recipe.train.seed if seed is None else seed)
        yield


def _autoencoder(recipe: Recipe, dataset_info: DatasetInfo) -> nn.Module:
    channels, height, width = dataset_info.shape
    return component("autoencoder", recipe.autoencoder, in_channels=channels, size=(height, width))


def _network(
    recipe: Recipe, dataset_info: DatasetInfo, schedule: schedules.Schedule, shape: tuple[int, int, int]
) -> nn.Module:
    if recipe.network.kind == CUSTOM:
        raise UserError(
            "this model has a custom network, whose code a file does not contain: load it in Python with "
            "fromnoise.load(PATH, network=MyNet())"
        )
    channels, height, width = shape
    augmentation, kind = recipe.data.augmentation, recipe.network.kind
    if augmentation is not None and "augmentation" not in registry.context("network", kind):
        raise UserError(
            f"network {kind} does not take the condition of data.augmentation: use network unet, adm, lucidrains or "
            "diffusers, or leave data.augmentation out"
        )
    network = component(
        "network",
        recipe.network,
        in_channels=channels * (1 + recipe.loss.self_conditioning + recipe.pseudo_label_means),
        out_channels=channels * (2 if recipe.diffusion.learned_variance else 1),
        size=(height, width),
        classes=len(dataset_info.class_names) if dataset_info.class_names else recipe.pseudo_labels,
        attributes=[(a.mean, a.deviation) for a in dataset_info.attributes or ()],
        timesteps=schedule.steps or 1000,
        augmentation=component("augmentation", augmentation).conditions if augmentation is not None else 0,
    )
    return ClusterMeans(network, recipe.pseudo_labels, shape) if recipe.pseudo_label_means else network


def recipe_of(denoiser: Denoiser, info: DatasetInfo, **values: Any) -> Recipe:
    """The recipe that describes a denoiser made in Python.

    Args:
        denoiser: its network is written down as ``custom``, so that ``load`` needs one.
        info: of its images.
        values: further values by dotted key with ``__`` for the dot.

    Raises:
        ValueError: its schedule, target or noise conditioning is not registered.
        UserError: a value is out of range.
    """
    schedule = denoiser.schedule
    try:
        written = to_config("schedule", schedule)
    except ValueError:
        if not isinstance(schedule, schedules.BetaSchedule):
            raise
        written = {"kind": "betas", "betas": schedule.betas.tolist()}
    recipe = parse(
        {
            "network": "custom",
            "data": {"source": "", "labels": info.class_names is not None},
            "diffusion": {
                "schedule": written,
                "target": to_config("target", denoiser.target),
                "noise_conditioning": to_config("noise_conditioning", denoiser.noise_conditioning),
                "learned_variance": denoiser.learned_variance,
                "clip_x0": denoiser.clip_x0,
            },
            "loss": {
                "objective": "hybrid" if denoiser.learned_variance else "simple",
                "self_conditioning": denoiser.self_conditioning,
                "self_conditioning_clip": denoiser.self_conditioning_clip,
            },
            "sample": {"sampler": "dpmpp-2m", "steps": min(20, schedule.steps or 20)},
        }
    )
    return change(recipe, {key.replace("__", "."): value for key, value in values.items()})
