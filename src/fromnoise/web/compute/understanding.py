"""What a model has learned, in numbers: bits by reverse step, rate and distortion."""

from __future__ import annotations

import torch

from fromnoise.data import shuffled_indices
from fromnoise.evaluation.likelihood import LikelihoodEvaluator
from fromnoise.evaluation.progressive_coding import rate_and_distortion
from fromnoise.evaluation.resolve import load_model_data
from fromnoise.utils.errors import UserError, one_line
from fromnoise.web.compute.models import open_model
from fromnoise.web.compute.sending import Send

_EVERY = 20  # steps between two messages


def rate(send: Send, run: str, count: int) -> None:
    """Send rate and distortion of some held-out images after each reverse step, as ``fromnoise show rate``."""
    model = open_model(run)
    images = load_model_data(model.model, None, lambda line: send("log", line=one_line(line))).held_out
    chosen = torch.as_tensor(shuffled_indices(len(images), 0, range(min(count, len(images)))))
    conditional = model.model.dataset_info.class_names is not None and images.labels is not None
    labels = images.labels[chosen] if conditional and images.labels is not None else None
    evaluator = LikelihoodEvaluator(model.model, model.compute, 0)
    total, done = evaluator.elbo().steps, 0

    def on_progress(steps: int) -> None:
        nonlocal done
        done += steps
        if done % _EVERY == 0:
            send("progress", done=done, total=total)

    try:
        curve = rate_and_distortion(evaluator, images.get(chosen), labels, on_progress)
    except ValueError as error:
        raise UserError(str(error)) from None
    send(
        "end",
        steps=curve.steps,
        rates=[round(v, 6) for v in curve.rates],
        distortions=[round(v, 4) for v in curve.distortions],
        lossless=curve.lossless,
        count=curve.n,
    )
