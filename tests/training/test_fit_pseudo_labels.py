"""A model with pseudo-labels: fitted, trained, saved, resumed and sampled."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fromnoise.checkpoint import load_model, save_model
from fromnoise.config import load
from fromnoise.data import BatchStream, MemoryImages, to_float
from fromnoise.data.pseudo_labels import PseudoLabels
from fromnoise.diffusion import Unconditional
from fromnoise.pipeline import collect, sample_steps
from fromnoise.training import fit_pseudo_labels
from fromnoise.training.fit_pseudo_labels import IMAGES_PER_CLUSTER
from fromnoise.utils.device import select_device


def fitted(sizes, count):
    """Pseudo-labels of flat images in one well separated grey level per group, and the cluster of each image."""
    levels = torch.linspace(20, 230, len(sizes)).repeat_interleave(torch.tensor(sizes))
    noise = torch.randn(len(levels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = (levels[:, None, None, None] + noise).byte()
    pseudo_labels = PseudoLabels(count, (1, 8, 8))
    clusters = fit_pseudo_labels.fit(pseudo_labels, BatchStream(MemoryImages(pixels), seed=4), seed=4)
    return clusters, pseudo_labels, pseudo_labels.assign(to_float(pixels))


def test_separated_groups_become_clusters():
    """Three groups of known sizes: each is one cluster with its fraction of the images as weight."""
    sizes = [100, 300, 600]
    clusters, pseudo_labels, labels = fitted(sizes, 3)
    assert clusters == 3 and len(labels.unique()) == 3
    assert [len(part.unique()) for part in labels.split(sizes)] == [1, 1, 1]
    assert torch.allclose(pseudo_labels.weights.sort().values, torch.tensor([0.1, 0.3, 0.6]))


def test_few_images_make_few_clusters():
    """One for every hundred images and at least one; the other clusters have weight 0."""
    clusters, pseudo_labels, labels = fitted([IMAGES_PER_CLUSTER, IMAGES_PER_CLUSTER], 5)
    assert clusters == 2 and labels.max() == 1 and pseudo_labels.weights[2:].sum() == 0
    assert fitted([30], 5)[0] == 1


@pytest.fixture
def trained(make):
    """A loop with eight pseudo-labels after six steps, and its log lines."""
    lines = []
    loop = make(steps=6, data_pseudo_labels=8, log=lines.append)
    loop.fit_pseudo_labels()
    list(loop.run())
    return loop, lines


def sampled(model, ids, seed=0, **config):
    """Samples of a model, on the CPU."""
    compute = select_device("cpu", "fp32")
    compute.to_device(model.denoiser.eval())
    settings = model.recipe.sample.model_copy(update=config)
    return collect(sample_steps(model, settings, compute, ids=ids, seed=seed))


def test_training_conditions_on_the_pseudo_labels(trained):
    """The condition of each training image is its nearest centroid."""
    loop, lines = trained
    pseudo_labels = loop.model.denoiser.pseudo_labels
    assert any("8 clusters" in line for line in lines)
    pixels = loop.stream.batch(range(4)).pixels
    x0, cond = loop.model.training_inputs(pixels, None, torch.arange(len(pixels)), loop.compute)
    assert torch.equal(cond, pseudo_labels.assign(x0))
    assert len(pseudo_labels.assign(to_float(loop.data.train.get(torch.arange(500)))).unique()) == 8


def test_a_checkpoint_contains_the_pseudo_labels(trained, tmp_path):
    """Saved and loaded: the same centroids and the same samples."""
    loop, _ = trained
    path = tmp_path / "model.safetensors"
    save_model(path, loop.model, loop.ema_state_dict(), {"step": 6})
    loaded = load_model(path).model
    expected = loop.model.denoiser.pseudo_labels.centroids
    assert torch.equal(loaded.denoiser.pseudo_labels.centroids, expected)
    averaged = loop.ema_model()
    ids = torch.arange(6)
    assert torch.equal(sampled(loaded, ids).images, sampled(averaged, ids).images)


def test_a_resumed_run_keeps_the_pseudo_labels(trained, make):
    """Also in the averaged weights, which generate the samples."""
    loop, _ = trained
    tensors, header = loop.state()
    other = make(steps=6, data_pseudo_labels=8)
    other.resume({k: v.clone() for k, v in tensors.items()}, header)
    for name, t in loop.ema_state_dict().items():
        assert torch.equal(t, other.ema_state_dict()[name]), name


def test_the_cluster_of_a_sample_depends_on_seed_and_number_alone(trained):
    """At any batch size, and the network is conditioned on it."""
    loop, _ = trained
    model = loop.model
    samples = sampled(model, torch.arange(12))
    assert torch.equal(samples.labels, model.denoiser.pseudo_labels.sample(0, torch.arange(12)))
    assert torch.equal(samples.images[5:7], sampled(model, torch.arange(5, 7)).images)
    conditions = []
    net = model.denoiser.network
    hook = net.register_forward_hook(lambda module, args, out: conditions.append(args[2]))
    sampled(model, torch.arange(12))
    hook.remove()
    assert all(torch.equal(cond, samples.labels) for cond in conditions)


def test_labels_take_precedence_over_pseudo_labels():
    """A recipe with both conditions on the labels."""
    assert load("digits", {"data.pseudo_labels": 8}).pseudo_labels == 8
    assert load("digits", {"data.pseudo_labels": 8, "data.labels": True}).pseudo_labels == 0


def test_class_labels_of_a_classifier_are_not_pseudo_labels(trained):
    """With the class names of a guiding classifier, the network itself is used without condition."""
    model = trained[0].model
    with_classes = dataclasses.replace(
        model, dataset_info=dataclasses.replace(model.dataset_info, class_names=tuple("0123456789"))
    )
    config = model.recipe.sample.model_copy(update={"clip": False})
    assert isinstance(with_classes.guided(config), Unconditional)
    assert not isinstance(model.guided(config), Unconditional)
