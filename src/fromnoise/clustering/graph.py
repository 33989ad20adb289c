"""Labels over a graph of nearest neighbours of feature vectors.

K-means assumes round clusters of equal size. Features of images lie near curved surfaces, where only small distances
mean something, so the graph joins each point to its nearest neighbours and leaves all other distances out:

    w_ij = exp(-|x_i - x_j|^2 / (s_i s_j))   for neighbours, s_i the distance to a near neighbour (Zelnik-Manor and
                                             Perona 2004), W = (W + W^T) / 2,   d_i = sum_j w_ij

``spectral.py`` finds clusters of it. ``propagate`` spreads labels of some points to all of them,
F = (1 - a) (I - a S)^-1 Y (Zhou et al. 2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS = 15
"""Neighbours of each point in the graph."""
MAX_DIMENSIONS = 64
"""Principal components of features that ``prepare_features`` keeps, at most."""
_SCALE_NEIGHBOUR = 7  # whose distance is the scale of a point (Zelnik-Manor and Perona 2004)
REGULARIZATION = 0.1
"""Affinity of every point to all points together that is added, in mean degrees (Zhang and Rohe 2018)."""
_SPREADING = 0.99  # a of the propagation of a few labels (Zhou et al. 2004)
_ITERATIONS, _TOLERANCE = 500, 1e-6  # of conjugate gradients


def prepare_features(features: Tensor) -> Tensor:
    """Features for a graph: centred, and at most ``MAX_DIMENSIONS`` principal components of them, float32 (N, D).

    The columns keep their relative scales: a network's features have one unit, and dividing by the standard deviations
    would make those that hardly vary as important as the others.

    Args:
        features: finite, (N, D).
    """
    from sklearn.decomposition import PCA

    points = features.double() - features.double().mean(0)
    points = (points / points.square().sum(1).mean().sqrt().clamp(min=1e-300)).float()
    if points.shape[1] <= MAX_DIMENSIONS:
        return points
    count = min(MAX_DIMENSIONS, *points.shape)
    return torch.from_numpy(PCA(count, svd_solver="randomized", random_state=0).fit_transform(points.numpy()))


@dataclass(frozen=True)
class NeighbourGraph:
    """A symmetric graph of nearest neighbours.

    Attributes:
        affinity: W, sparse float64 (N, N), no self-loops.
        wider: the same with twice the neighbours, by which partitions of ``affinity`` are compared.
        neighbours: of each point in ``affinity``.
    """

    affinity: Any
    wider: Any
    neighbours: int

    @staticmethod
    def from_points(points: Tensor, neighbours: int = NEIGHBOURS) -> NeighbourGraph:
        """Join each point with its nearest neighbours; distances are computed block by block.

        Args:
            points: float (N, D), N at least 2.
            neighbours: of each point; fewer if there are fewer points.
        """
        from sklearn.neighbors import NearestNeighbors

        many = min(neighbours, len(points) - 1)
        search = NearestNeighbors(n_neighbors=min(2 * many, len(points) - 1), algorithm="brute")
        distance, index = search.fit(points.float().numpy()).kneighbors()  # no point is a neighbour of its own
        distance = distance.astype(np.float64)
        scale = distance[:, min(_SCALE_NEIGHBOUR, many) - 1]
        positive = scale[scale > 0]
        scale = np.maximum(scale, 1e-3 * float(np.median(positive)) if len(positive) else 1.0)  # copies of a point
        weight = np.exp(-(distance**2) / (scale[:, None] * scale[index])) + 1e-12
        return NeighbourGraph(_symmetric(weight[:, :many], index[:, :many]), _symmetric(weight, index), many)

    def __len__(self) -> int:
        """The number of points."""
        return self.affinity.shape[0]

    def normalized(self) -> Any:
        """S = D^-1/2 W D^-1/2, sparse (N, N)."""
        from scipy.sparse import diags

        root = diags(1 / np.sqrt(self._degree()))
        return root @ self.affinity @ root

    def _degree(self) -> np.ndarray:
        return np.maximum(np.asarray(self.affinity.sum(1)).ravel(), 1e-12)

    def leading_eigenvectors(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues, in descending order, and eigenvectors of the regularized normalized affinity, (k,) and (N, k).

        Args:
            count: k, fewer if there are not more points.
            seed: of the initial vector of the Lanczos iteration.
        """
        from scipy.sparse.linalg import LinearOperator, eigsh

        degree, n = self._degree(), len(self)
        added = REGULARIZATION * float(degree.mean())
        root = 1 / np.sqrt(degree + added)

        def multiply(v: np.ndarray) -> np.ndarray:
            scaled = root * v.ravel()
            return root * (self.affinity @ scaled + added * scaled.mean())

        if n <= max(count + 1, 50):
            dense = root[:, None] * (self.affinity.toarray() + added / n) * root
            values, vectors = np.linalg.eigh(dense)
        else:
            operator: Any = LinearOperator((n, n), matvec=multiply, dtype=np.float64)  # type: ignore[call-arg]
            start = np.random.default_rng(seed % 2**32).standard_normal(n)
            solve: Any = eigsh
            values, vectors = solve(operator, k=count, which="LA", v0=start, tol=1e-5, ncv=min(n, max(2 * count, 40)))
        order = values.argsort()[::-1][:count]
        return values[order], vectors[:, order]


