"""Shards: data sets in .tar files of the WebDataset layout, read by position, packed, checked and fetched."""

from __future__ import annotations
