"""Train on a torch ``Dataset`` of your own with labels, and sample by class name.

The items may be Pillow images, arrays or tensors of any size; an attribute ``classes`` names the labels, as in the data
sets of torchvision. A minute on two CPU cores.

    python examples/custom_dataset.py --steps 300 --out runs/examples/custom_dataset
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

import fromnoise as fn


class Shapes(Dataset):
    """Discs, squares and crosses of random color and place, 8x8 pixels."""

    classes = ("disc", "square", "cross")

    def __len__(self) -> int:
        return 1_500

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        generator = torch.Generator().manual_seed(i)
        left, top = torch.randint(0, 3, (2,), generator=generator).tolist()
        color = tuple(torch.randint(100, 256, (3,), generator=generator).tolist())
        image = Image.new("RGB", (8, 8))
        pen, label = ImageDraw.Draw(image), i % 3
        if self.classes[label] == "disc":
            pen.ellipse((left, top, left + 5, top + 5), fill=color)
        elif self.classes[label] == "square":
            pen.rectangle((left, top, left + 5, top + 5), outline=color)
        else:
            pen.line((left, top, left + 5, top + 5), fill=color)
            pen.line((left + 5, top, left, top + 5), fill=color)
        return image, label


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=300, help="training steps")
parser.add_argument("--out", type=Path, default=Path("runs/examples/custom_dataset"), help="folder of the results")
args = parser.parse_args()

trainer = fn.Trainer("digits", Shapes(), data__labels=True, steps=args.steps, out=args.out / "run")
model = trainer.run()
print(f"images {model.shape}, classes {', '.join(trainer.data.class_names or ())}")
rows = [model.sample(10, label=name) for name in Shapes.classes]
fn.save_images(torch.cat(rows), args.out / "classes.png", columns=10)
