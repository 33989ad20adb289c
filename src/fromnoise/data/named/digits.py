"""The handwritten digits of scikit-learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import final

import numpy as np

from fromnoise.data.arrays import array_splits
from fromnoise.data.named_dataset import NamedDataset
from fromnoise.data.source import Log, Splits
from fromnoise.data.value_range import ValueRange
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import gunzip, read_bytes


@register("dataset", "digits")
@final
class Digits(NamedDataset):
    """1,797 handwritten digits, 8x8 pixels and 17 grey levels (UCI; Alpaydin and Kaynak 1998); part of scikit-learn."""

    channels, size = 1, (8, 8)
    classes = 10

    def open(self, log: Log) -> Splits:
        """See ``NamedDataset``.

        The file of scikit-learn is read without importing scikit-learn, which takes longer than training a small model
        for some steps (it imports scipy.stats and pandas).
        """
        package = importlib.util.find_spec("sklearn")
        if package is None or package.origin is None:
            raise UserError("the data set 'digits' is part of scikit-learn; run pip install scikit-learn")
        path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        lines = gunzip(path, read_bytes(path)).decode().split()
        rows = np.array([line.split(",") for line in lines], np.float64)  # 64 pixels and the label
        images = ValueRange(255 / 16, 0.0, "0..16").to_uint8(rows[:, :-1].reshape(-1, 8, 8))
        return array_splits({"all": images}, {"all": rows[:, -1].astype(np.int64)}, "digits", log)
