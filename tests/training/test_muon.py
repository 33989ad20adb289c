"""Muon: what orthogonalising does, and that it trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fromnoise import config as recipes
from fromnoise.training.muon import Muon, orthogonal, orthogonal_bf16
from fromnoise.training.optim import OptimizerStep


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8), (2, 16, 16)])
def test_orthogonal_has_the_vectors_of_the_svd(shape):
    """The factors U and V stay; all singular values come near 1 (Jordan: 0.7 .. 1.2)."""
    g = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=g, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ torch.stack(orthogonal(list(matrices))) @ v.mT
    values = torch.diagonal(inner, dim1=-2, dim2=-1)
    assert 0.6 < float(values.min()) and float(values.max()) < 1.25
    assert torch.allclose(inner, torch.diag_embed(values), atol=1e-9)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_small_products_alone_give_what_the_rounds_on_the_matrix_give(precision, monkeypatch):
    """As Jordan has it: X <- a X + (b A + c A^2) X, A = X X'; also where singular values are nearly none."""
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    g = torch.Generator().manual_seed(0)
    for shape in ((8, 30), (30, 8), (16, 16)):
        u, _, v = torch.linalg.svd(torch.randn(shape, generator=g), full_matrices=False)
        given = u * torch.logspace(0, -6, min(shape)) @ v
        x = given.double() / given.double().norm()
        for _ in range(5):
            gram = x @ x.mT
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        (found,) = orthogonal([given])
        assert torch.allclose(found.double(), x, atol=1e-3 * float(x.abs().max()))


def test_in_bfloat16_it_is_the_same_but_for_rounding():
    """To 3 %, shapes of both ways round in one call; no singular value explodes, not even where nearly all are 0."""
    g = torch.Generator().manual_seed(0)
    shapes = [(8, 30), (30, 8), (16, 16), (8, 30), (64, 576)]
    given = [torch.randn(shape, generator=g) for shape in shapes]
    for mine, exact in zip(orthogonal_bf16(given), orthogonal(given), strict=True):
        assert mine.shape == exact.shape
        assert float((mine - exact).norm() / exact.norm()) < 0.03
    thin = torch.outer(torch.randn(64, generator=g), torch.randn(300, generator=g))
    (found,) = orthogonal_bf16([thin + 1e-5 * torch.randn(64, 300, generator=g)])
    assert float(torch.linalg.matrix_norm(found.float(), 2)) < 1.3


@pytest.mark.parametrize("bf16", [False, True])
def test_the_size_of_an_update_is_as_adams(bf16):
    """0.2 a number on average, whatever the shape and the gradient's own size: learning rates of Adam fit."""
    g = torch.Generator().manual_seed(0)
    for shape in ((64, 64, 3, 3), (128, 32), (32, 128)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = 1e-3 * torch.randn(shape, generator=g)
        Muon([weight], lr=1.0, bf16=bf16).step()
        assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)


def test_the_layout_in_memory_does_not_matter():
    g = torch.Generator().manual_seed(0)
    value, gradient = torch.randn(2, 8, 4, 3, 3, generator=g)
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(value.clone(memory_format=layout))
        weight.grad = gradient.clone(memory_format=layout)
        Muon([weight]).step()
        moved.append(weight.detach().contiguous())
    assert torch.allclose(*moved, atol=1e-6)


def test_it_reaches_a_minimum_that_it_can_see():
    """Least squares, ill-conditioned: a hundred times closer after 200 steps with a falling rate."""
    g = torch.Generator().manual_seed(0)
    x, truth = torch.randn(256, 16, generator=g) * torch.logspace(0, -1.5, 16), torch.randn(16, 8, generator=g)
    net = nn.Linear(16, 8, bias=False)
    config = recipes.TrainConfig(steps=200, optimizer="muon")
    optimizer_step, losses = OptimizerStep(config, net), []
    for step in range(200):
        loss = (net(x) - x @ truth).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer_step.step(0.3 * (1 - step / 200))
        optimizer_step.forget()
    assert losses[-1] < losses[0] / 100


def test_matrices_go_to_muon_and_the_rest_to_adam():
    """Embeddings are tables of vectors, not maps."""
    net = nn.ModuleDict({"conv": nn.Conv2d(4, 8, 3), "table": nn.Embedding(3, 8), "norm": nn.GroupNorm(2, 8)})
    optimizer_step = OptimizerStep(recipes.TrainConfig(steps=1, optimizer="muon"), net)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer_step.step(1e-3)
    keys = {place.rpartition(".")[0]: set() for place in optimizer_step.state()}
    for place in optimizer_step.state():
        keys[place.rpartition(".")[0]].add(place.rpartition(".")[2])
    assert keys.pop("conv.weight") == {"momentum"}
    assert all(kind == {"step", "exp_avg", "exp_avg_sq"} for kind in keys.values())
    assert set(keys) == {"conv.bias", "table.weight", "norm.weight", "norm.bias"}
