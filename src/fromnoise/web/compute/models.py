"""The models that the computing process keeps in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fromnoise import checkpoint, registry
from fromnoise.model import Model
from fromnoise.pipeline import Autoencoder, Pipeline
from fromnoise.utils.errors import UserError
from fromnoise.web.compute.sending import Send

_KEPT = 2
_LARGEST_LOGSNR = 30.0  # shown of a level without noise, or of noise alone

_models: dict[tuple[str, int, int], Pipeline | Autoencoder] = {}


def open_model(run: str) -> Pipeline:
    """The diffusion model of a run, as its file is now.

    Args:
        run: its folder.

    Raises:
        UserError: there is no model, it is damaged, or it is an autoencoder.
    """
    found = open_trained(run)
    if isinstance(found, Autoencoder):
        raise UserError(f"{Path(run).name} is an autoencoder: this needs a diffusion model")
    return found


def open_trained(run: str) -> Pipeline | Autoencoder:
    """What was trained in a run, as its file is now: a diffusion model or an autoencoder.

    Args:
        run: its folder.

    Raises:
        UserError: there is no model yet, or it is damaged.
    """
    path = Path(run) / "model.safetensors"
    try:
        status = path.stat()
    except OSError:
        raise UserError(f"{Path(run).name} has no model yet: it is written while the run trains") from None
    key = (run, status.st_mtime_ns, status.st_size)
    model = _models.pop(key, None)
    if model is None:
        for old in [k for k in _models if k[0] == run]:
            del _models[old]
        trained = checkpoint.load_trainable(run).model
        model = Pipeline(trained) if isinstance(trained, Model) else Autoencoder(trained)
    _models[key] = model
    while len(_models) > _KEPT:
        del _models[next(iter(_models))]
    return model


def describe(send: Send, run: str) -> None:
    """Send what the forms for a model offer."""
    model = open_trained(run)
    info = model.model.dataset_info
    shared: dict[str, Any] = {"shape": list(info.shape), "parameters": model.model.parameters}
    if isinstance(model, Autoencoder):
        generative = model.model.objective.generative
        return send("end", diffusion=False, generative=generative, classes=[], attributes=[], guided=False, **shared)
    recipe = model.recipe
    send(
        "end",
        diffusion=True,
        generative=True,
        **shared,
        classes=list(info.class_names or ()),
        attributes=[a.name for a in info.attributes or ()],
        guided=model.model.is_guidable,
        sampler=recipe.sample.sampler.kind,
        steps=model.model.steps(recipe.sample),
        guidance=recipe.sample.guidance,
        samplers=components("sampler"),
        solvers=components("inverse_solver"),
        schedule=schedule_curve(model),
    )


def components(family: str) -> list[dict[str, Any]]:
    """Names, summaries and options of the components of a family."""
    return [
        {
            "name": name,
            "summary": registry.summary(registry.get(family, name)),
            "options": [
                {"name": option.name, "default": _shown(option.default), "help": option.help}
                for option in registry.options(family, name).values()
            ],
        }
        for name in registry.names(family)
    ]


def _shown(value: object) -> str:
    """A default as a form shows it."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def schedule_curve(model: Pipeline, points: int = 101) -> dict[str, list[float]]:
    """log-SNR, alpha and sigma of the model's noise schedule over t."""
    times = [i / (points - 1) for i in range(points)]
    levels = [model.model.schedule.at(max(t, 1e-3)) for t in times]
    return {
        "t": times,
        "logsnr": [max(-_LARGEST_LOGSNR, min(_LARGEST_LOGSNR, round(float(level.logsnr), 4))) for level in levels],
        "alpha": [round(float(level.alpha), 5) for level in levels],
        "sigma": [round(float(level.sigma), 5) for level in levels],
    }
