"""Mean images of pseudo-labels as input channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fromnoise.checkpoint import load_model, save_model
from fromnoise.networks.cluster_means import ClusterMeans


class Second(nn.Module):
    """Returns the last channel of its input, and remembers the condition."""

    cond: Tensor | None = None

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        self.cond = cond
        return x[:, -1:]


def with_means() -> ClusterMeans:
    """Two clusters of images of 4x4."""
    network = ClusterMeans(Second(), 2, (1, 4, 4))
    network.means.copy_(torch.arange(3.0)[:, None, None, None].expand(3, 1, 4, 4))
    return network


def test_the_network_sees_the_mean_of_its_cluster() -> None:
    network, x = with_means(), torch.randn(3, 1, 4, 4)
    cond = torch.tensor([1, -1, 0])
    assert network(x, torch.zeros(3), cond)[:, 0, 0, 0].tolist() == [2, 0, 1]
    assert torch.equal(network.network.cond, cond)
    assert network(x, torch.zeros(3)).eq(0).all()  # no pseudo-label: the mean of all


def test_means_follow_the_size_of_the_images() -> None:
    out = with_means()(torch.zeros(2, 1, 7, 5), torch.zeros(2), torch.tensor([0, 1]))
    assert out.shape == (2, 1, 7, 5) and torch.allclose(out[:, 0, 3, 3], torch.tensor([1.0, 2.0]))


def test_means_of_a_run_are_those_of_its_clusters(make, tmp_path) -> None:
    """Fitted before the first step, saved with the weights, in the network's input channels."""
    loop = make(steps=2, data_pseudo_labels=3, data_pseudo_label_means=True)
    loop.fit_pseudo_labels()
    model = loop.model
    images = model.training_inputs(
        loop.stream.batch(range(len(loop.stream.images))).pixels,
        None,
        torch.arange(len(loop.stream.images)),
        loop.compute,
    )
    for cluster in range(3):
        members = images[0][images[1] == cluster]
        expected = members.mean(0) if len(members) else images[0].mean(0)
        assert torch.allclose(model.network.means[cluster + 1], expected, atol=1e-5)
    assert torch.allclose(model.network.means[0], images[0].mean(0), atol=1e-5)
    list(loop.run())
    save_model(tmp_path / "model.safetensors", model, loop.ema_state_dict(), {"step": 2})
    loaded = load_model(tmp_path / "model.safetensors").model
    assert torch.equal(loaded.network.means, model.network.means)


def test_without_pseudo_labels_there_are_no_means(make) -> None:
    loop = make(steps=1, data_pseudo_label_means=True)
    assert not isinstance(loop.model.network, ClusterMeans)
