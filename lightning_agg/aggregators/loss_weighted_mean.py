"""The mean weighted by trial losses."""

import torch
from torch import Tensor

from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.weighted_aggregator import WeightedAggregator
from lightning_agg.errors import require_count, require_positive


class LossWeightedMean(WeightedAggregator):
    r"""Mean of the rows, weighted by how far a trial step along each lowers the server's loss.

    The descent of a row is :math:`\delta_i = f_r(\theta) - f_r(\theta - \gamma g_i)`, :math:`f_r` the mean loss on
    :math:`n_r` fresh public samples, and its weight the Boltzmann weight
    :math:`w_i \propto \exp(\beta (\delta_i / \max_j \delta_j - 1))`. A row whose trial loss is not finite has no weight.
    Where no row lowers the loss, the aggregate is zero: no step is taken.

    If the loss is convex, the step :math:`\gamma` along the aggregate lowers it by at least
    :math:`(1 - \log M / \beta)` times the best descent, whatever the other rows are. What the public loss does not see,
    such as a parameter that no public sample reaches, the attackers may set.

    Cost: :math:`O(M d)`, and :math:`M + 1` losses on :math:`n_r` samples.

    Breakdown: unknown: what is bounded is the public loss, not the distance. :math:`M - 1` where a loss must grow with the
    distance, as a quadratic one; cross entropy need not: a common shift of all output biases, as long as you like, changes nothing in it.

    Reference:
        Guo, Ye, Xiao and Zhu, `Weighted Aggregating Stochastic Gradient Descent for Parallel Deep Learning
        <https://arxiv.org/abs/2004.03749>`_, IEEE TKDE 2022: the Boltzmann weights of WASGD+, there of the losses that the
        workers report, divided by their sum. Byzantine workers lie about theirs, and with one huge loss among them the
        quotients say nothing of the others; so the losses are the server's, in units of the best descent.

    Args:
        sharpness: :math:`\beta`, positive: near 0 the plain mean, large the best row alone.
        step_size: Length :math:`\gamma` of the trial step, positive.
        num_samples: Number :math:`n_r` of public samples that the losses are averaged over, at least 1.

    Raises:
        SettingError: If an argument is not as above, or if the server has no public data.

    Example:
        >>> losses = lambda parameters, num_samples: parameters.square().sum(dim=1)
        >>> context = Context(parameters=lambda: torch.tensor([1.0]), public_losses=losses)
        >>> LossWeightedMean()(torch.tensor([[1.0], [1.0], [-1.0], [-1e9]]), context)
        tensor([1.])
    """

    def __init__(self, sharpness: float = 10.0, step_size: float = 0.1, num_samples: int = 12) -> None:
        super().__init__()
        require_positive("sharpness", sharpness)
        require_positive("step_size", step_size)
        require_count("num_samples", num_samples, minimum=1)
        self.sharpness = sharpness
        self.step_size = step_size
        self.public_samples = num_samples

    def weights(self, gradients: Tensor, context: Context) -> Tensor:
        """The Boltzmann weights; all 0 where no row lowers the loss."""
        descents = context.descents(gradients, self.step_size, self.public_samples).double()
        descents = torch.where(descents.isfinite(), descents, -torch.inf)
        best = descents.max()
        if not bool(best > 0):
            return torch.zeros_like(descents)
        return torch.softmax(self.sharpness * (descents / best), dim=0)

    def breakdown_point(self, pool_size: int) -> None:
        """Unknown: that depends on the loss."""
        self.check(pool_size)
