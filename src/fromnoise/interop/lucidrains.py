"""Import of denoising-diffusion-pytorch: its Trainer's ``model-N.pt``, a GaussianDiffusion, or a bare Unet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fromnoise import registry
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.importing import Imported, Importer
from fromnoise.interop.source import Source
from fromnoise.interop.state_dict import Tensors, below, mapping_of
from fromnoise.registry import register
from fromnoise.utils.errors import UserError

_FIRST = "init_conv.weight"
_OBJECTIVES = {"pred_noise": "eps", "pred_x0": "x0", "pred_v": "v"}
_SCHEDULES = ("linear", "cosine", "sigmoid")


@register("importer", "lucidrains")
@dataclass(frozen=True)
class Lucidrains(Importer):
    """A .pt of denoising-diffusion-pytorch: model-N.pt of its Trainer, a GaussianDiffusion, or a Unet.

    The options of the network are inferred from the shapes of the weights; timesteps, schedule and objective from the
    buffers of GaussianDiffusion, where the file has them.

    Attributes:
        size: side of the images in pixels; the file does not have it
        weights: ema or raw weights of a Trainer's file
        timesteps: number of timesteps; needed for a bare Unet
        schedule: beta_schedule, linear, cosine or sigmoid; needed for a bare Unet
        objective: pred_noise, pred_x0 or pred_v; needed for a bare Unet
        theta: sinusoidal_pos_emb_theta, if it is not 10000
    """

    size: int | None = None
    weights: Literal["ema", "raw"] = "ema"
    timesteps: int | None = None
    schedule: Literal["linear", "cosine", "sigmoid"] | None = None
    objective: Literal["pred_noise", "pred_x0", "pred_v"] | None = None
    theta: float = 10_000.0

    title: ClassVar[str] = "a .pt of denoising-diffusion-pytorch"

    @classmethod
    def recognizes(cls, source: Source) -> bool:
        """A state dict with the names of its Unet, alone or in a Trainer's file."""
        found = mapping_of(source)
        if found is None:
            return False
        inner = found.get("model")
        tensors = below(inner if isinstance(inner, Mapping) else found, _FIRST)
        return tensors is not None and {"downs.0.0.block1.proj.weight", "final_conv.weight"} <= tensors.keys()

    def read(self, source: Source) -> Imported:
        """Read a network and, where the file has them, its schedule and objective."""
        found = mapping_of(source)
        if found is None or not self.recognizes(source):
            raise UserError(f"{source.path} has no weights of a Unet of denoising-diffusion-pytorch")
        state, notes = self._state(source, found)
        unet = below(state, _FIRST)
        buffers = below(state, "betas") or {}
        if unet is None:
            raise UserError(f"{source.path} has no weights of a Unet of denoising-diffusion-pytorch")
        tensors = Tensors(source.path, unet)
        network, channels, self_conditioning = _network(tensors)
        weights = _renamed(tensors, self_conditioning)
        tensors.finish()
        if self.size is None:
            raise UserError(f"{source.path} does not say the size of its images: give its side, as in --size 128")
        schedule = self._schedule(source, buffers)
        objective, weighting = self._objective(source, buffers)
        recipe: dict[str, Any] = {
            "network": network | {"theta": self.theta},
            "diffusion": {"schedule": schedule, "target": _OBJECTIVES[objective]},
            "loss": {
                "weighting": weighting,
                "self_conditioning": self_conditioning,
                "self_conditioning_clip": False,
            },
            "sample": {"sampler": "dpmpp-2m", "steps": 20},
            "published": {"sampler": {"kind": "ancestral", "variance": 0.0}, "grid": "uniform", "clip": True},
        }
        name = schedule["kind"]
        notes.append(
            f"width {network['width']}, multipliers {list(network['multipliers'])}, {channels} channels, "
            f"schedule {name}, objective {objective}" + (", self-conditioning" if self_conditioning else "")
        )
        return Imported(recipe, DatasetInfo((channels, self.size, self.size)), weights, notes)

    def _state(self, source: Source, found: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
        """The state dict of the chosen weights, and which they are."""
        raw, ema = found.get("model"), found.get("ema")
        if not isinstance(raw, Mapping):
            return found, []
        if self.weights == "raw" or not isinstance(ema, Mapping):
            kind = "raw" if isinstance(ema, Mapping) else "the only"
            return raw, [f"{kind} weights of step {found.get('step', 'unknown')}"]
        averaged = {k.removeprefix("ema_model."): v for k, v in ema.items() if k.startswith("ema_model.")}
        if below(averaged, _FIRST) is None:
            raise UserError(f"{source.path} has no averaged weights: use --weights raw")
        return averaged, [f"averaged weights (EMA) of step {found.get('step', 'unknown')}"]

    def _schedule(self, source: Source, buffers: Mapping[str, Tensor]) -> dict[str, Any]:
        betas = buffers.get("betas")
        if betas is None:
            for name, value in (("timesteps", self.timesteps), ("schedule", self.schedule)):
                if value is None:
                    raise UserError(
                        f"{source.path} holds a Unet without its GaussianDiffusion: give --timesteps, --schedule and "
                        f"--objective ({name} is missing)"
                    )
            return {"kind": self.schedule, "steps": self.timesteps}
        if betas.ndim != 1 or not len(betas):
            raise UserError(f"{source.path}: betas has the shape {tuple(betas.shape)}")
        if self.timesteps not in (None, len(betas)):
            raise UserError(f"--timesteps {self.timesteps}: {source.path} has {len(betas)} betas; leave it out")
        for kind in _SCHEDULES:
            ours = registry.build("schedule", kind, {"steps": len(betas)}).betas
            if torch.allclose(ours, betas.double(), rtol=1e-5, atol=1e-8):
                if self.schedule not in (None, kind):
                    raise UserError(f"--schedule {self.schedule}: {source.path} has the betas of {kind}; leave it out")
                return {"kind": kind, "steps": len(betas)}
        return {"kind": "betas", "betas": betas.double().tolist()}

    def _objective(self, source: Source, buffers: Mapping[str, Tensor]) -> tuple[str, Any]:
        """The objective and the loss weighting, from the buffer ``loss_weight`` of each timestep.

        With c = SNR, or min(SNR, gamma), it is c/SNR for the noise, c for x_0 and c/(SNR + 1) for v.
        """
        a, weight = buffers.get("alphas_cumprod"), buffers.get("loss_weight")
        if a is None or weight is None or a.shape != weight.shape:
            if self.objective is None:
                raise UserError(f"{source.path} does not say what its network predicts: give --objective pred_v")
            return self.objective, "snr"
        snr = a.double() / (1 - a.double())
        for name, factor in (("pred_v", snr + 1), ("pred_noise", snr), ("pred_x0", torch.ones_like(snr))):
            c = weight.double() * factor
            gamma = float(c.max())
            if not torch.allclose(c, snr.clamp(max=gamma), rtol=1e-3):
                continue
            if self.objective not in (None, name):
                raise UserError(f"--objective {self.objective}: {source.path} was trained with {name}; leave it out")
            clipped = gamma < 0.999 * float(snr.max())
            return name, {"kind": "min-snr", "gamma": round(gamma, 3)} if clipped else "snr"
        raise UserError(f"{source.path} has loss weights of no objective that is known: they cannot be imported")


def _network(tensors: Tensors) -> tuple[dict[str, Any], int, bool]:
    """The options of network ``lucidrains`` from the shapes, the image channels, and whether it is self-conditioned."""
    width, inputs, *_ = tensors.shape(_FIRST, 4)
    embedding, frequencies = tensors.shape("time_mlp.1.weight", 2)
    if "time_mlp.0.weights" in tensors:
        raise UserError("a Unet with learned or random sinusoids (learned_sinusoidal_cond) cannot be imported")
    if embedding != 4 * width or frequencies != width:
        raise UserError(f"a Unet with init_dim {width} other than dim {embedding // 4} cannot be imported")
    channels = tensors.shape("final_conv.weight", 4)[0]
    if inputs not in (channels, 2 * channels):
        what = f"a Unet with {inputs} input and {channels} output channels (learned_variance, out_dim)"
        raise UserError(f"{what} cannot be imported")
    multipliers, full = [], []
    _, heads, memory, head_dim = tensors.shape("mid_attn.mem_kv", 4)
    level = 0
    while f"downs.{level}.0.block1.proj.weight" in tensors:
        inner = tensors.shape(f"ups.{level}.0.block1.proj.weight", 4)[0]
        multipliers.insert(0, inner / width)
        full.append(f"downs.{level}.2.to_out.weight" in tensors)
        own = tensors.shape(f"downs.{level}.2.mem_kv", 4)
        if own != ((2, heads, memory, head_dim) if full[-1] else (2, heads, head_dim, memory)):
            raise UserError("a Unet whose levels differ in attn_heads or attn_dim_head cannot be imported")
        level += 1
    if any(m != int(m) or m < 1 for m in multipliers):
        raise UserError(f"the widths of the levels are no multiples of {width}: it is of another version")
    network = {
        "kind": "lucidrains",
        "width": width,
        "multipliers": tuple(map(int, multipliers)),
        "full_attention": tuple(full),
        "heads": heads,
        "head_dim": head_dim,
        "memory_kv": memory,
    }
    return network, channels, inputs == 2 * channels


def _renamed(tensors: Tensors, self_conditioning: bool) -> dict[str, Tensor]:
    """The weights by the names of network ``lucidrains``; 1x1 convolutions of attention become linear layers.

    The published network concatenates (previous estimate, x), ours (x, previous estimate).
    """
    ours: dict[str, Tensor] = {}

    def layer(name: str, source: str, linear: bool = False) -> None:
        weight = tensors.take(f"{source}.weight")
        ours[f"{name}.weight"] = weight.flatten(1) if linear else weight
        if f"{source}.bias" in tensors:
            ours[f"{name}.bias"] = tensors.take(f"{source}.bias")

    def residual(name: str, source: str) -> None:
        layer(f"{name}.time", f"{source}.mlp.1")
        for i in (1, 2):
            layer(f"{name}.conv{i}", f"{source}.block{i}.proj")
            ours[f"{name}.norm{i}.gain"] = tensors.take(f"{source}.block{i}.norm.g").flatten()
        if f"{source}.res_conv.weight" in tensors:
            layer(f"{name}.shortcut", f"{source}.res_conv")

    def attention(name: str, source: str) -> None:
        ours[f"{name}.norm.gain"] = tensors.take(f"{source}.norm.g").flatten()
        layer(f"{name}.qkv", f"{source}.to_qkv", linear=True)
        memory = tensors.take(f"{source}.mem_kv")
        if f"{source}.to_out.weight" in tensors:
            layer(f"{name}.out", f"{source}.to_out", linear=True)
            ours[f"{name}.memory"] = memory
        else:
            layer(f"{name}.out", f"{source}.to_out.0", linear=True)
            ours[f"{name}.out_norm.gain"] = tensors.take(f"{source}.to_out.1.g").flatten()
            ours[f"{name}.memory"] = memory.transpose(2, 3).contiguous()

    layer("stem", "init_conv")
    if self_conditioning:
        ours["stem.weight"] = torch.cat(ours["stem.weight"].chunk(2, dim=1)[::-1], dim=1)
    layer("time.0", "time_mlp.1")
    layer("time.2", "time_mlp.3")
    levels = 0
    while f"downs.{levels}.0.block1.proj.weight" in tensors:
        levels += 1
    for i in range(levels):
        for name, source in ((f"down.{i}", f"downs.{i}"), (f"up.{i}", f"ups.{levels - 1 - i}")):
            residual(f"{name}.block1", f"{source}.0")
            residual(f"{name}.block2", f"{source}.1")
            attention(f"{name}.attention", f"{source}.2")
            if f"{source}.3.weight" in tensors:
                layer(f"{name}.resample", f"{source}.3")
            else:
                layer(f"{name}.resample.conv", f"{source}.3.1")
    residual("middle1", "mid_block1")
    attention("middle_attention", "mid_attn")
    residual("middle2", "mid_block2")
    residual("last", "final_res_block")
    layer("out", "final_conv")
    return ours


def weights_from_published(published: Mapping[str, Tensor], self_conditioning: bool = False) -> dict[str, Tensor]:
    """The weights of a Unet by the names of network ``lucidrains``.

    Raises:
        UserError: it has other tensors.
    """
    tensors = Tensors("the state dict", published)
    weights = _renamed(tensors, self_conditioning)
    tensors.finish()
    return weights
