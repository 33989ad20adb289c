"""Time of a training step and of a sampling step: diffusers, denoising-diffusion-pytorch (lucidrains) and fromnoise.

python benchmarks/step.py [--batch B] [--rounds N] [--precisions fp32,bf16] [--compile] [--device cpu] [--json FILE]
    [--against CHECKOUT]

All three build the same architecture: images of 32x32x1, 64/128/128 channels, two blocks per level, attention at 16x16.
Each training step samples noise and times, runs forward and backward pass, clips the gradient, and updates the weights
and one EMA, as the library's own training code does. The libraries alternate within each round, so that a busy machine
slows all of them. Printed are the median time, and the median over the rounds of the ratio to diffusers in fp32. FLOPs
are counted by torch, and compared with the FLOP/s of a 3x3 convolution of 64 channels, forward and backward, in the
same rounds. lucidrains is measured where it is installed (pip install --no-deps denoising-diffusion-pytorch ema-pytorch
einops pytorch-fid). --against adds this version and that of another checkout (git worktree add CHECKOUT COMMIT), each
in a process of its own, in the same rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from foreign import foreign
from header import GENERAL_UNET, header
from step_process import StepProcess
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fromnoise
from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.networks import kernels
from fromnoise.networks.kernels.build import library
from fromnoise.training.ema import EMA
from fromnoise.training.optim import OptimizerStep, optimizer_from_config
from fromnoise.utils.device import ComputeConfig, select_device

HERE = Path(__file__).parents[1]
SIDE = 32
OURS = {
    "data.flip": False,
    "network.width": 64,
    "network.multipliers": [1, 2, 2],
    "network.blocks": 2,
    "network.attention_resolutions": [16],
    "network.middle_attention": True,
    "diffusion.schedule": "linear",
    "diffusion.target": "eps",
    "loss.weighting": "constant",
    "loss.time_sampler": "uniform",
    "train.optimizer": "adamw",
    "train.clip": 1.0,
    "ema.decays": [0.999],
    "ema.widths": [],
}


@dataclass(frozen=True)
class Entry:
    """A library in one precision: its name, number of parameters, and functions that take a step."""

    name: str
    parameters: int
    train: Callable[[], Any]
    evaluate: Callable[[], Any]


def ours(compute: ComputeConfig, batch: int, compiled: bool, c_kernels: bool = True) -> Entry:
    """Our U-Net, loss, optimizer and EMA; the C kernel is used for sampling too, as with FROMNOISE_KERNELS=1."""
    model = build(recipes.load(GENERAL_UNET, OURS), DatasetInfo((1, SIDE, SIDE)))
    compute.to_device(model.denoiser)
    if compiled:
        model.denoiser.network.compile()
    diffusion_loss, config = model.training_loss(), model.recipe.train
    optimizer_step = OptimizerStep(optimizer_from_config(config), model.denoiser, config.lr, compute.dtype)
    ema = EMA(model.recipe.ema, model.denoiser)
    x0 = torch.rand(batch, 1, SIDE, SIDE, device=compute.device).mul(2).sub(1)
    x0 = x0.contiguous(memory_format=compute.memory_format)
    steps = iter(range(1, 10**9))
    switch_kernels = kernels.enable if c_kernels else kernels.disable

    def train() -> None:
        switch_kernels()
        step = next(steps)
        with compute.autocast():
            loss = diffusion_loss(x0, torch.arange(batch) + batch * step).weighted.mean()
        loss.backward()
        optimizer_step.clip(1.0)
        optimizer_step.step(1e-4)
        ema.update(step, 0.0)  # the loss matters for best_epoch alone
        optimizer_step.zero_grad()

    level = model.schedule.at(0.5)

    def evaluate() -> None:
        switch_kernels()
        with torch.inference_mode(), compute.autocast():
            model.denoiser(x0, level)

    return Entry("fromnoise" if c_kernels else "fromnoise without C", model.parameters, train, evaluate)


def without_c(compute: ComputeConfig, batch: int, compiled: bool) -> Entry:
    """``ours`` with torch's group normalization and SiLU instead of the C kernel."""
    return ours(compute, batch, compiled, c_kernels=False)


