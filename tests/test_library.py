"""The library's interface: train images of any form, save, load, sample, with networks of one's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fromnoise as fn

STEPS = 6


class TinyNet(nn.Module):
    """Two convolutions and a linear embedding of the time; any network of the form net(x, t, cond) will do."""

    def __init__(self, channels: int = 1, classes: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.time = nn.Linear(1, 8)
        self.label = nn.Embedding(classes + 1, 8) if classes else None
        self.head = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x, t, cond=None):
        hidden = self.stem(x) + self.time(t.float()[:, None] / 1000)[:, :, None, None]
        if self.label is not None:
            index = torch.zeros_like(t, dtype=torch.long) if cond is None else cond + 1
            hidden = hidden + self.label(index)[:, :, None, None]
        return self.head(hidden.relu())


def own_denoiser(**options) -> fn.Denoiser:
    """A denoiser with ``TinyNet``."""
    return fn.Denoiser(TinyNet(**options), schedule=fn.schedules.linear(100), target=fn.targets.Eps())


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Forty images of 8 x 8 pixels, uint8 (40, 1, 8, 8)."""
    return torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def forms(pixels, tmp_path_factory):
    """The same images as a tensor, an array, a folder, a file, a data set and a loader."""
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(pixels):
        Image.fromarray(image[0].numpy()).save(folder / f"{i:03}.png")
    file = tmp_path_factory.mktemp("file") / "images.npy"
    np.save(file, pixels[:, 0].numpy())
    floats = pixels / 255
    return {
        "tensor": pixels,
        "array": pixels[:, 0].numpy(),
        "folder": folder,
        "str": str(folder),
        "file": file,
        "dataset": TensorDataset(floats),
        "loader": DataLoader(TensorDataset(floats), batch_size=7),
    }


def losses(trainer) -> list[float]:
    """The loss of each step."""
    return [report.loss for report in trainer]


@pytest.mark.parametrize("form", ["tensor", "array", "folder", "str", "file", "dataset", "loader"])
def test_the_trainer_accepts_images_in_every_form(form, forms, pixels):
    """The same losses, whatever form the images have."""
    options = {"batch": 8, "lr": 1e-2, "steps": STEPS, "progress": False, "precision": "fp32"}
    first = losses(fn.Trainer(own_denoiser(), pixels, **options))
    assert len(first) == STEPS and all(np.isfinite(first))
    assert losses(fn.Trainer(own_denoiser(), forms[form], **options)) == first


