"""Sample from model.onnx with onnxruntime and numpy alone: python sample.py -n 16 --seed 0 --out samples.npz."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime


def normal(seed: int, ids: np.ndarray, stream: int, part: int, size: int) -> np.ndarray:
    """Standard normal numbers of each sample, float32 (N, size): Philox4x32-10 and Box-Muller, as fromnoise draws."""
    low = np.uint64(0xFFFFFFFF)
    ids = ids.astype(np.uint64)[:, None]
    zero = np.zeros((len(ids), -(-size // 4)), np.uint64)
    c0, c1, c2, c3 = zero + np.arange(zero.shape[1], dtype=np.uint64), zero + (ids & low), zero + (ids >> 32), zero
    c3, k0, k1 = c3 + np.uint64((stream << 24) + part), np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & low, (p0 >> 32) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    u0, u1, u2, u3 = ((c + 0.5) * 2.0**-32 for c in (c0, c1, c2, c3))
    pairs = [(np.sqrt(-2 * np.log(a)), 2 * np.pi * b) for a, b in ((u0, u1), (u2, u3))]
    parts = [radius * wave(angle) for radius, angle in pairs for wave in (np.cos, np.sin)]
    return np.stack(parts, -1).reshape(len(ids), -1)[:, :size].astype(np.float32)


def sample(folder: Path, ids: np.ndarray, seed: int = 0, cond: np.ndarray | None = None) -> np.ndarray:
    """Samples of the numbers ``ids``, uint8 (N, C, H, W); ``cond`` is a class or the attributes of each."""
    spec = json.loads((folder / "steps.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs, shape, n = {i.name for i in session.get_inputs()}, spec["shape"], len(ids)

    def noise(stream: int, part: int) -> np.ndarray:
        size, shifts = int(np.prod(shape)), shape[0] if spec["offset_noise"] else 0
        z = normal(seed, ids, stream, part, size + shifts)
        shift = spec["offset_noise"] * z[:, size:].reshape(n, -1, 1, 1) if shifts else np.float32(0)
        return z[:, :size].reshape(n, *shape) + shift

    x = noise(0, 0)
    x0, null, past = np.zeros_like(x), np.array(spec["null"], float), {"x": [], "x0": [], "noise": []}
    nulls = np.broadcast_to(null, (n, *null.shape)).astype(np.float32 if null.ndim else np.int64)
    cond = nulls if cond is None else np.asarray(cond, nulls.dtype)
    for index, step in enumerate(spec["steps"]):
        feed = {"x": x * np.float32(step["input_scale"]), "t": np.full(n, step["t"], np.float32), "previous": x0}
        guided = spec["guidance"] != 1 and not np.array_equal(cond, nulls, equal_nan=bool(null.ndim))
        conds = [cond, nulls] if guided else [cond]
        outs = [session.run(None, {k: v for k, v in (feed | {"cond": c}).items() if k in inputs})[0] for c in conds]
        x0s = [step["x0_from_x"] * x + step["x0_from_output"] * out for out in outs]
        x0 = x0s[1] + spec["guidance"] * (x0s[0] - x0s[1]) if guided else x0s[0]
        x0 = x0.clip(-1, 1) if spec["clip"] else x0
        z = noise(1, 16 * index) if any(kind == "noise" for kind, _, _ in step["next"]) else None
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
