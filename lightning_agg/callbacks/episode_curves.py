"""Shows how the aggregator in training does in whole episodes."""

from typing import TYPE_CHECKING

import lightning as L
import matplotlib.pyplot as plt
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_agg.callbacks.figures import curves_figure
from lightning_agg.errors import require

if TYPE_CHECKING:
    from lightning_agg.modules.base import PoolModule
    from lightning_agg.modules.meta_learner import MetaLearner


class EpisodeCurves(L.Callback):
    """Draws the episodes of ``MetaLearner``'s validation and test in TensorBoard, each beside its baselines."""

    def setup(self, trainer: L.Trainer, pl_module: "PoolModule", stage: str) -> None:  # type: ignore[override]
        """Check that there are episodes."""
        require(
            pl_module.validates_episodes,
            f"trainer.callbacks must not have an EpisodeCurves in {type(pl_module).__name__}, whose validation plays no episodes.",
        )

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: "MetaLearner") -> None:  # type: ignore[override]
        """Draw the validation."""
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: "MetaLearner") -> None:  # type: ignore[override]
        """Draw the test."""
        self._draw(trainer, pl_module, "test")

    def _draw(self, trainer: L.Trainer, pl_module: "MetaLearner", stage: str) -> None:
        # In a fit, where Lightning puts the figures of this validation.
        step = trainer.global_step - 1 if trainer.state.fn == "fit" else pl_module.trained_rounds
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                figure = curves_figure(pl_module.episodes, pl_module.largest_shown)
                logger.experiment.add_figure(f"{stage}/episodes", figure, global_step=step)
                plt.close(figure)
