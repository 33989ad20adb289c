"""The random numbers of fromnoise in numpy: sample i of a seed is the same picture here and there."""

import numpy as np


def normal(seed: int, ids: np.ndarray, stream: int, part: int, size: int) -> np.ndarray:
    """Standard normal numbers of each sample, float32 (N, size): Philox4x32-10 (Salmon et al. 2011) and Box-Muller."""
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


def image_noise(seed: int, ids: np.ndarray, stream: int, part: int, shape: list[int], offset: float) -> np.ndarray:
    """Noise of images of ``shape`` (C, H, W), float32 (N, C, H, W); ``offset`` scales one number a channel, added."""
    size, shifts = int(np.prod(shape)), shape[0] if offset else 0
    z = normal(seed, ids, stream, part, size + shifts)
    images = z[:, :size].reshape(-1, *shape)
    return images + offset * z[:, size:].reshape(len(ids), -1, 1, 1) if offset else images
