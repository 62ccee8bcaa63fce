"""Writes what the model predicts."""

import csv
from typing import TYPE_CHECKING

import lightning as L
from torch import Tensor

if TYPE_CHECKING:
    from lightning_agg.modules.base import PoolModule


class PredictionTable(L.Callback):
    """Writes ``predictions.csv`` to the run's folder: index, label, predicted class and its probability."""

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin an empty table."""
        self._rows: list[tuple[int, int, float]] = []

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: dict[str, Tensor],
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the best class of each image."""
        best = outputs["probabilities"].max(dim=1)
        self._rows += zip(outputs["label"].tolist(), best.indices.tolist(), best.values.tolist(), strict=True)

    def on_predict_end(self, trainer: L.Trainer, pl_module: "PoolModule") -> None:  # type: ignore[override]
        """Write the table; every process predicts all samples, the first one writes."""
        path = pl_module.run_folder / "predictions.csv"  # broadcast: asked in every process
        if not trainer.is_global_zero:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["index", "label", "predicted", "probability"])
            for index, (label, predicted, probability) in enumerate(self._rows):
                writer.writerow([index, label, predicted, f"{probability:.6g}"])
        print(f"predictions: {path}")
