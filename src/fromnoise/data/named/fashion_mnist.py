"""Fashion-MNIST."""

from __future__ import annotations

from typing import final

from fromnoise.data.named.mnist import IdxDataset, mnist_files
from fromnoise.registry import register


@register("dataset", "fashion_mnist")
@final
class FashionMnist(IdxDataset):
    """70,000 articles of clothing, 28x28 grey (Xiao et al. 2017)."""

    name = "fashion_mnist"
    channels, size = 1, (28, 28)
    classes = 10
    class_names = (
        *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    files = mnist_files(
        (
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    )
