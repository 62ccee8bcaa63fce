"""Compresses what every worker sends."""

from typing import TYPE_CHECKING, Any

import lightning as L
from torch import Tensor

from lightning_agg import flat, seeding
from lightning_agg.callbacks.base import PoolCallback
from lightning_agg.compressors.base import CompressionContext, Compressor
from lightning_agg.data.pool import RoundBatch
from lightning_agg.errors import require

if TYPE_CHECKING:
    from lightning_agg.modules.base import PoolModule


class GradientCompression(PoolCallback):
    """Sends every worker's row through a lossy code, after the noise and before any attack.

    So a server sees compressed rows from honest workers, and whatever they like from Byzantine ones. ``pool/bits`` in
    the log is what the workers of the round would send together.

    Args:
        compressor: The code; floats as they are when null.
        seed: Seed of random rounding; the run's seed when null.
    """

    def __init__(self, compressor: Compressor | None = None, seed: int | None = None) -> None:
        require(
            compressor is None or isinstance(compressor, Compressor),
            f"compression.compressor must be a compressor, got {compressor!r}.",
        )
        self.compressor = compressor
        self.seed = seeding.run_seed(seed)

    def setup(self, trainer: L.Trainer, pl_module: "PoolModule", stage: str) -> None:  # type: ignore[override]
        """Check that the module compresses, and let the compressor forget an earlier training."""
        require(
            self.compressor is None or pl_module.rounds_in_order,
            f"compression.compressor must be null in {type(pl_module).__name__}, got {type(self.compressor).__name__}.",
        )
        # What a checkpoint remembers is loaded after this.
        if self.compressor is not None and stage == "fit" and trainer.global_step == 0:
            self.compressor.load_state_dict({})

    def on_compression(
        self, trainer: L.Trainer, pl_module: "PoolModule", gradients: Tensor, batch: RoundBatch
    ) -> Tensor:
        """The rows as the server decodes them."""
        if self.compressor is None:
            return gradients
        sizes = tuple(p.numel() for p in flat.trainable(pl_module.model).values())
        pl_module.log_pool({"pool/bits": self.compressor.bits(sizes) * len(batch.workers)}, batch)
        context = CompressionContext(batch.round, self.seed, batch.workers, sizes)
        return self.compressor(gradients, context)

    def state_dict(self) -> dict[str, Any]:
        """What the compressor remembers."""
        memory = {} if self.compressor is None else self.compressor.state_dict()
        return {"compressor": type(self.compressor).__name__, "memory": memory} if memory else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the compressor go on; one of another class than in the checkpoint begins anew."""
        if self.compressor is not None and type(self.compressor).__name__ == state_dict["compressor"]:
            self.compressor.load_state_dict(state_dict["memory"])
