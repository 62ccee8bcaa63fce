"""What the global model is worth to each worker."""

from typing import TYPE_CHECKING, Literal

import lightning as L
import torch
from torch import Tensor, nn

from lightning_agg.data.pool import WorkerPool
from lightning_agg.data.samples import as_precise
from lightning_agg.errors import require, require_count
from lightning_agg.losses import sample_losses

if TYPE_CHECKING:
    from lightning_agg.modules.base import PoolModule


class WorkerStudy(L.Callback):
    """Logs, at every validation, the loss and the accuracy of the global model on the shard of each worker.

    Where shards differ, a mean over all samples hides the workers that a rule has outvoted:

    - ``workers/loss/3`` and ``workers/accuracy/3``, of worker 3;
    - ``workers/accuracy_mean``, ``workers/accuracy_std``, ``workers/accuracy_worst_tenth`` and
      ``workers/accuracy_best_tenth``, over the honest workers, each counted the same: the figures by which Li, Sanjabi, Beirami and
      Smith, *Fair resource allocation in federated learning*, ICLR 2020, section 4, judge fairness (there on data held out).

    Labels are those of the data, not what an attacker makes of them. Of a
    :class:`~lightning_agg.modules.ParameterServer`: ``--trainer.callbacks+=WorkerStudy``.

    Args:
        samples: Only the first so many samples of each shard; ``full`` for all.
        each_worker: Whether to log every worker, or only what is over all of them.
    """

    def __init__(self, samples: int | Literal["full"] = "full", each_worker: bool = True) -> None:
        if samples != "full":
            require_count("trainer.callbacks.samples", samples, minimum=1)
        self.samples = samples
        self.each_worker = each_worker

    def setup(self, trainer: L.Trainer, pl_module: "PoolModule", stage: str) -> None:  # type: ignore[override]
        """Check that there is one global model."""
        require(
            pl_module.rounds_in_order,
            f"trainer.callbacks must not have a WorkerStudy in {type(pl_module).__name__}, which trains many models.",
        )

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: "PoolModule") -> None:  # type: ignore[override]
        """Evaluate and log."""
        data = pl_module.data
        losses, accuracies = evaluate(pl_module.model, data.pool, self.samples, data.eval_batch_size)
        honest = sorted(set(range(len(data.pool))) - pl_module.byzantine())
        figures = {f"accuracy_{name}": figure for name, figure in spread(accuracies[honest]).items()}
        if self.each_worker:
            for worker in range(len(data.pool)):
                figures[f"loss/{worker}"] = losses[worker]
                figures[f"accuracy/{worker}"] = accuracies[worker]
        pl_module.log_dict({f"workers/{name}": value for name, value in figures.items()}, sync_dist=True)


def evaluate(
    model: nn.Module, pool: WorkerPool, samples: int | Literal["full"], batch_size: int
) -> tuple[Tensor, Tensor]:
    """Mean loss ``(M,)`` and accuracy ``(M,)`` of ``model`` on the shards, without augmentation."""
    device = pool.data.labels.device
    dtype = next(model.parameters()).dtype
    figures = []
    for shard in pool.shards:
        chosen = torch.from_numpy(shard[: None if samples == "full" else samples]).to(device)
        sums = torch.zeros(2, device=device)
        for indices in torch.split(chosen, batch_size):
            inputs, labels = pool.data.read(indices)
            outputs = model(as_precise(inputs, dtype))
            hits = outputs.argmax(dim=1) == labels
            sums += torch.stack([sample_losses(model)(outputs, labels).sum(), hits.sum()])
        figures.append(sums / len(chosen))
    losses, accuracies = torch.stack(figures).T
    return losses, accuracies


def spread(values: Tensor) -> dict[str, Tensor]:
    """Mean, standard deviation, and means of the lowest and of the highest tenth (at least one) of ``(n,)`` values."""
    ordered = values.sort().values
    tenth = max(1, len(values) // 10)
    return {
        "mean": values.mean(),
        "std": values.std(correction=0),
        "worst_tenth": ordered[:tenth].mean(),
        "best_tenth": ordered[-tenth:].mean(),
    }