def _symmetric(weight: np.ndarray, index: np.ndarray) -> Any:
    """The mean of a directed graph and its transpose, sparse (N, N), from edges to neighbours ``index`` (N, k)."""
    from scipy.sparse import csr_matrix

    count, many = index.shape
    directed = csr_matrix((weight.ravel(), (np.repeat(np.arange(count), many), index.ravel())), (count, count))
    return (directed + directed.T) / 2


def propagate(graph: NeighbourGraph, seeds: Tensor, spreading: float = _SPREADING) -> Tensor:
    """Spread labels over a graph, (1 - a) (I - a S)^-1 Y with rows that sum to 1, float64 (N, Q).

    Points that no seed reaches get the mean of the seeds.

    Args:
        graph: N points.
        seeds: Y >= 0, (N, Q): rows of 0 where nothing is known, one-hot or weighted where something is.
        spreading: a in (0, 1): how far labels spread.
    """
    matrix, y = graph.normalized(), seeds.double().numpy()
    solved = torch.from_numpy(_conjugate_gradients(matrix, y, spreading)).clamp(min=0)
    total = solved.sum(1, keepdim=True)
    mean = seeds.double().sum(0) / seeds.double().sum().clamp(min=1e-300)
    return torch.where(total > 1e-12, solved / total.clamp(min=1e-300), mean)


def label_seeds(given: Tensor, clusters: int) -> Tensor:
    """Seeds of ``propagate`` from known clusters, int64 (N,), -1 where unknown: the same total for each, (N, Q)."""
    known = given >= 0
    counts = torch.bincount(given[known], minlength=clusters).double().clamp(min=1)
    seeds = torch.zeros(len(given), clusters, dtype=torch.float64)
    seeds[known] = torch.nn.functional.one_hot(given[known], clusters).double() / counts
    return seeds


def _conjugate_gradients(matrix: Any, y: np.ndarray, spreading: float) -> np.ndarray:
    """The solution F of (I - a S) F = Y, all columns at once (Hestenes and Stiefel 1952), float64 (N, Q)."""
    scale = np.maximum(np.abs(y).sum(0), 1e-300)
    residual = y / scale
    solution, direction = np.zeros_like(residual), residual.copy()
    square = (residual**2).sum(0)
    goal = _TOLERANCE**2 * np.maximum(square, 1e-300)
    for _ in range(_ITERATIONS):
        if (square <= goal).all():
            break
        product = direction - spreading * (matrix @ direction)
        step = square / np.maximum((direction * product).sum(0), 1e-300)
        solution += step * direction
        residual -= step * product
        following = (residual**2).sum(0)
        direction = residual + (following / np.maximum(square, 1e-300)) * direction
        square = following
    return (1 - spreading) * solution * scale
