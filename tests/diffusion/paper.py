"""Ho et al. 2020 and Song et al. 2020 (DDIM), equation by equation, in float64: what the package is held to."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


def linear_betas(steps: int, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Sec. 4: "constants increasing linearly from beta_1 = 1e-4 to beta_T = 0.02"."""
    return np.array([first + (last - first) * k / (steps - 1) if steps > 1 else first for k in range(steps)])


def alpha_bar(betas: np.ndarray) -> np.ndarray:
    """prod_{s <= k} (1 - beta_s) for k = 0 .. T."""
    return _alpha_bar(tuple(betas))


@lru_cache
def _alpha_bar(betas: tuple[float, ...]) -> np.ndarray:
    out = [1.0]
    for beta in betas:
        out.append(out[-1] * (1 - beta))
    return np.array(out)


def posterior(betas: np.ndarray, k: int) -> tuple[float, float, float]:
    """Eq. 7: factors of x_0 and of x_k in the mean of q(x_{k-1} | x_k, x_0), and its variance."""
    bars, beta = alpha_bar(betas), betas[k - 1]
    return (
        math.sqrt(bars[k - 1]) * beta / (1 - bars[k]),
        math.sqrt(1 - beta) * (1 - bars[k - 1]) / (1 - bars[k]),
        (1 - bars[k - 1]) / (1 - bars[k]) * beta,
    )


def posterior_skipping(betas: np.ndarray, k: int, j: int) -> tuple[float, float, float, float]:
    """Eq. 7 between k and any j < k, with the beta of the whole leap; fourth that beta (the large variance)."""
    bars = alpha_bar(betas)
    leap = 1.0
    for i in range(j + 1, k + 1):
        leap *= 1 - betas[i - 1]
    beta = 1 - leap
    return (
        math.sqrt(bars[j]) * beta / (1 - bars[k]),
        math.sqrt(leap) * (1 - bars[j]) / (1 - bars[k]),
        (1 - bars[j]) / (1 - bars[k]) * beta,
        beta,
    )


def ddim(betas: np.ndarray, k: int, j: int, eta: float, x: np.ndarray, eps: np.ndarray, z: np.ndarray) -> np.ndarray:
    """DDIM eqs. 12 and 16 from k to j (their alpha is Ho's alpha-bar)."""
    bars = alpha_bar(betas)
    sigma = eta * math.sqrt((1 - bars[j]) / (1 - bars[k])) * math.sqrt(1 - bars[k] / bars[j])
    x0 = (x - math.sqrt(1 - bars[k]) * eps) / math.sqrt(bars[k])
    return math.sqrt(bars[j]) * x0 + math.sqrt(max(0.0, 1 - bars[j] - sigma**2)) * eps + sigma * z


def cosine_betas(steps: int, s: float = 0.008) -> np.ndarray:
    """Nichol and Dhariwal 2021, eq. 17 and the clipping below it."""

    def f(t: float) -> float:
        return math.cos((t + s) / (1 + s) * math.pi / 2) ** 2

    return np.array([min(1 - f((k + 1) / steps) / f(k / steps), 0.999) for k in range(steps)])


def sigmoid_betas(steps: int, start: float = -3, end: float = 3, tau: float = 1) -> np.ndarray:
    """Jabri et al. 2022, algorithm 1 (gamma(t) is alpha-bar), betas clipped at 0.999."""

    def sigmoid(v: float) -> float:
        return 1 / (1 + math.exp(-v))

    low, high = sigmoid(start / tau), sigmoid(end / tau)

    def gamma(t: float) -> float:
        return (high - sigmoid((t * (end - start) + start) / tau)) / (high - low)

    return np.array([min(1 - gamma((k + 1) / steps) / gamma(k / steps), 0.999) for k in range(steps)])
