"""Network ``adm`` as a UNet2DModel of diffusers: the same layers with the same names, where it has its options."""

from __future__ import annotations

from typing import Any

from fromnoise.config.component import ComponentConfig
from fromnoise.networks.adm_unet import ADMUNet
from fromnoise.networks.diffusers_layers import AttentionLayer
from fromnoise.utils.errors import UserError


def adm_config(network: ADMUNet, options: ComponentConfig) -> dict[str, Any]:
    """The options of the UNet2DModel with the weights of a network, but for the sizes and the classes.

    Args:
        network: the network.
        options: of the recipe, from which it was built.

    Raises:
        UserError: there is none; the message says why.
    """
    o: Any = options
    channels = [round(o.width * m) for m in o.multipliers]
    layers = [m for m in network.modules() if isinstance(m, AttentionLayer)]
    head_dims = sorted({layer.to_q.out_features // layer.heads for layer in layers})
    one_head = all(layer.heads == 1 for layer in layers)
    impossible = {
        f"network.stem_width = {o.stem_width}: its first convolution has the channels of the finest level": (
            o.stem_width not in (None, channels[0])
        ),
        f"network.time_dim = {network.time_dim}: its sinusoids are as many as the finest level's channels": (
            network.time_dim != channels[0]
        ),
        "network.attention_up = last: it has attention after all blocks": o.attention_up == "last",
        "network.resample_projection: its shortcuts have no convolution there": o.resample_projection,
        f"network.residual_scale = {o.residual_scale:g}: it divides in the middle alone": o.residual_scale != 1,
        f"network.group_channels = {o.group_channels}: all normalizations have as many groups": any(
            network.conv_norm_out.num_groups != o.groups or c // o.group_channels < o.groups for c in channels
        ),
        "network.class_position = input: it adds classes to the output": o.class_position == "input"
        and network.class_embedding is not None,
        f"attention heads of {' and '.join(map(str, head_dims))} channels: all its heads have the same number": (
            len(head_dims) > 1 and not one_head
        ),
        "attributes: it has classes alone": network.attributes is not None,
    }
    reason = next((text for text, true in impossible.items() if true), None)
    if reason is not None:
        raise UserError(f"diffusers' UNet2DModel cannot express {reason}")
    plain = "ResnetDownsampleBlock2D" if o.resample_blocks else "DownBlock2D"
    down = ["AttnDownBlock2D" if level.has_attention else plain for level in network.down_blocks]
    return {
        "block_out_channels": channels,
        "down_block_types": down,
        "up_block_types": [kind.replace("Down", "Up").replace("downsample", "upsample") for kind in reversed(down)],
        "downsample_type": "resnet" if o.resample_blocks else "conv",
        "upsample_type": "resnet" if o.resample_blocks else "conv",
        "layers_per_block": o.blocks,
        "add_attention": o.middle_attention,
        "attention_head_dim": None if one_head else head_dims[0],
        "norm_num_groups": o.groups,
        "attn_norm_num_groups": o.groups,
        "norm_eps": o.norm_eps,
        "dropout": o.dropout,
        "resnet_time_scale_shift": "scale_shift" if o.conditioning == "scale-shift" else "default",
        "time_embedding_dim": network.time_embedding["linear_1"].out_features,
        "flip_sin_to_cos": o.flip_sin_to_cos,
        "freq_shift": o.freq_shift,
        "downsample_padding": 1,
    }
