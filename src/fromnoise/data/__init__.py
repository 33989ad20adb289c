"""Pictures: where they lie, how they are brought to one shape, and in which order they come."""

from __future__ import annotations

from fromnoise.data.batches import Batch, BatchStream
from fromnoise.data.dataset import Attribute, Data, Images, MemoryImages, Shape, StreamedImages
from fromnoise.data.decoding import prepare
from fromnoise.data.load import load
from fromnoise.data.pixels import to_float, to_uint8
from fromnoise.data.shuffling import flip_mask, shuffled_indices
from fromnoise.data.source import Source
from fromnoise.data.spec import NAMES, open_source

__all__ = [
    "NAMES",
    "Attribute",
    "Batch",
    "Data",
    "Images",
    "MemoryImages",
    "Shape",
    "Source",
    "BatchStream",
    "StreamedImages",
    "flip_mask",
    "load",
    "open_source",
    "shuffled_indices",
    "prepare",
    "to_uint8",
    "to_float",
]
