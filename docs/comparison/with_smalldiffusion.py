"""Train on a folder, save, resume, sample, evaluate: with smalldiffusion and torch-fidelity."""

from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from smalldiffusion import Scaled, ScheduleLogLinear, Unet, samples, training_loop
from torch.utils.data import DataLoader, Dataset
from torch_fidelity import calculate_metrics
from torchvision import transforms
from torchvision.utils import save_image

STEPS, OUT = 5_000, Path("runs/smalldiffusion")


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
network = Scaled(Unet)(32, 3, 3, ch=64, ch_mult=(1, 2, 2), attn_resolutions=(16,)).to(accelerator.device)
ema = torch.optim.swa_utils.AveragedModel(
    network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999), use_buffers=True
)
loader = DataLoader(Folder("images"), batch_size=128, shuffle=True, drop_last=True)
schedule = ScheduleLogLinear(N=1000, sigma_min=0.01, sigma_max=35)
OUT.mkdir(parents=True, exist_ok=True)
saved, step = None, 0
if (OUT / "state.pt").exists():
    saved = torch.load(OUT / "state.pt", map_location=accelerator.device, weights_only=True)
    network.load_state_dict(saved["network"])
    ema.load_state_dict(saved["ema"])
    step = saved["step"]
for now in training_loop(loader, network, schedule, accelerator=accelerator, lr=2e-4):
    if saved:  # the optimizer exists only once the loop runs
        now.optimizer.load_state_dict(saved["optimizer"])
        saved = None
    ema.update_parameters(network)
    if step % 500 == 0:
        state = {"network": network.state_dict(), "ema": ema.state_dict(), "step": step}
        torch.save(state | {"optimizer": now.optimizer.state_dict()}, OUT / "state.pt")
    if step >= STEPS:
        break
    step += 1

(OUT / "samples").mkdir(exist_ok=True)
torch.manual_seed(0)
for first in range(0, 1_000, 100):
    *_, x0 = samples(ema.module, schedule.sample_sigmas(50), batchsize=100, accelerator=accelerator)
    for i, image in enumerate(x0):
        save_image(image.clamp(-1, 1) / 2 + 0.5, OUT / "samples" / f"{first + i:04}.png")

print(calculate_metrics(input1=str(OUT / "samples"), input2="images", fid=True, samples_find_deep=True))
