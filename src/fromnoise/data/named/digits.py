"""The handwritten digits of scikit-learn."""

from __future__ import annotations

from typing import Any, final

from fromnoise.data.arrays import array_splits
from fromnoise.data.named_dataset import NamedDataset
from fromnoise.data.source import Log, Splits
from fromnoise.data.value_range import ValueRange
from fromnoise.registry import register
from fromnoise.utils.errors import UserError


@register("dataset", "digits")
@final
class Digits(NamedDataset):
    """1,797 handwritten digits, 8x8 pixels and 17 grey levels (UCI; Alpaydin and Kaynak 1998); part of scikit-learn."""

    channels, size = 1, (8, 8)
    classes = 10

    def open(self, log: Log) -> Splits:
        """See ``NamedDataset``."""
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise UserError("the data set 'digits' is part of scikit-learn; run pip install scikit-learn") from None
        bunch: Any = load_digits()
        images = ValueRange(255 / 16, 0.0, "0..16").to_uint8(bunch.images)
        return array_splits({"all": images}, {"all": bunch.target}, "digits", log)
