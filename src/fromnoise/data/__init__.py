"""Data sets: where they are stored, how their images are brought to one shape, and in which order they are used."""

from __future__ import annotations

from fromnoise.data.batches import Batch, BatchStream
from fromnoise.data.convert import as_data
from fromnoise.data.dataset import Attribute, Data, Images, MemoryImages, Shape, StreamedImages
from fromnoise.data.dataset_info import DatasetInfo, conditioning_for
from fromnoise.data.decoding import prepare
from fromnoise.data.format import Format, ImageFormat
from fromnoise.data.load import load
from fromnoise.data.named_dataset import DownloadedDataset, NamedDataset
from fromnoise.data.pixels import to_float, to_uint8
from fromnoise.data.shuffling import flip_mask, shuffled_indices
from fromnoise.data.source import Source, Splits
from fromnoise.data.spec import open_source

__all__ = [
    "Attribute",
    "Batch",
    "BatchStream",
    "Data",
    "DatasetInfo",
    "DownloadedDataset",
    "Format",
    "ImageFormat",
    "Images",
    "MemoryImages",
    "NamedDataset",
    "Shape",
    "Source",
    "Splits",
    "StreamedImages",
    "as_data",
    "conditioning_for",
    "flip_mask",
    "load",
    "open_source",
    "prepare",
    "shuffled_indices",
    "to_float",
    "to_uint8",
]
