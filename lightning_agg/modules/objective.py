"""Gradients of the objective itself, on the workers' whole shards."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_agg.data.pool import WorkerPool
from lightning_agg.data.samples import as_precise
from lightning_agg.flat import trainable
from lightning_agg.losses import sample_losses


def worker_objective_gradients(
    model: nn.Module,
    pool: WorkerPool,
    workers: Sequence[int],
    num_samples: int | Literal["full"],
    batch_size: int,
) -> Tensor:
    """``(len(workers), d)``: gradient of the mean loss on the shard of each of ``workers``, without augmentation.

    The mean of the rows is the gradient of the global objective, in which every worker counts the same.

    Args:
        model: The global model.
        pool: The workers' data.
        workers: Pool-wide indices.
        num_samples: Only the first so many samples of each shard; ``"full"``: all.
        batch_size: Samples in memory at once.
    """
    parameters = list(trainable(model).values())
    device = pool.data.labels.device
    rows = []
    with torch.inference_mode(False), torch.enable_grad():
        for worker in workers:
            shard = pool.shards[worker][: None if num_samples == "full" else num_samples]
            row = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=device)
            for indices in torch.split(torch.from_numpy(shard).to(device), batch_size):
                inputs, labels = pool.data.read(indices)
                losses = sample_losses(model)(model(as_precise(inputs, row.dtype)), labels)
                loss = losses.sum() / len(shard)
                row += torch.cat(
                    [g.flatten() for g in torch.autograd.grad(loss, parameters, materialize_grads=True)]
                )
            rows.append(row)
    return torch.stack(rows)
