"""Dirichlet shares of every class."""

import numpy as np

from lightning_agg.errors import require_positive
from lightning_agg.partitioners.base import Partitioner, Shards
from lightning_agg.partitioners.dealing import by_class, deal_by_shares, fill_from_largest


class Dirichlet(Partitioner):
    r"""Divides each class among the workers by shares drawn from a symmetric Dirichlet distribution.

    For class :math:`k`, :math:`p_k \sim \mathrm{Dir}_M(\alpha)` and worker :math:`m` gets :math:`p_{k,m}` of
    it. Small :math:`\alpha` gives few classes to a worker and very unequal shards, large :math:`\alpha` equal
    parts of everything. Not the :math:`\alpha` of :class:`WorkerDirichlet`.

    Reference:
        Yurochkin et al., `Bayesian Nonparametric Federated Learning of Neural Networks
        <https://arxiv.org/abs/1905.12022>`_, ICML 2019, Section 4; Li et al., `Federated Learning on Non-IID
        Data Silos: An Experimental Study <https://arxiv.org/abs/2102.02079>`_, ICDE 2022 (NIID-Bench),
        distribution-based label imbalance.
        Many copies draw again until the smallest shard has 10 samples and stop a worker at its fair share;
        here every draw counts, and shards below ``min_size`` are filled up from the largest ones.

    Args:
        alpha: Concentration :math:`\alpha`, above 0.
        min_size: Smallest shard allowed, at least 1; smaller ones are filled up from the largest.
        seed: Seed of the partition alone; the run's seed when ``None``.

    Raises:
        SettingError: If ``alpha`` is not a finite number above 0 or ``min_size`` is below 1; in the call, if
            there are too few samples.

    Example:
        >>> labels = np.repeat([0, 1], 50)
        >>> shards = Dirichlet(alpha=0.1, min_size=5, seed=0)(labels, pool_size=4)
        >>> sum(map(len, shards)), min(map(len, shards)) >= 5
        (100, True)
    """

    def __init__(self, alpha: float = 0.5, min_size: int = 1, seed: int | None = None) -> None:
        super().__init__(min_size, seed)
        require_positive("Dirichlet.alpha", alpha)
        self.alpha = alpha

    def split(self, labels: np.ndarray, pool_size: int, rng: np.random.Generator) -> Shards:
        """Each class cut by its own shares."""
        classes = by_class(labels, rng)
        shares = rng.dirichlet(np.full(pool_size, self.alpha), size=len(classes))
        # Cuts of many small classes, all rounded alike, would favour the workers in the middle.
        offsets = rng.random(len(classes))
        pieces = [deal_by_shares(*dealt) for dealt in zip(classes, shares, offsets, strict=True)]
        return [np.concatenate(hand) for hand in zip(*pieces, strict=True)]

    def fill(self, shards: Shards, rng: np.random.Generator) -> Shards:
        """Random samples of the largest shards go to the small ones."""
        return fill_from_largest(shards, self.min_size, rng)
