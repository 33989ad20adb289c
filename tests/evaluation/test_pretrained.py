"""Pretrained features: parity with torch-fidelity if it is installed, otherwise a one-line error."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from fromnoise.evaluation.features import pretrained
from fromnoise.evaluation.metrics.frechet import frechet_distance
from fromnoise.evaluation.metrics.inception_score import inception_score
from fromnoise.evaluation.metrics.kid import kernel_distance
from fromnoise.evaluation.statistics import Moments, PredictionSums
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

CPU = select_device("cpu", "fp32")


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (pretrained.inception_features, "torch_fidelity", "[fid]"),
        (pretrained.dinov2_features, "transformers", "[dino]"),
    ],
)
def test_missing_packages(monkeypatch, make, module, extra):
    """One line names what to install and an alternative."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as error:
        make(CPU)
    assert extra in str(error.value) and "--features classifier" in str(error.value) and "\n" not in str(error.value)


def test_weights_that_cannot_be_downloaded(monkeypatch):
    """The error names the file, where to put it, and an alternative."""

    def refuse(*args: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    fake = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    fake.FeatureExtractorInceptionV3 = refuse
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    with pytest.raises(UserError, match="weights-inception-2015-12-05-6726825d.pth.*--features classifier"):
        pretrained.inception_features(CPU)


def test_images_are_converted_to_rgb():
    """Grey is repeated three times, alpha is dropped."""
    inputs = []

    class Extractor(torch.nn.Module):
        def forward(self, x):
            inputs.append(x)
            return torch.zeros(len(x), 2048), torch.zeros(len(x), 1008)

    extractor = pretrained.InceptionFeatures(Extractor(), CPU)
    grey, colour = (torch.randint(0, 256, (2, c, 4, 4), dtype=torch.uint8) for c in (1, 4))
    for images in (grey, colour):
        assert extractor.features(images).shape == (2, 2048)
    assert torch.equal(inputs[0], grey.repeat(1, 3, 1, 1)) and torch.equal(inputs[1], colour[:, :3])


@pytest.mark.slow
@pytest.mark.gpu
def test_fid_kid_and_inception_score_equal_torch_fidelity(real_data, monkeypatch):
    """Training against test images of CIFAR-10, if the library and its weights are installed."""
    fidelity = pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("FROMNOISE_DATA", str(real_data))
    from fromnoise.data import load

    compute = select_device()
    try:
        extractor = pretrained.inception_features(compute)
    except UserError as e:
        pytest.skip(str(e))
    data = load("cifar10")
    one, two = data.train.get(torch.arange(4000)), data.held_out.get(torch.arange(4000))

    class ImageList(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            return self.images[i]

    expected = fidelity.calculate_metrics(
        input1=ImageList(one),
        input2=ImageList(two),
        cuda=compute.device.type == "cuda",
        fid=True,
        kid=True,
        isc=True,
        kid_subset_size=4000,
        kid_subsets=1,
        samples_shuffle=False,
        verbose=False,
    )
    x, y = extractor.extract_all(one), extractor.extract_all(two)
    assert frechet_distance(Moments.of(x.features), Moments.of(y.features)) == pytest.approx(
        expected["frechet_inception_distance"], rel=1e-3
    )
    assert kernel_distance(x.features, y.features).value == pytest.approx(
        expected["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6
    )
    score = inception_score([PredictionSums.of(p) for p in x.probabilities.tensor_split(10)])
    assert score.value == pytest.approx(expected["inception_score_mean"], rel=1e-3)
