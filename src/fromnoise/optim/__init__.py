"""Optimizers, registered by name; a new one is a new module of this package."""

from fromnoise import registry
from fromnoise.optim.adam import Adam, AdamW
from fromnoise.optim.base import Optimizer
from fromnoise.optim.muon import Muon

__all__ = ["Adam", "AdamW", "Muon", "Optimizer"]

registry.import_submodules(__name__, __path__)
