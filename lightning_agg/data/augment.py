"""Random changes of training images."""

import numpy as np
import torch
from torch import Tensor

from lightning_agg import seeding


def crop_and_flip(images: Tensor, seed: int, worker: int, step: int, padding: int = 4) -> Tensor:
    """Shift each image by up to ``padding`` pixels (zeros move in) and mirror half of them.

    The augmentation of He et al., *Deep Residual Learning*, CVPR 2016, section 4.2, on a whole batch
    ``(B, C, H, W)`` at once, keyed by (seed, worker, step).
    """
    size, _, height, width = images.shape
    rng = seeding.generator(seed, "augment", worker, step)
    draws = np.concatenate([rng.integers(0, 2 * padding + 1, (2, size)), rng.integers(0, 2, (1, size))])
    top, left, mirrored = torch.from_numpy(draws).to(images.device)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(mirrored[:, None] == 1, columns.flip(0), columns)
    sample = torch.arange(size, device=images.device)[:, None, None]
    # Advanced indices around a slice put the channels last.
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
