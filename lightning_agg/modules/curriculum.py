"""Which horizon an aggregator is trained on."""

from torch import Tensor, nn, tensor


class Curriculum(nn.Module):
    """Horizons in increasing order, each kept until validation at the next one stops improving.

    Its state is in buffers, so a resumed run goes on in the middle of a stage.

    Reference:
        Chen et al., *Training Stronger Baselines for Learning to Optimize*, NeurIPS 2020, section 3.1.

    Args:
        horizons: Rounds of an episode, stage by stage.
        patience: Validations without improvement after which the next stage begins.
    """

    stage: Tensor
    best_loss: Tensor
    waited: Tensor

    def __init__(self, horizons: list[int], patience: int) -> None:
        super().__init__()
        self.horizons = horizons
        self.patience = patience
        self.register_buffer("stage", tensor(0))
        self.register_buffer("best_loss", tensor(float("inf")))
        self.register_buffer("waited", tensor(0))

    @property
    def horizon(self) -> int:
        """Rounds of a training episode."""
        return self.horizons[int(self.stage)]

    @property
    def next_horizon(self) -> int:
        """Rounds up to which the aggregator is judged: those of the next stage, in the last one its own."""
        return self.horizons[min(int(self.stage) + 1, len(self.horizons) - 1)]

    def observe(self, loss: Tensor) -> None:
        """Take in the loss of a validation; one that is not finite neither improves nor counts."""
        if int(self.stage) == len(self.horizons) - 1 or not bool(loss.isfinite()):
            return
        if loss < self.best_loss:
            self.best_loss.copy_(loss)
            self.waited.zero_()
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.stage += 1
            self.best_loss.fill_(float("inf"))
            self.waited.zero_()
