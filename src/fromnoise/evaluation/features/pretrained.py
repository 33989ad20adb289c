"""Features of pretrained networks: Inception v3, which alone gives an FID, and DINOv2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from fromnoise.evaluation.features.extractor import FeatureBatch, FeatureExtractor
from fromnoise.utils.errors import UserError

if TYPE_CHECKING:
    from fromnoise.utils.device import ComputeConfig

_ALTERNATIVES = "use --features classifier or pixels, which need no pretrained network (and give no FID)"
_DINOV2 = "facebook/dinov2-large"


def _rgb(images: Tensor) -> Tensor:
    """Three channels: a single one is repeated, those after the third are dropped."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]


@final
class InceptionFeatures(FeatureExtractor):
    """The 2,048 pooled features of the Inception network of 2015, as ported by torch-fidelity; in float32.

    Images are resized to 299x299 as TensorFlow 1 did, so that the Frechet distance is the FID of Heusel et al. 2017
    and the kernel distance the KID of Binkowski et al. 2018.
    """

    name = "inception"
    description = "Inception v3 (2015-12-05) by torch-fidelity"
    dim = 2048

    def __init__(self, extractor: Any, compute: ComputeConfig) -> None:
        """Wrap torch-fidelity's extractor of ``2048`` and ``logits_unbiased``."""
        self._extractor, self._device = extractor.to(compute.device).eval(), compute.device

    def extract(self, images: Tensor) -> FeatureBatch:
        """See ``FeatureExtractor``; the probabilities are those of ImageNet's classes, for the Inception Score."""
        with torch.inference_mode():
            features, logits = self._extractor(_rgb(images).to(self._device))
        return FeatureBatch(features.double().cpu(), logits.double().softmax(1).cpu())


def inception_features(compute: ComputeConfig) -> InceptionFeatures:
    """Load the features of the FID.

    Args:
        compute: device of the network.

    Raises:
        UserError: torch-fidelity is not installed or the weights cannot be downloaded.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )
    except ImportError:
        raise UserError(
            f"--features inception needs torch-fidelity: pip install 'fromnoise[fid]', or {_ALTERNATIVES}"
        ) from None
    try:
        extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    except (OSError, RuntimeError) as e:
        raise UserError(
            f"the Inception weights cannot be downloaded ({_first_line(e)}): put "
            "weights-inception-2015-12-05-6726825d.pth of torch-fidelity's release v0.2.0 into "
            f"{torch.hub.get_dir()}/checkpoints, or {_ALTERNATIVES}"
        ) from None
    return InceptionFeatures(extractor, compute)


@final
class DINOv2Features(FeatureExtractor):
    """The class token of DINOv2 ViT-L/14, as Stein et al. 2023 propose; resized to 224x224 (bicubic), in float32."""

    name = "dinov2"
    description = f"{_DINOV2} by transformers"
    dim = 1024

    def __init__(self, model: Any, compute: ComputeConfig) -> None:
        """Wrap the model of transformers."""
        self._model, self._device = model.to(compute.device).eval(), compute.device

    def extract(self, images: Tensor) -> FeatureBatch:
        """See ``FeatureExtractor``."""
        x = _rgb(images).to(self._device, torch.float32) / 255
        x = F.interpolate(x, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.inference_mode():
            token = self._model(pixel_values=(x - mean) / std).last_hidden_state[:, 0]
        return FeatureBatch(token.double().cpu())


def dinov2_features(compute: ComputeConfig) -> DINOv2Features:
    """Load the features of DINOv2.

    Args:
        compute: device of the network.

    Raises:
        UserError: transformers is not installed or the weights cannot be downloaded.
    """
    try:
        from transformers import Dinov2Model  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"--features dinov2 needs transformers: pip install 'fromnoise[dino]', or {_ALTERNATIVES}"
        ) from None
    try:
        model = Dinov2Model.from_pretrained(_DINOV2, use_safetensors=True)
    except (OSError, RuntimeError) as e:
        raise UserError(f"the weights of {_DINOV2} cannot be downloaded ({_first_line(e)}): {_ALTERNATIVES}") from None
    return DINOv2Features(model, compute)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