def test_a_run_of_an_own_network_resumes_and_loads(pixels, tmp_path):
    """Half of the steps, then the same call with all of them: the weights of a run without a stop; load gives them."""
    options = {"batch": 8, "lr": 1e-2, "progress": False, "precision": "fp32"}
    whole = fn.Trainer(own_denoiser(), pixels, steps=STEPS, out=tmp_path / "whole", **options).run()
    running = iter(fn.Trainer(own_denoiser(), pixels, steps=STEPS, out=tmp_path / "half", **options))
    for _ in range(STEPS // 2):
        next(running)
    running.close()
    fn.Trainer(own_denoiser(), pixels, steps=STEPS, out=tmp_path / "half", **options).run()
    loaded = fn.load(tmp_path / "half", network=TinyNet(), device="cpu")
    for a, b in zip(whole.denoiser.parameters(), loaded.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(fn.UserError, match="network"):
        fn.load(tmp_path / "half")


def test_training_lowers_the_loss():
    """A constant image is learned: the loss of the last steps is below half of the first."""
    images = torch.full((32, 1, 8, 8), 200, dtype=torch.uint8)
    trainer = fn.Trainer(own_denoiser(), images, batch=16, lr=1e-2, steps=120, progress=False, precision="fp32")
    found = losses(trainer)
    assert np.mean(found[-10:]) < 0.5 * np.mean(found[:3])


def test_an_own_loop_by_the_denoisers_loss(pixels):
    """The loss is one value an image, a function of seed and positions alone, and has a gradient."""
    denoiser = own_denoiser()
    x0 = pixels[:8].float() / 127.5 - 1
    loss = denoiser.loss(x0, seed=0, positions=range(8))
    again = denoiser.loss(x0, seed=0, positions=range(8))
    other = denoiser.loss(x0, seed=1, positions=range(8))
    assert loss.shape == (8,) and torch.equal(loss, again) and not torch.equal(loss, other)
    loss.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.network.parameters())


@pytest.fixture(scope="module")
def model(pixels):
    """A pipeline with an own network, trained for a few steps."""
    return fn.Trainer(own_denoiser(), pixels, batch=8, steps=STEPS, progress=False, precision="fp32").run()


def test_samples_are_a_function_of_seed_and_number(model):
    """Shape and type; the same at any batch size; ``first`` continues the numbering; other seeds differ."""
    images = model.sample(5, steps=4, seed=3, progress=False)
    assert images.shape == (5, 1, 8, 8) and images.dtype == torch.uint8
    assert torch.equal(images, model.sample(5, steps=4, seed=3, batch=2))
    assert torch.equal(images[3:], model.sample(2, steps=4, seed=3, first=3))
    assert not torch.equal(images, model.sample(5, steps=4, seed=4))


def test_steps_is_the_loop_of_sample(model):
    """The last step holds the samples; times fall to 0; a sampler object equals its name with options."""
    reached = []
    for step in model.steps(3, sampler=fn.samplers.DDIM(eta=0.5), steps=7, seed=1):
        reached.append(step.t)
    assert len(reached) == 7 and reached == sorted(reached, reverse=True) and reached[-1] == 0
    assert torch.equal(step.images, model.sample(3, sampler={"kind": "ddim", "eta": 0.5}, steps=7, seed=1))


@pytest.mark.parametrize("size", [16, (8, 12)])
def test_samples_of_another_size(model, size):
    """One number is a square, two are height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    assert model.sample(1, steps=2, size=size).shape == (1, 1, height, width)


def test_labels_of_a_conditional_model(pixels, tmp_path):
    """A class by index, by name, by several that take turns; a saved pipeline gives the same samples."""
    labels = torch.arange(40) % 2
    trainer = fn.Trainer(own_denoiser(classes=2), pixels, labels=labels, batch=8, steps=STEPS, progress=False)
    model = trainer.run()
    zeros = model.sample(2, label=0, steps=3)
    assert torch.equal(zeros, model.sample(2, label="0", steps=3))
    assert not torch.equal(zeros, model.sample(2, label=1, steps=3))
    assert model.samples(4, label=[0, 1], steps=3).labels.tolist() == [0, 1, 0, 1]  # pyright: ignore
    assert not torch.equal(zeros, model.sample(2, label=0, steps=3, guidance=3.0))
    model.save(tmp_path / "model.safetensors")
    loaded = fn.load(tmp_path / "model.safetensors", network=TinyNet(classes=2))
    assert torch.equal(zeros, loaded.sample(2, label=0, steps=3))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m.sample(2, sampler="ddmi"), ValueError, "ddim"),
        (lambda m: m.sample(2, eta=3), ValueError, "eta"),
        (lambda m: m.sample(2, label=0), fn.UserError, "label"),
        (lambda m: m.sample(2, steps=0), ValueError, "steps"),
        (lambda m: m.sample(0), ValueError, "n=0"),
        (lambda m: m.sample(2, size=-1), fn.UserError, "size"),
        (lambda m: fn.load("no/such/run"), fn.UserError, "no/such/run"),
        (lambda m: fn.Pipeline(own_denoiser()), ValueError, "shape"),
        (lambda m: fn.Trainer(own_denoiser(), torch.zeros(3, 2), steps=1), fn.UserError, r"\(3, 2\)"),
        (lambda m: fn.Trainer("nosuch", steps=1), fn.UserError, "nosuch"),
        (lambda m: fn.Trainer("digits", train__stepz=1), fn.UserError, "stepz"),
    ],
)
def test_mistakes_get_a_message_that_names_them(model, call, error, words):
    """Exceptions say what is wrong."""
    with pytest.raises(error, match=words):
        call(model)


def test_every_public_name_exists():
    """``__all__`` holds only names that can be imported, and ``dir`` shows them."""
    assert all(getattr(fn, name) is not None for name in fn.__all__)
    assert set(fn.__all__) <= set(dir(fn))
    with pytest.raises(AttributeError, match="nosuch"):
        _ = fn.nosuch  # pyright: ignore[reportAttributeAccessIssue]
