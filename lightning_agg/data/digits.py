"""Handwritten digits that come with scikit-learn."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from lightning_agg import seeding
from lightning_agg.data.base import Dataset, PoolDataModule, stratified_order
from lightning_agg.data.samples import Samples


class DigitsPool(PoolDataModule):
    """1,797 handwritten digits of 8 x 8 pixels: real data that needs no download.

    A fixed, stratified fifth (360 samples, the same for every seed) is the test set. The usual sizes are 200
    validation and 100 public samples, fewer when ``classes`` leaves less than all.

    Reference:
        Alpaydin and Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998; the
        copy of scikit-learn. Its 17 grey levels are scaled to 0 to 255.
    """

    test_size = 360

    def usual_sizes(self, num_samples: int) -> tuple[int, int]:
        """See :meth:`PoolDataModule.usual_sizes`."""
        return min(200, num_samples // 7), min(100, num_samples // 14)

    def load(self) -> Dataset:
        """Read the digits from scikit-learn's own files."""
        digits = load_digits()
        images = torch.from_numpy(np.rint(digits.images * 255 / 16).astype(np.uint8))[:, None]
        data = Samples(images, torch.from_numpy(digits.target).long())
        order = stratified_order(digits.target, seeding.generator(0, "digits test set"))
        test, train = np.split(order, [self.test_size])
        return Dataset(data.take(train), data.take(test), tuple(map(str, digits.target_names)))
