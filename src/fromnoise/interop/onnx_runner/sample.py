"""Sample from model.onnx with onnxruntime and numpy alone: python sample.py -n 16 --seed 0 --out samples.npz."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from noise import image_noise


def sample(folder: Path, ids: np.ndarray, seed: int = 0, cond: np.ndarray | None = None) -> np.ndarray:
    """Samples of the numbers ``ids``, uint8 (N, C, H, W); ``cond`` is a class or the attributes of each."""
    spec = json.loads((folder / "steps.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs, n, noise = {i.name for i in session.get_inputs()}, len(ids), (spec["shape"], spec["offset_noise"])
    x = image_noise(seed, ids, 0, 0, *noise)
    x0, null, past = np.zeros_like(x), np.array(spec["null"], float), {"x": [], "x0": [], "noise": []}
    nulls = np.broadcast_to(null, (n, *null.shape)).astype(np.float32 if null.ndim else np.int64)
    cond = nulls if cond is None else np.asarray(cond, nulls.dtype)
    guided = spec["guidance"] != 1 and not np.array_equal(cond, nulls, equal_nan=bool(null.ndim))
    for index, step in enumerate(spec["steps"]):
        feed = {"x": x * np.float32(step["input_scale"]), "t": np.full(n, step["t"], np.float32), "previous": x0}
        feeds = [feed | {"cond": c} for c in ([cond, nulls] if guided else [cond])]
        outs = [session.run(None, {k: v for k, v in f.items() if k in inputs})[0] for f in feeds]
        x0s = [step["x0_from_x"] * x + step["x0_from_output"] * out for out in outs]
        x0 = x0s[1] + spec["guidance"] * (x0s[0] - x0s[1]) if guided else x0s[0]
        x0 = x0.clip(-1, 1) if spec["clip"] else x0
        z = image_noise(seed, ids, 1, 16 * index, *noise) if any(k == "noise" for k, _, _ in step["next"]) else None
        for kind, value in (("x", x), ("x0", x0), ("noise", z)):
            past[kind] = [value, *past[kind][: spec["history"]]]
        x = np.sum([coefficient * past[kind][ago] for kind, ago, coefficient in step["next"]], axis=0)
    return np.rint((x.clip(-1, 1) + 1) * np.float32(127.5)).astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", type=int)
    parser.add_argument("--out", type=Path, default=Path("samples.npz"))
    args = parser.parse_args()
    labels = None if args.label is None else np.full(args.n, args.label)
    np.savez(args.out, images=sample(Path(__file__).parent, np.arange(args.n), args.seed, labels))
