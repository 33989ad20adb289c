"""A model that is told the clusters of its images: trained, saved, resumed, drawn."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fromnoise.checkpoint import load_model, save_model
from fromnoise.config import load
from fromnoise.data import BatchStream, MemoryImages, to_float
from fromnoise.data.pseudo_labels import PseudoLabels
from fromnoise.diffusion import Unconditional
from fromnoise.pipeline import collect, draw
from fromnoise.training import fit_pseudo_labels
from fromnoise.utils.device import select_device


def sought(sizes, count):
    """The centres found in images around as many far levels of grey as there are sizes, and those images."""
    levels = torch.linspace(20, 230, len(sizes)).repeat_interleave(torch.tensor(sizes))
    noise = torch.randn(len(levels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = (levels[:, None, None, None] + noise).byte()
    pseudo_labels = PseudoLabels(count, (1, 8, 8))
    found = fit_pseudo_labels.find(pseudo_labels, BatchStream(MemoryImages(pixels), seed=4), seed=4)
    return found, pseudo_labels, pseudo_labels.of(to_float(pixels))


def test_what_lies_apart_is_found():
    """Three groups of known sizes: each is one cluster, of its share."""
    sizes = [100, 300, 600]
    found, pseudo_labels, which = sought(sizes, 3)
    assert found == 3 and len(which.unique()) == 3
    assert [len(part.unique()) for part in which.split(sizes)] == [1, 1, 1]
    assert torch.allclose(pseudo_labels.share.sort().values, torch.tensor([0.1, 0.3, 0.6]))


def test_few_images_make_few_clusters():
    """One for every hundred, and at least one; the rest is not dealt out."""
    found, pseudo_labels, which = sought([fit_pseudo_labels.EACH, fit_pseudo_labels.EACH], 5)
    assert found == 2 and which.max() == 1 and pseudo_labels.share[2:].sum() == 0
    assert sought([30], 5)[0] == 1


@pytest.fixture
def told(make):
    """A trainer whose model knows eight clusters, after some steps, and what it logged."""
    lines = []
    trainer = make(steps=6, data_pseudo_labels=8, log=lines.append)
    trainer.find_clusters()
    list(trainer.run())
    return trainer, lines


def pictures(model, ids, seed=0, **config):
    compute = select_device("cpu", "fp32")
    compute.to_device(model.denoiser.eval())
    settings = model.recipe.sample.model_copy(update=config)
    return collect(draw(model, settings, compute, ids=ids, seed=seed))


def test_the_network_learns_the_clusters_of_its_images(told):
    """Those of the nearest centres."""
    trainer, lines = told
    assert any("8 clusters" in line for line in lines)
    pixels = trainer.stream.batch(range(4)).pixels
    x0, cond = trainer._images(pixels, None)
    assert torch.equal(cond, trainer.model.denoiser.pseudo_labels.of(x0))
    assert (
        len(trainer.model.denoiser.pseudo_labels.of(to_float(trainer.data.train.get(torch.arange(500)))).unique()) == 8
    )


def test_a_file_brings_them_back(told, tmp_path):
    """Saved and loaded: the same centres and the same pictures."""
    trainer, _ = told
    path = tmp_path / "model.safetensors"
    save_model(path, trainer.model, trainer.weights(), {"step": 6})
    again = load_model(path).model
    assert torch.equal(again.denoiser.pseudo_labels.place, trainer.model.denoiser.pseudo_labels.place)
    mine = dataclasses.replace(trainer.model, denoiser=trainer.averaged)
    ids = torch.arange(6)
    assert torch.equal(pictures(again, ids).images, pictures(mine, ids).images)


def test_a_resumed_run_keeps_them(told, make):
    """Also in the averaged weights, which pictures are drawn with."""
    trainer, _ = told
    tensors, header = trainer.state()
    other = make(steps=6, data_pseudo_labels=8)
    other.resume({k: v.clone() for k, v in tensors.items()}, header)
    for name, t in trainer.weights().items():
        assert torch.equal(t, other.weights()[name]), name


def test_pictures_are_of_clusters_by_number(told):
    """Each picture's cluster is that of (seed, number), at any batch; the network hears it."""
    trainer, _ = told
    model = trainer.model
    drawn = pictures(model, torch.arange(12))
    assert torch.equal(drawn.labels, model.denoiser.pseudo_labels.deal(0, torch.arange(12)))
    assert torch.equal(drawn.images[5:7], pictures(model, torch.arange(5, 7)).images)
    heard = []
    net = model.denoiser.net
    hook = net.register_forward_hook(lambda module, args, out: heard.append(args[2]))
    pictures(model, torch.arange(12))
    hook.remove()
    assert all(torch.equal(cond, drawn.labels) for cond in heard)


def test_labels_come_before_clusters():
    """A recipe that asks for both is told the labels."""
    assert load("digits", {"data.pseudo_labels": 8}).pseudo_labels == 8
    assert load("digits", {"data.pseudo_labels": 8, "data.labels": True}).pseudo_labels == 0


def test_a_classifier_s_labels_are_no_clusters(told):
    """Guided by a classifier the model is asked for classes, of which its clusters know nothing."""
    model = told[0].model
    heeding = dataclasses.replace(
        model, dataset_info=dataclasses.replace(model.dataset_info, class_names=tuple("0123456789"))
    )
    config = model.recipe.sample.model_copy(update={"clip": False})
    assert isinstance(heeding.guided(config), Unconditional) and not isinstance(model.guided(config), Unconditional)
