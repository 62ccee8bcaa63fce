"""What the rows of a round look like: how long, how far apart, and which way."""

from typing import TYPE_CHECKING

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_agg.callbacks.base import PoolCallback
from lightning_agg.data.pool import RoundBatch
from lightning_agg.errors import require

if TYPE_CHECKING:
    from lightning_agg.modules.base import PoolModule


class GradientStudy(PoolCallback):
    r"""Logs norms, deviations and cosines of what honest workers send, what Byzantine ones send, and the aggregate.

    For g in ``honest`` and ``byzantine``, of the n rows with mean m, as the server gets them:

    - ``study/g_norm``, :math:`\|m\|_2`; ``study/g_max``, the largest entry of \|m\|;
    - ``study/g_deviation``, :math:`\sqrt{\sum_i \|x_i - m\|_2^2 / (n - 1)}`, of two rows or more.

    ``study/aggregate_norm`` and ``study/aggregate_max`` are those of the aggregate, ``study/cosine_honest_byzantine``,
    ``study/cosine_honest_aggregate`` and ``study/cosine_byzantine_aggregate`` the cosines of the three vectors.
    ``study/variance_norm_ratio`` is (honest deviation / honest norm) squared: rules that go by distances have guarantees only where it
    is small. After the study of El Mhamdi, Guerraoui and Rouault, *Distributed Momentum for Byzantine-resilient Stochastic Gradient
    Descent*, ICLR 2021. A value that attackers make non-finite is logged as it is.

    Of a :class:`~lightning_agg.modules.ParameterServer`: ``--trainer.callbacks+=GradientStudy``.
    """

    def setup(self, trainer: L.Trainer, pl_module: "PoolModule", stage: str) -> None:  # type: ignore[override]
        """Check that the module has rounds of one run."""
        require(
            pl_module.rounds_in_order,
            f"trainer.callbacks must not have a GradientStudy in {type(pl_module).__name__}, whose rounds are of many runs.",
        )

    def on_after_aggregation(
        self,
        trainer: L.Trainer,
        pl_module: "PoolModule",
        gradients: Tensor,
        aggregate: Tensor,
        batch: RoundBatch,
    ) -> None:
        """Log the round, if the Trainer writes it."""
        if pl_module.logs_round(batch):
            byzantine = pl_module.byzantine()
            lies = torch.tensor([worker in byzantine for worker in batch.workers])
            pl_module.log_pool(study(gradients, aggregate, lies.to(gradients.device)), batch)


def study(gradients: Tensor, aggregate: Tensor, byzantine: Tensor) -> dict[str, Tensor]:
    """The figures of one round by their names in the log.

    Args:
        gradients: ``(M, d)``.
        aggregate: ``(d,)``.
        byzantine: ``(M,)``, whose rows are not honest.
    """
    vectors = {}
    figures = {}
    for name, rows in (("honest", gradients[~byzantine]), ("byzantine", gradients[byzantine])):
        if not len(rows):
            continue
        vectors[name] = mean = rows.mean(0)
        if len(rows) > 1:
            figures[f"{name}_deviation"] = (rows - mean).norm() / (len(rows) - 1) ** 0.5
    vectors["aggregate"] = aggregate
    for name, vector in vectors.items():
        figures[f"{name}_norm"] = vector.norm()
        figures[f"{name}_max"] = vector.abs().max()
    names = list(vectors)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            figures[f"cosine_{name}_{other}"] = F.cosine_similarity(vectors[name], vectors[other], dim=0)
    if "honest_deviation" in figures:
        figures["variance_norm_ratio"] = (figures["honest_deviation"] / figures["honest_norm"]) ** 2
    return {f"study/{name}": figure for name, figure in figures.items()}
