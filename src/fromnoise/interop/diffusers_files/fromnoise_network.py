"""A UNet2DModel with what fromnoise's U-Net has besides; an export carries this file where it is needed."""

from typing import Any

from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor
from torch.nn import functional as F


class NormalizedResidual:
    """Self-attention that adds its output to its normalized input, as in the Keras DDPM example (A. K. Nain 2022)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        q, k, v = (to(x).unflatten(2, (attn.heads, -1)).transpose(1, 2) for to in (attn.to_q, attn.to_k, attn.to_v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (x + attn.to_out[0](out)).transpose(1, 2).unflatten(2, hidden_states.shape[2:])


class FromnoiseNetwork(ModelMixin, ConfigMixin):
    """A UNet2DModel of images of any size, with options of its attention, sinusoids and input."""

    @register_to_config
    def __init__(
        self,
        options: dict,
        sample_size: int | list | None = None,
        in_channels: int = 3,
        patch: int = 1,
        multiple: int = 1,
        time_channels: int | None = None,
        heads: dict | None = None,
        normalized_residual: bool = False,
    ) -> None:
        """Build the UNet2DModel and change it.

        Args:
            options: of the UNet2DModel.
            sample_size: side of the images, or height and width.
            in_channels: channels of the images.
            patch: pixel-unshuffle factor at the input, undone at the output.
            multiple: images are padded with zeros to sides that are multiples of it, and cropped back.
            time_channels: number of sinusoids of the time embedding; None is that of the UNet2DModel.
            heads: number of heads of an attention by its channels as text; None is that of the UNet2DModel.
            normalized_residual: attention adds its output to its normalized input.
        """
        super().__init__()
        self.unet = UNet2DModel(**options)
        if time_channels is not None:
            own = dict(self.unet.config)
            hidden = own.get("time_embedding_dim") or 4 * own["block_out_channels"][0]
            self.unet.time_proj = Timesteps(time_channels, own["flip_sin_to_cos"], own["freq_shift"])
            self.unet.time_embedding = TimestepEmbedding(time_channels, hidden)
        for attention in (module for module in self.unet.modules() if isinstance(module, Attention)):
            attention.heads = attention.heads if heads is None else heads[str(attention.to_q.in_features)]
            if normalized_residual:
                attention.set_processor(NormalizedResidual())  # pyright: ignore[reportArgumentType]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict from noisy images (B, C, H, W); the arguments are those of ``UNet2DModel.forward``."""
        multiple, patch = self.config["multiple"], self.config["patch"]
        height, width = sample.shape[2:]
        rows, columns = -height % multiple, -width % multiple
        top, left = rows // 2, columns // 2
        x = F.pad(sample, (left, columns - left, top, rows - top))
        x = F.pixel_unshuffle(x, patch)
        x = F.pixel_shuffle(self.unet(x, timestep, class_labels).sample, patch)
        x = x[:, :, top : top + height, left : left + width]
        return UNet2DOutput(sample=x) if return_dict else (x,)
