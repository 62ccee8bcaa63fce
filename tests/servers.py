"""Servers trained in this process, without the command line."""

import lightning as L

from lightning_agg.aggregators import Mean
from lightning_agg.modules import ParameterServer


def quiet_trainer(rounds, callbacks=(), precision="32-true"):
    return L.Trainer(
        max_steps=rounds, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), limit_val_batches=0, use_distributed_sampler=False, precision=precision,
    )  # fmt: skip


def fit(rounds, data, callbacks=(), precision="32-true", **settings):
    server = ParameterServer(**{"aggregator": Mean(), "gradient_samples": 0, **settings})
    quiet_trainer(rounds, callbacks, precision).fit(server, datamodule=data)
    return server
