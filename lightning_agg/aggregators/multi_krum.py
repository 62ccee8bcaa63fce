"""Multi-Krum."""

from lightning_agg.aggregators.krum import Krum, Neighbors, Power
from lightning_agg.errors import require, require_count


class MultiKrum(Krum):
    r"""Mean of the :math:`m` rows with the best :class:`Krum` scores.

    Cost: :math:`O(M^2 d)`, and memory for :math:`M^2` distances.

    Breakdown: :math:`f`, as of :class:`Krum`.

    Reference:
        Blanchard et al., `Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent
        <https://papers.nips.cc/paper/6617>`_, NeurIPS 2017, Section 5. The default :math:`m = M - f - 2` is
        that of El Mhamdi et al., `The Hidden Vulnerability of Distributed Learning in Byzantium
        <https://arxiv.org/abs/1802.07927>`_, ICML 2018; ByzFL takes :math:`m = M - f`. A larger :math:`m`
        would have to include a Byzantine row and is refused.

    Args:
        num_byzantine: Number :math:`f` of Byzantine workers, at least 0; the pool must satisfy
            :math:`2 f + 2 < M`.
        num_selected: Number :math:`m` of rows averaged, from 1 to :math:`M - f`; :math:`M - f - 2` when
            ``None``. Fewer are averaged if fewer finite rows arrive.
        neighbors: Number of neighbours, a row not counted as its own: ``paper``, :math:`M - f - 2`, or
            ``byzfl``, :math:`M - f - 1` (ByzFL, Garfield).
        power: Exponent of the distances in the score: 2, squared as in the paper, or 1 (Garfield, TorchJD).

    Raises:
        ValueError: If an argument is not as above, or a number is too large for the pool when called.

    Example:
        >>> MultiKrum(num_byzantine=1)(torch.tensor([[1.0], [1.5], [1.75], [2.5], [9.0]]))
        tensor([1.6250])
    """

    def __init__(
        self,
        num_byzantine: int,
        num_selected: int | None = None,
        neighbors: Neighbors = "paper",
        power: Power = 2,
    ) -> None:
        super().__init__(num_byzantine, neighbors, power)
        if num_selected is not None:
            require_count("num_selected", num_selected, minimum=1)
        self.num_selected = num_selected

    def check(self, pool_size: int) -> None:
        """Require 2 f + 2 < M and m <= M - f."""
        super().check(pool_size)
        m, f = self.num_selected, self.num_byzantine
        require(
            m is None or m <= pool_size - f,
            f"MultiKrum: num_selected must satisfy m <= M - f (m = {m}, f = {f}, M = {pool_size}).",
        )

    def _num_selected(self, size: int, num_byzantine: int) -> int:
        return self.num_selected or max(size - num_byzantine - 2, 1)
