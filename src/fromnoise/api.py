"""The library's interface: load, sample, tune, distill, save and publish models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fromnoise import checkpoint, interop
from fromnoise.interop import publish
from fromnoise.interop.diffusers_autoencoder import is_autoencoder
from fromnoise.model import AutoencoderModel, Model
from fromnoise.pipeline import Autoencoder, Pipeline
from fromnoise.tuning import Tuned, last_report, tune_run
from fromnoise.tuning.learning import ITERATIONS
from fromnoise.utils.errors import UserError
from fromnoise.utils.hub import HubName, check_token, upload
from fromnoise.utils.progress_bar import progress_bar


def load(source: str | Path, *, network: nn.Module | None = None, device: str | None = None) -> Pipeline:
    """Load a model to sample from.

    Args:
        source: a run directory, a .safetensors file, ``hub:owner/name[@revision]``, or a model of another program that
            ``fromnoise import`` reads without opening a pickle, such as a diffusers folder.
        network: the module whose weights the file holds, for a model with a network of its own; a file never names
            code to import.
        device: "cpu", "cuda", "cuda:1" or "mps"; None is the best available.

    Raises:
        UserError: there is no such file or repository, it is damaged, or it needs ``network``.
    """
    if network is None and interop.is_foreign(source):
        # the weights of an autoencoder are not downloaded for a refusal
        model = None if is_autoencoder(interop.Source(source)) else interop.import_model(source).model
        if not isinstance(model, Model):
            raise UserError(f"{source} has an autoencoder alone that can be loaded: use load_autoencoder")
        return Pipeline(model, device=device)
    return Pipeline(checkpoint.load_model(source, network=network).model, device=device)


def load_autoencoder(source: str | Path, *, device: str | None = None) -> Autoencoder:
    """Load an autoencoder: to encode, decode and reconstruct images, and to sample if it is a variational one.

    Args:
        source: a run directory or a .safetensors file, of recipe autoencoder or vae, or a diffusers folder of an
            AutoencoderKL.
        device: as of ``load``.

    Raises:
        UserError: there is no such file, it is damaged, or it is no autoencoder.
    """
    if interop.is_foreign(source):
        model = interop.import_model(source).model
        if isinstance(model, AutoencoderModel):
            return Autoencoder(model, device=device)
        raise UserError(f"{source} is a diffusion model, not an autoencoder: use load")
    return Autoencoder(checkpoint.load_autoencoder(source), device=device)


def sample(source: str | Path, n: int = 1, **options: Any) -> Tensor:
    """Samples of a saved model, uint8 (n, C, H, W): ``load(source).sample(n, **options)``."""
    return load(source).sample(n, **options)


def distill(
    source: str | Path,
    steps: int = 2,
    images: Any = None,
    *,
    minutes: float | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    progress: bool | None = None,
    **values: Any,
) -> Pipeline:
    """Distill a saved model to one that samples in a few evaluations, as ``fromnoise distill`` does.

    Args:
        source: a run directory or a .safetensors file: the base.
        steps: evaluations of a sample: 1, 2 or 4.
        images: training images, anything that ``as_data`` takes; None is the data of the base.
        minutes: budget, 10 by default; ``train__steps`` is one in optimizer steps.
        out: the run directory, where the same call resumes; None keeps everything in memory.
        device: as of ``load``.
        progress: show a progress bar; None does in terminals and notebooks.
        values: further recipe values, with ``__`` for the dot.

    Raises:
        UserError: the model cannot be distilled, or the data cannot be read.
    """
    from fromnoise.training.distillation import distillation_recipe
    from fromnoise.training.trainer import Trainer

    changed = {key.replace("__", "."): value for key, value in values.items()}
    changed |= {} if minutes is None else {"train.minutes": minutes}
    recipe = distillation_recipe(source, steps, changed)
    return Trainer(recipe, images, out=out, device=device, progress=progress).run()


def save(pipeline: Pipeline, path: str | Path) -> None:
    """Save a model as one .safetensors file, which ``load`` reads.

    Raises:
        UserError: the file cannot be written.
    """
    pipeline.save(path)


def tune(
    source: str | Path,
    steps: int = 5,
    *,
    teacher: int | None = None,
    iterations: int = ITERATIONS,
    device: str | None = None,
    progress: bool | None = None,
) -> Tuned:
    """Learn the time steps and coefficients of the sampler for a number of steps, as ``fromnoise tune`` does.

    They are kept in the file of the model, and ``load(source).sample(steps=steps)`` uses them.

    Args:
        source: a run directory or a .safetensors file.
        steps: number of sampling steps.
        teacher: steps whose samples are approximated; None is 20, or twice ``steps`` if more.
        iterations: optimizer steps.
        device: as of ``load``.
        progress: show a progress bar; None does in terminals and notebooks.

    Returns:
        The learned numbers, None if they do not help, and the distances to samples of more steps before and after.

    Raises:
        UserError: there is no such run, or another process writes in it.
    """
    reports = tune_run(source, steps, teacher=teacher, iterations=iterations, device=device)
    with progress_bar(progress, total=iterations, unit="iteration") as bar:
        return last_report(reports, lambda step: bar.update())


def push(
    source: str | Path,
    repository: str,
    *,
    license: str | None = None,
    private: bool = False,
    samples: int = 36,
    seed: int = 0,
    device: str | None = None,
) -> str:
    """Publish a saved model on the Hugging Face hub with a model card, as ``fromnoise push`` does.

    Args:
        source: a run directory or a .safetensors file.
        repository: ``owner/name``, created if there is none; ``load("hub:owner/name")`` reads it.
        license: identifier of the hub, such as "mit"; None states none.
        private: a new repository is seen by its owner alone.
        samples: number of samples on the card; 0 for none.
        seed: of the samples.
        device: as of ``load``.

    Returns:
        The address of the commit.

    Raises:
        UserError: a wrong name or licence, no token, or the hub cannot be reached or refuses.
    """
    name = HubName.parse(repository)
    publish.check_license(license)
    check_token(name)
    loaded = checkpoint.load_model(source)
    files = publish.repository_files(loaded, name, license=license, samples=samples, seed=seed, device=device)
    return upload(name, files, publish.MESSAGE, private)
