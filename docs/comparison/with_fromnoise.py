"""Train on a folder, save, resume, sample, evaluate: with fromnoise."""

import fromnoise as fn

images = fn.as_data("images", size=32)
network = fn.networks.UNet(3, 3, size=(32, 32), width=64, multipliers=(1, 2, 2))
denoiser = fn.Denoiser(network, fn.schedules.linear(1000), fn.targets.V())
trainer = fn.Trainer(denoiser, images, batch=128, lr=2e-4, steps=5_000, train__clip=1.0, out="runs/fromnoise")
samples = trainer.run().sample(1_000, sampler="ddim", steps=50, seed=0)
print(fn.evaluate(samples, images, features="inception"))
