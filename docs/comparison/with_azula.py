"""Train on a folder, save, resume, sample, evaluate: with azula and torch-fidelity."""

from pathlib import Path

import torch
from azula.denoise import KarrasDenoiser
from azula.nn.unet import UNet
from azula.noise import VPSchedule
from azula.sample import DDIMSampler
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch_fidelity import calculate_metrics
from torchvision import transforms
from torchvision.utils import save_image
from tqdm import tqdm

STEPS, OUT = 5_000, Path("runs/azula")


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


class Network(nn.Module):
    def __init__(self, features=128):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(1, features), nn.SiLU(), nn.Linear(features, features))
        self.unet = UNet(3, 3, hid_channels=(64, 128, 128), hid_blocks=(2, 2, 2), mod_features=features)

    def forward(self, x, log_noise):
        return self.unet(x, self.embed(log_noise[..., None]))


device = "cuda" if torch.cuda.is_available() else "cpu"
denoiser = KarrasDenoiser(Network(), VPSchedule()).to(device)
ema = torch.optim.swa_utils.AveragedModel(
    denoiser, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999), use_buffers=True
)
optimizer = torch.optim.AdamW(denoiser.parameters(), lr=2e-4)
loader = DataLoader(Folder("images"), batch_size=128, shuffle=True, drop_last=True)
OUT.mkdir(parents=True, exist_ok=True)
step = 0
if (OUT / "state.pt").exists():
    state = torch.load(OUT / "state.pt", map_location=device, weights_only=True)
    denoiser.load_state_dict(state["denoiser"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    step = state["step"]
progress = tqdm(total=STEPS, initial=step)
while step < STEPS:
    for x0 in loader:
        loss = denoiser.loss(x0.to(device), torch.rand(len(x0), device=device))
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update_parameters(denoiser)
        step += 1
        progress.update()
        if step % 500 == 0 or step == STEPS:
            state = {"denoiser": denoiser.state_dict(), "ema": ema.state_dict()}
            torch.save(state | {"optimizer": optimizer.state_dict(), "step": step}, OUT / "state.pt")
        if step == STEPS:
            break

sampler = DDIMSampler(ema.module.eval(), steps=50)
(OUT / "samples").mkdir(exist_ok=True)
torch.manual_seed(0)
for first in range(0, 1_000, 100):
    for i, image in enumerate(sampler(sampler.init((100, 3, 32, 32), device=device))):
        save_image(image.clamp(-1, 1) / 2 + 0.5, OUT / "samples" / f"{first + i:04}.png")

print(calculate_metrics(input1=str(OUT / "samples"), input2="images", fid=True, samples_find_deep=True))
