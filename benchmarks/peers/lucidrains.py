"""denoising-diffusion-pytorch (lucidrains), by its own trainer."""

from __future__ import annotations

import copy
import tempfile

from foreign import foreign
from torch import Tensor

from peers.common import Budget, Task, Trained, crop, with_weights


def lucidrains(task: Task, budget: Budget, bf16: bool) -> Trained:
    """The README's network and its ``Trainer``, which is run itself; only its image folder and its clock are ours."""
    core = foreign("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    channels, size = task.shape[0], task.shape[-1]
    side, batch, accumulate = 8 * -(-size // 8), 32, 2
    net = core.Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=channels, flash_attn=True)
    diffusion = core.GaussianDiffusion(net, image_size=side, timesteps=1000, sampling_timesteps=50)
    core.Dataset = lambda *args, **options: range(len(task.pixels))  # its own one reads files
    trainer = core.Trainer(
        diffusion,
        "",
        train_batch_size=batch,
        train_lr=8e-5,
        train_num_steps=10**9,
        gradient_accumulate_every=accumulate,
        ema_decay=0.995,
        amp=bf16,
        mixed_precision_type="bf16",
        save_and_sample_every=10**9,
        results_folder=tempfile.mkdtemp(),
        calculate_fid=False,
    )
    trainer.dl = (x.add(1).div(2) for x, _ in task.batches(batch, flip=True, side=side))
    update = trainer.ema.update

    def update_and_look_at_the_clock() -> None:
        update()
        if not budget.left():
            trainer.train_num_steps = trainer.step

    trainer.ema.update = update_and_look_at_the_clock
    budget.left()
    trainer.train()
    averaged = copy.deepcopy(trainer.ema.ema_model)

    def sample(count: int) -> Tensor:
        with trainer.accelerator.autocast():
            return crop(diffusion.sample(batch_size=count).float() * 2 - 1, size)

    samplers = {
        "average, DDIM, 50 steps": with_weights(diffusion, averaged, sample),
        "last weights, DDIM, 50 steps": with_weights(diffusion, None, sample),
    }
    return Trained(net, trainer.step, trainer.step * batch * accumulate, budget.used, samplers)
