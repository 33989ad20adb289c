"""diffusers: its training example, and the course of its authors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from foreign import foreign
from torch import Tensor, nn

from peers.common import Budget, Sampler, Task, Trained, accelerator, crop, with_weights


def diffusers_samplers(
    net: Callable[[Tensor, Any], Tensor], noise: Any, shape: tuple[int, ...], ddim_steps: int = 50
) -> dict[str, Sampler]:
    """DPM-Solver++ with 25 steps and DDIM, with the schedule of training."""
    diffusers = foreign("diffusers")

    def sampler(kind: Any, steps: int) -> Sampler:
        def sample(count: int) -> Tensor:
            scheduler = kind.from_config(noise.config)
            scheduler.set_timesteps(steps)
            x = torch.randn(count, *shape)
            for k in scheduler.timesteps:
                x = scheduler.step(net(x, k).float(), k, x).prev_sample
            return x

        return sample

    return {
        "DPM-Solver++, 25 steps": sampler(diffusers.DPMSolverMultistepScheduler, 25),
        f"DDIM, {ddim_steps} steps": sampler(diffusers.DDIMScheduler, ddim_steps),
    }


def diffusers_example(task: Task, budget: Budget, bf16: bool) -> Trained:
    """examples/unconditional_image_generation/train_unconditional.py with --use_ema, and the network of the script."""
    diffusers = foreign("diffusers")
    optimization, training_utils = foreign("diffusers.optimization"), foreign("diffusers.training_utils")
    side = 32 * -(-task.shape[-1] // 32)
    channels, size = task.shape[0], task.shape[-1]
    net = diffusers.UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    )
    noise = diffusers.DDPMScheduler(1000, beta_schedule="linear", prediction_type="epsilon")
    ema = training_utils.EMAModel(
        net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75, model_cls=None
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    batch = 16
    steps = 100 * -(-len(task.pixels) // batch)  # of its 100 epochs, whose schedule the budget compresses
    schedule = optimization.get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=steps)
    accelerate = accelerator(bf16)
    model, optimizer = accelerate.prepare(net, optimizer)
    dtype = torch.bfloat16 if bf16 else torch.float32
    done, batches = 0, task.batches(batch, flip=True, side=side)
    model.train()
    while budget.left():
        x = next(batches)[0].to(dtype)
        eps, k = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        schedule.last_epoch = int(budget.fraction * steps)  # then set for the step that follows
        schedule.step()
        loss = nn.functional.mse_loss(model(noise.add_noise(x, eps, k), k).sample.float(), eps.float())
        accelerate.backward(loss)
        accelerate.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        done += 1
    averaged = copy.deepcopy(net)
    ema.copy_to(averaged.parameters())

    def predict(x: Tensor, k: Any) -> Tensor:
        return model(x, k).sample

    samplers = {}
    for name, sampler in diffusers_samplers(predict, noise, (channels, side, side), 25).items():
        cropped = lambda count, sampler=sampler: crop(sampler(count), size)  # noqa: E731
        samplers[f"average, {name}"] = with_weights(net, averaged, cropped)
        samplers[f"last weights, {name}"] = with_weights(net, None, cropped)
    return Trained(net, done, done * batch, budget.used, samplers)


class ClassConditioned(nn.Module):
    """The network of the course for 28x28 images: a U-Net that sees the class as four more channels."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.classes, self.unet = nn.Embedding(10, 4), unet

    def forward(self, x: Tensor, k: Any, labels: Tensor) -> Any:
        """Noise in images, by a call of the U-Net."""
        planes = self.classes(labels)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.unet(torch.cat([x, planes], 1), k)


def diffusers_course(task: Task, budget: Budget, bf16: bool) -> Trained:
    """The diffusion course of the authors of diffusers: units 2 (28x28, by class) and 1 (32x32).

    The course is in float32; bf16 is by the option of accelerate, as in the example.
    """
    diffusers = foreign("diffusers")
    channels, size = task.shape[0], task.shape[-1]
    by_class = channels == 1
    blocks = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    net: Any = diffusers.UNet2DModel(
        sample_size=size,
        in_channels=channels + 4 * by_class,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=(32, 64, 64) if by_class else (64, 128, 128, 256),
        down_block_types=blocks if by_class else ("DownBlock2D", *blocks),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D") + ("UpBlock2D",) * (not by_class),
    )
    batch = 128 if by_class else 64
    net = ClassConditioned(net) if by_class else net
    noise = diffusers.DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    parameters = net.parameters()
    optimizer = torch.optim.Adam(parameters, lr=1e-3) if by_class else torch.optim.AdamW(parameters, lr=4e-4)
    accelerate = accelerator(bf16)
    model, optimizer = accelerate.prepare(net, optimizer)
    done, batches = 0, task.batches(batch, flip=not by_class)
    while budget.left():
        x, labels = next(batches)
        eps, k = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        loss = nn.functional.mse_loss(model(noise.add_noise(x, eps, k), k, *([labels] * by_class)).sample, eps)
        accelerate.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        done += 1

    drawn: list[Tensor] = []  # labels of the batch that is sampled

    def predict(x: Tensor, k: Any) -> Tensor:
        return model(x, k, *([drawn[-1]] * by_class)).sample

    def labelled(count: int, sampler: Sampler) -> Tensor:
        drawn.append(torch.randint(0, 10, (count,)))
        return sampler(count)

    samplers = {}
    for name, sampler in diffusers_samplers(predict, noise, (channels, size, size)).items():
        samplers[f"last weights, {name}"] = with_weights(net, None, lambda n, s=sampler: labelled(n, s))
    return Trained(net, done, done * batch, budget.used, samplers)
