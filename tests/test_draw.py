"""Drawing: picture i is a function of (seed, i)."""

from __future__ import annotations

import pytest
import torch

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.pipeline import collect, forward_process, sample_steps
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

SMALL = {"network.width": 16, "network.groups": 4, "network.attention_resolutions": [4], "loss.self_conditioning": True}


@pytest.fixture(scope="module")
def model():
    """A network with every weight away from zero, so that its output depends on its input."""
    made = build(
        recipes.load("digits", SMALL | {"network.zero_output": False, "data.labels": True}),
        DatasetInfo((1, 8, 8), ("a", "b")),
    )
    made.denoiser.eval()
    return made


def pictures(model, ids, batch, **config):
    """Finished pictures as floats, before they are rounded to pixels."""
    config_of_run = model.recipe.sample.model_copy(update={"steps": 12, **config})
    steps = sample_steps(model, config_of_run, select_device("cpu", "fp32"), ids=ids, seed=3, label="all", batch=batch)
    return torch.cat([drawn.step.x for drawn in steps if drawn.last])


@pytest.mark.parametrize(
    "config",
    [{}, {"sampler": {"kind": "ancestral", "variance": 1.0}}, {"guidance": 3.0}],
    ids=["ddim", "ancestral", "guided"],
)
def test_the_batch_does_not_matter(model, config):
    """Batches of 1, 7 and 64: the network's own arithmetic is all that differs; -n 10 begins -n 64."""
    whole = pictures(model, torch.arange(64), 64, **config)
    assert float(whole.std()) > 0.1
    for batch in (1, 7):
        assert float((pictures(model, torch.arange(64), batch, **config) - whole).abs().max()) <= 1e-4
    assert float((pictures(model, torch.arange(10), 64, **config) - whole[:10]).abs().max()) <= 1e-4
    assert float((pictures(model, torch.arange(30, 40), 64, **config) - whole[30:40]).abs().max()) <= 1e-4
    assert float((whole[0] - whole[2]).abs().max()) > 0.1


def test_a_batch_too_large_for_memory_is_halved(model):
    """The same pictures, each once and in order; one that does not fit alone is a user's matter."""
    sizes = []

    def tight(most):
        def wrap(denoise):
            def called(x, level, cond=None, previous=None):
                sizes.append(len(x))
                if len(x) > most:
                    raise torch.OutOfMemoryError("too much")
                return denoise(x, level, cond, previous)

            return called

        return wrap

    config = model.recipe.sample.model_copy(update={"steps": 3})
    options = {"ids": torch.arange(20), "seed": 3, "label": "all", "batch": 16}
    found = collect(sample_steps(model, config, select_device("cpu", "fp32"), wrap=tight(5), **options), frames=3)
    want = collect(sample_steps(model, config, select_device("cpu", "fp32"), **options))
    assert int((found.images.int() - want.images.int()).abs().max()) <= 1
    assert torch.equal(found.labels, want.labels)
    assert sizes[:3] == [16, 8, 4] and max(sizes[3:]) <= 4 and len(found.frames) == 3
    with pytest.raises(UserError, match="memory"):
        collect(sample_steps(model, config, select_device("cpu", "fp32"), wrap=tight(0), **options))


def test_frames_are_equally_spaced_and_end_with_the_picture(model):
    """Of the first batch only."""
    config = model.recipe.sample.model_copy(update={"steps": 20})
    kept = collect(sample_steps(model, config, select_device("cpu", "fp32"), ids=torch.arange(9), batch=4), frames=5)
    assert kept.images.shape == (9, 1, 8, 8) and kept.images.dtype == torch.uint8
    assert len(kept.frames) == 5 and all(f.shape == (4, 1, 8, 8) for f in kept.frames)
    assert torch.equal(kept.frames[-1], kept.images[:4])
    gaps = torch.tensor(kept.times).diff()
    assert kept.times[-1] == 0 and float(gaps.max() - gaps.min()) <= 0.051


def test_mistakes_are_config_of_run_at_once(model):
    """Before anything is drawn."""
    config = model.recipe.sample
    with pytest.raises(UserError, match="label"):
        sample_steps(model, config, select_device("cpu"), ids=torch.arange(2), label="c")
    with pytest.raises(UserError, match="1001"):
        sample_steps(model, config.model_copy(update={"steps": 1001}), select_device("cpu"), ids=torch.arange(2))


def test_forward_process_ends_in_the_images_and_in_noise(model):
    """The first is the images; the last does not know them."""
    pixels = torch.full((40, 1, 8, 8), 255, dtype=torch.uint8)
    batches, times = forward_process(model.schedule, pixels)
    assert times[0] == 0 and torch.equal(batches[0], pixels)
    assert {0.25, 0.5, 0.75, 1.0} <= set(times)
    other, _ = forward_process(model.schedule, torch.zeros_like(pixels))
    assert float((batches[-1].float() - other[-1].float()).abs().mean()) < 3


def test_guidance_alone_deals_out_the_classes(model):
    """Guiding to nothing would cost twice and do nothing."""
    config = model.recipe.sample.model_copy(update={"steps": 2, "guidance": 3.0})
    kept = collect(sample_steps(model, config, select_device("cpu", "fp32"), ids=torch.arange(4)))
    assert kept.labels.tolist() == [0, 1, 0, 1]
