"""Networks of others: parity where they can be had, one line where they cannot."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from fromnoise.evaluation.features import pretrained
from fromnoise.evaluation.metrics import frechet, prdc
from fromnoise.evaluation.metrics.frechet import ClassVotes, Moments
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

CPU = select_device("cpu", "fp32")


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [(pretrained.inception, "torch_fidelity", "[fid]"), (pretrained.dinov2, "transformers", "[dino]")],
)
def test_what_is_not_installed(monkeypatch, make, module, extra):
    """What to install, and what to take else, in one line."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as told:
        make(CPU)
    assert extra in str(told.value) and "--features classifier" in str(told.value) and "\n" not in str(told.value)


def test_weights_that_cannot_be_fetched(monkeypatch):
    """Without the network: where to put the file, and what to take else."""

    def refuse(*args: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    fake = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    fake.FeatureExtractorInceptionV3 = refuse
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    with pytest.raises(UserError, match="weights-inception-2015-12-05-6726825d.pth.*--features classifier"):
        pretrained.inception(CPU)


def test_grey_images_are_tripled():
    """The network sees three equal channels, of which transparency is none."""
    seen = []

    class Extractor(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 2048), torch.zeros(len(x), 1008)

    space = pretrained.Inception(Extractor(), CPU)
    grey, colour = (torch.randint(0, 256, (2, c, 4, 4), dtype=torch.uint8) for c in (1, 4))
    for images in (grey, colour):
        assert space.of(images).shape == (2, 2048)
    assert torch.equal(seen[0], grey.repeat(1, 3, 1, 1)) and torch.equal(seen[1], colour[:, :3])


@pytest.mark.slow
@pytest.mark.gpu
def test_fid_kid_and_is_are_torch_fidelity_s(real_data, monkeypatch):
    """Of CIFAR-10's two halves, where library and weights are there."""
    fidelity = pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("FROMNOISE_DATA", str(real_data))
    from fromnoise.data import load

    compute = select_device()
    try:
        space = pretrained.inception(compute)
    except UserError as e:
        pytest.skip(str(e))
    data = load("cifar10")
    one, two = data.train.get(torch.arange(4000)), data.held_out.get(torch.arange(4000))

    class Listed(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            return self.images[i]

    theirs = fidelity.calculate_metrics(
        input1=Listed(one),
        input2=Listed(two),
        cuda=compute.device.type == "cuda",
        fid=True,
        kid=True,
        isc=True,
        kid_subset_size=4000,
        kid_subsets=1,
        samples_shuffle=False,
        verbose=False,
    )
    x, y = space.all(one), space.all(two)
    assert frechet.frechet(Moments.of(x.features), Moments.of(y.features)) == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-3
    )
    assert prdc.kernel(x.features, y.features).value == pytest.approx(
        theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6
    )
    score = frechet.score([ClassVotes.of(p) for p in x.probabilities.tensor_split(10)])
    assert score.value == pytest.approx(theirs["inception_score_mean"], rel=1e-3)