def of_diffusers(compute: ComputeConfig, batch: int, compiled: bool) -> Entry:
    """diffusers, as in its example of unconditional training."""
    import diffusers
    from diffusers.training_utils import EMAModel

    net: Any = diffusers.UNet2DModel(  # pyright: ignore[reportPrivateImportUsage]
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    net.to(compute.device)
    noise: Any = diffusers.DDPMScheduler(1000)  # pyright: ignore[reportPrivateImportUsage]
    ema = EMAModel(net.parameters(), decay=0.999, use_ema_warmup=True)
    ema.to(device=compute.device)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
    called = torch.compile(net) if compiled else net
    x0 = torch.rand(batch, 1, SIDE, SIDE, device=compute.device).mul(2).sub(1)

    def train() -> None:
        eps = torch.randn_like(x0)
        k = torch.randint(0, 1000, (batch,), device=compute.device)
        with compute.autocast():
            loss = nn.functional.mse_loss(called(noise.add_noise(x0, eps, k), k).sample.float(), eps)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(net.parameters())

    def evaluate() -> None:
        with torch.inference_mode(), compute.autocast():
            called(x0, 500)

    return Entry("diffusers", sum(p.numel() for p in net.parameters()), train, evaluate)


def of_lucidrains(compute: ComputeConfig, batch: int, compiled: bool) -> Entry:
    """lucidrains, as its ``Trainer`` takes a step."""
    core = foreign("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    ema_pytorch = foreign("ema_pytorch")
    net = core.Unet(dim=64, dim_mults=(1, 2, 2), channels=1, full_attn=(False, True, False), flash_attn=False)
    diffusion = core.GaussianDiffusion(net, image_size=SIDE, timesteps=1000, objective="pred_noise")
    diffusion = diffusion.to(compute.device)
    ema = ema_pytorch.EMA(diffusion, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(diffusion.parameters(), 1e-4)
    if compiled:
        net.compile()
    x0 = torch.rand(batch, 1, SIDE, SIDE, device=compute.device)
    k = torch.full((batch,), 500, device=compute.device)

    def train() -> None:
        with compute.autocast():
            loss = diffusion(x0)
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    def evaluate() -> None:
        with torch.inference_mode(), compute.autocast():
            net(x0, k)

    return Entry("lucidrains", sum(p.numel() for p in net.parameters()), train, evaluate)


def options(args: argparse.Namespace, precision: str) -> list[str]:
    """The options of a process that measures one precision."""
    device = ["--device", args.device] if args.device else []
    return ["--precisions", precision, "--batch", str(args.batch), *["--compile"] * args.compile, *device]


def serve(args: argparse.Namespace) -> None:
    """The process of ``StepProcess``: takes a step for each line of its input, and answers with a line."""
    answers, sys.stdout = sys.stdout, sys.stderr
    entry = ours(select_device(args.device, args.precisions), args.batch, args.compile)
    steps = {"train": entry.train, "evaluate": entry.evaluate}
    source = Path(fromnoise.__file__).parent
    print(json.dumps({"parameters": entry.parameters, "source": str(source)}), file=answers, flush=True)
    for line in sys.stdin:
        steps[line.strip()]()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print("{}", file=answers, flush=True)


def convolution(compute: ComputeConfig, batch: int) -> tuple[Callable[[], Any], float]:
    """Forward and backward pass of one convolution, and its FLOPs: a measure of what the machine can do."""
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False, device=compute.device, dtype=compute.dtype)
    compute.to_device(layer)
    x: Tensor = torch.randn(batch, 64, SIDE, SIDE, device=compute.device, dtype=compute.dtype)
    x = x.contiguous(memory_format=compute.memory_format).requires_grad_()
    y = torch.randn_like(x)
    return lambda: layer(x).backward(y), 3 * 2 * 64 * 64 * 9 * SIDE**2 * batch


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure alternately, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precisions", help="fp32,bf16 (default: fp32, and bf16 where the hardware supports it)")
    parser.add_argument("--compile", action="store_true", help="torch.compile every network first")
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with the source of another checkout")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
        return
    if args.against and not (args.against / "src" / "fromnoise").is_dir():
        parser.error(f"{args.against} has no src/fromnoise: make one with git worktree add {args.against} COMMIT")
    auto = select_device(args.device)
    precisions = (args.precisions or ("fp32,bf16" if auto.dtype == torch.bfloat16 else "fp32")).split(",")
    makers = [of_diffusers, ours]
    if auto.device.type == "cpu" and not args.compile and library("group_norm") is not None:
        makers.append(without_c)
    if importlib.util.find_spec("denoising_diffusion_pytorch") is not None:
        makers.insert(1, of_lucidrains)
    processes: list[StepProcess] = []
    entries: dict[tuple[str, str], Entry] = {}
    peaks: dict[str, tuple[Callable[[], Any], float, list[float]]] = {}
    for precision in precisions:
        compute = select_device(args.device, precision)
        peaks[precision] = (*convolution(compute, args.batch), [])
        for make in makers:
            torch.manual_seed(0)
            entry = make(compute, args.batch, args.compile)
            entries[entry.name, precision] = entry
        for name, checkout in {"this version": HERE, "other version": args.against}.items() if args.against else ():
            process = StepProcess(checkout, options(args, precision))
            processes.append(process)
            print(f"{name}, {precision}: {process.source}", flush=True)
            steps = [partial(process.ask, what) for what in ("train", "evaluate")]
            entries[name, precision] = Entry(name, process.parameters, *steps)
    timed: dict[tuple[str, str], dict[str, list[float]]] = {key: {"train": [], "evaluate": []} for key in entries}
    flops = {}
    for key, entry in entries.items():
        for _ in range(2):
            entry.train()
            entry.evaluate()
        with FlopCounterMode(display=False) if not args.compile else contextlib.nullcontext() as counted:
            entry.train()
        flops[key] = counted.get_total_flops() if counted is not None else None
    for _ in range(args.rounds):
        for key, entry in entries.items():
            timed[key]["train"].append(seconds(entry.train, auto.device))
            timed[key]["evaluate"].append(seconds(entry.evaluate, auto.device))
        for convolve, _, times in peaks.values():
            times.append(min(seconds(convolve, auto.device) for _ in range(3)))
    for process in processes:
        process.close()
    print(header())
    print(f"{auto.describe()}, batch {args.batch}, {args.rounds} rounds{', compiled' if args.compile else ''}")
    for precision, (_, work, times) in peaks.items():
        print(f"convolution, forward and backward, {precision}: {work / statistics.median(times) / 1e9:.0f} GFLOP/s")
    print("| network | parameters | training step s | speed | of the convolution's FLOP/s | sampling step s | speed |")
    print("|---" * 7 + "|")
    rows = []
    base = timed["diffusers", precisions[0]]
    for (name, precision), times in timed.items():
        ratio = {k: statistics.median(b / t for b, t in zip(base[k], times[k], strict=True)) for k in times}
        work, (_, convolution_work, convolution_times) = flops[name, precision], peaks[precision]
        utilization = None
        if work:
            pairs = zip(times["train"], convolution_times, strict=True)
            utilization = statistics.median(work / t / (convolution_work / c) for t, c in pairs)
        train, evaluate = (statistics.median(times[k]) for k in ("train", "evaluate"))
        rows.append(
            {"name": name, "precision": precision, "train": train, "evaluate": evaluate}
            | {"ratio": ratio, "utilization": utilization}
        )
        print(
            f"| {name} {precision} | {entries[name, precision].parameters / 1e6:.1f} M | {train:.3f} | "
            f"{ratio['train']:.2f} | {f'{utilization:.0%}' if utilization else '-'} | {evaluate:.3f} | "
            f"{ratio['evaluate']:.2f} |"
        )
    for precision in precisions if args.against else ():
        this, other = timed["this version", precision], timed["other version", precision]
        for what, times in this.items():
            ratios = [b / a for a, b in zip(times, other[what], strict=True)]
            quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            print(
                f"this version against {args.against}, {what}, {precision}: {quartiles[1]:.3f} times as fast "
                f"(quartiles {quartiles[0]:.3f}, {quartiles[2]:.3f})"
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
