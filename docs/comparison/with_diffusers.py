"""Train on a folder, save, resume, sample, evaluate: with diffusers, accelerate and torch-fidelity."""

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch_fidelity import calculate_metrics
from torchvision import transforms
from tqdm import tqdm

STEPS, OUT = 5_000, Path("runs/diffusers")


class Folder(Dataset):
    def __init__(self, root):
        self.paths = sorted(p for p in Path(root).rglob("*") if p.suffix in {".png", ".jpg", ".jpeg"})
        self.transform = transforms.Compose(
            [
                transforms.Resize(32),
                transforms.CenterCrop(32),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return self.transform(Image.open(self.paths[i]).convert("RGB"))


accelerator = Accelerator()
network = UNet2DModel(
    sample_size=32,
    in_channels=3,
    out_channels=3,
    block_out_channels=(64, 128, 128),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
)
ema = EMAModel(network.parameters(), decay=0.999, model_cls=UNet2DModel, model_config=network.config)
optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4)
loader = DataLoader(Folder("images"), batch_size=128, shuffle=True, drop_last=True)
schedule = DDPMScheduler(1000, prediction_type="v_prediction")
network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
ema.to(accelerator.device)
accelerator.register_for_checkpointing(ema)
step = 0
if (OUT / "state").exists():
    accelerator.load_state(OUT / "state")
    step = int((OUT / "step").read_text())
progress = tqdm(total=STEPS, initial=step)
while step < STEPS:
    for x0 in loader:
        noise = torch.randn_like(x0)
        t = torch.randint(0, 1000, (len(x0),), device=x0.device)
        output = network(schedule.add_noise(x0, noise, t), t).sample
        loss = torch.nn.functional.mse_loss(output, schedule.get_velocity(x0, noise, t))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(network.parameters())
        step += 1
        progress.update()
        if step % 500 == 0 or step == STEPS:
            accelerator.save_state(OUT / "state")
            (OUT / "step").write_text(str(step))
        if step == STEPS:
            break

network = accelerator.unwrap_model(network)
ema.copy_to(network.parameters())
pipeline = DDIMPipeline(network, DDIMScheduler.from_config(schedule.config))
pipeline.save_pretrained(OUT / "model")
(OUT / "samples").mkdir(exist_ok=True)
for first in range(0, 1_000, 100):
    images = pipeline(100, generator=torch.Generator().manual_seed(first), num_inference_steps=50).images
    for i, image in enumerate(images):
        image.save(OUT / "samples" / f"{first + i:04}.png")

print(calculate_metrics(input1=str(OUT / "samples"), input2="images", fid=True, samples_find_deep=True))
