"""Import of openai's improved-diffusion and guided-diffusion: the state dict of their ``UNetModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.adm_weights import ADMWeights
from fromnoise.interop.importing import Imported, Importer
from fromnoise.interop.source import Source
from fromnoise.interop.state_dict import Tensors, below, mapping_of
from fromnoise.registry import register
from fromnoise.utils.errors import UserError

_FIRST = "time_embed.0.weight"
_KNOWN = {"input_blocks.0.0.weight", "middle_block.0.in_layers.2.weight", "output_blocks.0.0.in_layers.2.weight"}
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "qkv": "qkv", "out": "proj_out"}
_MOST_CHANNELS = 4  # of images; an upsampler has six


@register("importer", "openai")
@dataclass(frozen=True)
class OpenAI(Importer):
    """A .pt of openai's improved-diffusion or guided-diffusion: the state dict of a UNetModel.

    Levels, channels, attention, scale-shift normalization, residual up- and downsampling, classes and learned variances
    are inferred from the weights; the flags say the rest, with the defaults of the scripts.

    Attributes:
        size: image_size, side of the images in pixels; the file does not have it
        num_heads: attention heads
        num_head_channels: channels per attention head, instead of num_heads
        num_heads_upsample: attention heads on the way up; left out: num_heads
        new_attention_order: use_new_attention_order
        timesteps: diffusion_steps
        schedule: noise_schedule, linear or cosine
        objective: pred_noise, or pred_x0 for predict_xstart
        rescale_timesteps: whether the network is given times below 1000 (default of improved-diffusion) or steps
            (guided-diffusion); needed if there are not 1000 timesteps
    """

    size: int | None = None
    num_heads: int = 4
    num_head_channels: int | None = None
    num_heads_upsample: int | None = None
    new_attention_order: bool = False
    timesteps: int = 1000
    schedule: Literal["linear", "cosine"] = "linear"
    objective: Literal["pred_noise", "pred_x0"] = "pred_noise"
    rescale_timesteps: bool | None = None

    title: ClassVar[str] = "a .pt of improved-diffusion or guided-diffusion"

    @classmethod
    def recognizes(cls, source: Source) -> bool:
        """A state dict with the names of its network."""
        tensors = below(mapping_of(source) or {}, _FIRST)
        return tensors is not None and tensors.keys() >= _KNOWN

    def read(self, source: Source) -> Imported:
        """Read a network; the process is that of the options."""
        found = mapping_of(source) or {}
        unet = below(found, _FIRST)
        if unet is None or not self.recognizes(source):
            raise UserError(f"{source.path} has no weights of a UNetModel of improved-diffusion or guided-diffusion")
        if any(name.startswith("first_stage_model.") for name in found):
            raise UserError(f"{source.path} is a latent diffusion model with an autoencoder: it cannot be imported")
        if self.size is None:
            raise UserError(f"{source.path} does not say the size of its images: give its side, as in --size 64")
        if self.timesteps != 1000 and self.rescale_timesteps is None:
            raise UserError(
                f"--timesteps {self.timesteps}: say --rescale-timesteps true (the default of improved-diffusion) or "
                "false (that of guided-diffusion)"
            )
        tensors = Tensors(source.path, unet)
        channels, learned = self._channels(source, tensors)
        network, weights = self._network(source, tensors)
        classes = None
        if "label_emb.weight" in tensors:
            classes = tuple(str(c) for c in range(tensors.shape("label_emb.weight", 2)[0]))
            weights.classes(tensors.take("label_emb.weight"))
        tensors.finish()
        halves = any(not t.dtype.is_floating_point or t.dtype.itemsize < 4 for t in unet.values())
        attended = [level for level, present in enumerate(network["attention"]) if present]
        return Imported(
            self._recipe(network, learned, classes is not None),
            DatasetInfo((channels, self.size, self.size), classes),
            weights.found,
            [
                f"width {network['width']}, multipliers {[float(m) for m in network['multipliers']]}, "
                f"{network['blocks']} blocks, attention on levels {attended}"
                f"{', residual resampling' if network['resample_blocks'] else ''}"
                f"{', learned variance' if learned else ''}{f', {len(classes)} classes' if classes else ''}",
                f"assumed: {self._heads()}, {'new' if self.new_attention_order else 'legacy'} attention order, "
                f"{self.timesteps} timesteps of schedule {self.schedule}, objective {self.objective}",
                *(["weights converted to float32"] if halves else []),
            ],
        )

    def _heads(self) -> str:
        if self.num_head_channels is not None:
            return f"attention heads of {self.num_head_channels} channels"
        up = f" ({self.num_heads_upsample} on the way up)" if self.num_heads_upsample is not None else ""
        return f"{self.num_heads} attention heads{up}"

    def _channels(self, source: Source, tensors: Tensors) -> tuple[int, bool]:
        """Channels of the images, and whether the variance is learned."""
        inputs = tensors.shape("input_blocks.0.0.weight", 4)[1]
        outputs = tensors.shape("out.2.weight", 4)[0]
        if inputs > _MOST_CHANNELS or outputs not in (inputs, 2 * inputs):
            what = f"{inputs} input and {outputs} output channels"
            raise UserError(f"{source.path} has {what}: upsamplers (SuperResModel) cannot be imported")
        return inputs, outputs == 2 * inputs

    def _network(self, source: Source, tensors: Tensors) -> tuple[dict[str, Any], ADMWeights]:
        """The options and the weights of network ``adm``."""
        weights = ADMWeights(tensors, _RESIDUAL, _ATTENTION)
        levels, blocks = self._levels(source, tensors)
        hidden, width = tensors.shape(_FIRST, 2)
        first = [1 + level * (blocks + 1) for level in range(levels)]
        channels = [tensors.shape(f"input_blocks.{i}.0.out_layers.3.weight", 4)[0] for i in first]
        attention = tuple(weights.has_attention(f"input_blocks.{i}.1") for i in first)
        stem = tensors.shape("input_blocks.0.0.weight", 4)[0]
        scale_shift = tensors.shape("middle_block.0.emb_layers.1.weight", 2)[0] == 2 * channels[-1]
        resample_blocks = f"input_blocks.{blocks + 1}.0.in_layers.2.weight" in tensors

        def add_attention(name: str, place: str, count: int, up: bool = False) -> None:
            heads = self._heads_for(source, count, up) if weights.has_attention(place) else 1
            order = "qkv head channel" if self.new_attention_order else "head qkv channel"
            weights.attention(name, place, heads, order)

        def resample(name: str, place: str, convolution: str) -> None:
            if f"{place}.in_layers.2.weight" in tensors:
                weights.residual(name, place)
            else:
                weights.layer(f"{name}.conv", f"{place}.{convolution}")

        weights.layer("conv_in", "input_blocks.0.0")
        weights.layer("time_embedding.linear_1", "time_embed.0")
        weights.layer("time_embedding.linear_2", "time_embed.2")
        for level, start in enumerate(first):
            for i in range(blocks):
                weights.residual(f"down_blocks.{level}.resnets.{i}", f"input_blocks.{start + i}.0")
                add_attention(f"down_blocks.{level}.attentions.{i}", f"input_blocks.{start + i}.1", channels[level])
            if level < levels - 1:
                resample(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{start + blocks}.0", "op")
            name, wide = f"up_blocks.{level}", channels[-1 - level]
            for i in range(blocks + 1):
                place = f"output_blocks.{level * (blocks + 1) + i}"
                after = 1 + weights.has_attention(f"{place}.1")
                weights.residual(f"{name}.resnets.{i}", f"{place}.0")
                add_attention(f"{name}.attentions.{i}", f"{place}.1", wide, up=True)
                if i == blocks and level < levels - 1:
                    resample(f"{name}.upsamplers.0", f"{place}.{after}", "conv")
        weights.residual("mid_block.resnets.0", "middle_block.0")
        add_attention("mid_block.attentions.0", "middle_block.1", channels[-1])
        weights.residual("mid_block.resnets.1", "middle_block.2")
        weights.layer("conv_norm_out", "out.0")
        weights.layer("conv_out", "out.2")
        return {
            "kind": "adm",
            "width": width,
            "hidden_dim": hidden,
            "multipliers": tuple(c / width for c in channels),
            "stem_width": None if stem == channels[0] else stem,
            "blocks": blocks,
            "attention": attention,
            "heads": self.num_heads,
            "heads_up": self.num_heads_upsample,
            "head_dim": self.num_head_channels,
            "conditioning": "scale-shift" if scale_shift else "add",
            "resample_blocks": resample_blocks and levels > 1,
        }, weights

    def _levels(self, source: Source, tensors: Tensors) -> tuple[int, int]:
        """Numbers of levels, and of residual blocks of a level on the way down."""
        inputs, outputs = (
            sum(f"{name}.{i}.0.{part}.weight" in tensors for i in range(1000) for part in parts)
            for name, parts in (("input_blocks", ("in_layers.2", "op")), ("output_blocks", ("in_layers.2",)))
        )
        ends = [
            i + 1
            for i in range(outputs)
            if any(f"output_blocks.{i}.{k}.{p}.weight" in tensors for k in (1, 2) for p in ("conv", "in_layers.2"))
        ]
        each = ends[0] if ends else outputs
        levels = len(ends) + 1
        if each < 2 or outputs != levels * each or inputs != levels * each - 1 or ends != [*range(each, outputs, each)]:
            raise UserError(
                f"{source.path} has {inputs} input and {outputs} output blocks, which no UNetModel with learned "
                "resampling has (conv_resample)"
            )
        return levels, each - 1

    def _heads_for(self, source: Source, channels: int, up: bool) -> int:
        """The number of heads of an attention layer."""
        if self.num_head_channels is not None:
            if self.num_head_channels < 1 or channels % self.num_head_channels:
                raise UserError(f"--num-head-channels {self.num_head_channels} does not divide {channels} channels")
            return channels // self.num_head_channels
        heads = self.num_heads_upsample if up and self.num_heads_upsample is not None else self.num_heads
        if heads < 1 or channels % heads:
            raise UserError(f"{heads} attention heads do not divide {channels} channels: give --num-heads")
        return heads

    def _recipe(self, network: dict[str, Any], learned: bool, labels: bool) -> dict[str, Any]:
        recipe: dict[str, Any] = {
            "network": network,
            "diffusion": {
                "schedule": {"kind": self.schedule, "steps": self.timesteps},
                "target": {"pred_noise": "eps", "pred_x0": "x0"}[self.objective],
                "noise_conditioning": {"kind": "timestep", "rescale_to": 1000 if self.rescale_timesteps else None},
                "learned_variance": learned,
            },
            "data": {"source": "", "labels": labels},
            "sample": {"sampler": "dpmpp-2m", "steps": min(20, self.timesteps)},
            "published": {
                "sampler": {"kind": "ancestral", "variance": None if learned else 1.0},
                "grid": "uniform",
                "clip": True,
            },
        }
        if learned:
            recipe["loss"] = {"objective": "hybrid"}
        return recipe
