"""Train on a folder, save, resume, sample, evaluate: with fromnoise."""

import fromnoise as fn

denoiser = fn.Denoiser(
    fn.networks.UNet(3, 3, 32, width=64, multipliers=(1, 2, 2)),
    schedule=fn.schedules.linear(1000),
    target=fn.targets.V(),
)
for report in fn.Trainer(denoiser, "images", size=32, batch=128, lr=2e-4, steps=5_000, out="runs/fromnoise"):
    print(report.loss)

model = fn.load("runs/fromnoise")
samples = model.sample(1_000, sampler="ddim", steps=50, seed=0, out="runs/fromnoise/samples")
print(fn.evaluate(samples, against="images"))
