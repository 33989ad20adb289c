"""Train on a folder, save, resume, sample, evaluate: with denoising-diffusion-pytorch (lucidrains)."""

from pathlib import Path

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
from torchvision.utils import save_image

STEPS, OUT = 5_000, Path("runs/lucidrains")

diffusion = GaussianDiffusion(
    Unet(64, dim_mults=(1, 2, 2)), image_size=32, timesteps=1000, sampling_timesteps=50, objective="pred_v"
)
OUT.mkdir(parents=True, exist_ok=True)
trainer = Trainer(
    diffusion,
    "images",
    train_batch_size=128,
    train_lr=2e-4,
    train_num_steps=STEPS,
    ema_decay=0.999,
    ema_update_every=1,
    save_and_sample_every=500,
    results_folder=str(OUT),
    calculate_fid=True,
    num_fid_samples=1_000,
)
saved = [int(p.stem.split("-")[1]) for p in OUT.glob("model-*.pt")]
if saved:
    trainer.load(max(saved))
trainer.train()

(OUT / "samples").mkdir(exist_ok=True)
torch.manual_seed(0)
for first in range(0, 1_000, 100):
    for i, image in enumerate(trainer.ema.ema_model.sample(batch_size=100)):
        save_image(image, OUT / "samples" / f"{first + i:04}.png")
