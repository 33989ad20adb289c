"""The models that the computing process keeps in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fromnoise import checkpoint, registry
from fromnoise.pipeline import Pipeline
from fromnoise.web.compute.sending import Send

_KEPT = 2
_LARGEST_LOGSNR = 30.0  # shown of a level without noise, or of noise alone

_models: dict[tuple[str, int, int], Pipeline] = {}


def open_model(run: str) -> Pipeline:
    """The model of a run, as its file is now.

    Args:
        run: its folder.

    Raises:
        UserError: there is no model, or it is damaged.
    """
    path = Path(run) / "model.safetensors"
    status = path.stat() if path.exists() else None
    key = (run, status.st_mtime_ns, status.st_size) if status is not None else (run, 0, 0)
    model = _models.pop(key, None)
    if model is None:
        for old in [k for k in _models if k[0] == run]:
            del _models[old]
        model = Pipeline(checkpoint.load_model(run).model)
    _models[key] = model
    while len(_models) > _KEPT:
        del _models[next(iter(_models))]
    return model


def describe(send: Send, run: str) -> None:
    """Send what the forms for a model offer."""
    model = open_model(run)
    info, recipe = model.model.dataset_info, model.recipe
    pseudo = model.denoiser.pseudo_labels is not None
    send(
        "end",
        shape=list(info.shape),
        classes=list(info.class_names or ()),
        attributes=[a.name for a in info.attributes or ()],
        guided=info.is_conditional or pseudo,
        parameters=model.model.parameters,
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
