"""Features of networks that others trained: Inception's, which alone give an FID, and DINOv2's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from fromnoise.evaluation.features.extractors import FeatureBatch, Features
from fromnoise.utils.errors import UserError

if TYPE_CHECKING:
    from fromnoise.utils.device import ComputeConfig

_OTHERS = "or take --features classifier or pixels, which need no network of others (and give no FID)"
_DINOV2 = "facebook/dinov2-large"


def _rgb(images: Tensor) -> Tensor:
    """Three channels: grey is tripled, further channels are left out."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]


@final
class Inception(Features):
    """The 2,048 pooled features of the Inception network of 2015, as ported by torch-fidelity; in float32.

    Images are resized to 299x299 as TensorFlow 1 did, so that the Frechet distance is the FID of Heusel et al. 2017
    and the kernel distance the KID of Binkowski et al. 2018.
    """

    name = "inception"
    about = "Inception v3 (2015-12-05) by torch-fidelity"
    size = 2048

    def __init__(self, extractor: Any, compute: ComputeConfig) -> None:
        """Take the extractor of ``2048`` and ``logits_unbiased``."""
        self._extractor, self._device = extractor.to(compute.device).eval(), compute.device

    def see(self, images: Tensor) -> FeatureBatch:
        """See ``Features``; the probabilities are of ImageNet's classes, for the Inception Score."""
        with torch.inference_mode():
            features, logits = self._extractor(_rgb(images).to(self._device))
        return FeatureBatch(features.double().cpu(), logits.double().softmax(1).cpu())


def inception(compute: ComputeConfig) -> Inception:
    """The FID's features.

    Args:
        compute: where the network runs.

    Raises:
        UserError: torch-fidelity or the weights cannot be had; the line says what to do.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )
    except ImportError:
        raise UserError(f"--features inception needs torch-fidelity: pip install 'fromnoise[fid]', {_OTHERS}") from None
    try:
        extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    except (OSError, RuntimeError) as e:
        raise UserError(
            f"Inception's weights cannot be fetched ({_short(e)}): put weights-inception-2015-12-05-6726825d.pth of "
            f"torch-fidelity's release v0.2.0 into {torch.hub.get_dir()}/checkpoints, {_OTHERS}"
        ) from None
    return Inception(extractor, compute)


@final
class DinoV2(Features):
    """The class token of DINOv2 ViT-L/14, as Stein et al. 2023 propose; resized to 224x224 (bicubic), in float32."""

    name = "dinov2"
    about = f"{_DINOV2} by transformers"
    size = 1024

    def __init__(self, model: Any, compute: ComputeConfig) -> None:
        """Take the model."""
        self._model, self._device = model.to(compute.device).eval(), compute.device

    def see(self, images: Tensor) -> FeatureBatch:
        """See ``Features``."""
        x = _rgb(images).to(self._device, torch.float32) / 255
        x = F.interpolate(x, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        mean, spread = (x.new_tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.inference_mode():
            token = self._model(pixel_values=(x - mean) / spread).last_hidden_state[:, 0]
        return FeatureBatch(token.double().cpu())


def dinov2(compute: ComputeConfig) -> DinoV2:
    """DINOv2's features.

    Args:
        compute: where the network runs.

    Raises:
        UserError: transformers or the weights cannot be had; the line says what to do.
    """
    try:
        from transformers import Dinov2Model  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"--features dinov2 needs transformers: pip install 'fromnoise[dino]', {_OTHERS}") from None
    try:
        model = Dinov2Model.from_pretrained(_DINOV2, use_safetensors=True)
    except (OSError, RuntimeError) as e:
        raise UserError(f"the weights of {_DINOV2} cannot be fetched ({_short(e)}): {_OTHERS[3:]}") from None
    return DinoV2(model, compute)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
