"""The subset of given size with the smallest diameter, exactly.

Rows further apart than a threshold may not stay together: such pairs are the edges of a graph, and to drop at
most ``budget`` rows so that no edge is left is to find a vertex cover. Few covers have to be tried: a vertex
of more edges than the budget must go, a neighbour of a vertex with one edge may go, and otherwise either the
vertex of most edges goes or all its neighbours do. The number of trials may grow exponentially with the
budget, but does not depend on the number of subsets.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

Pair = tuple[int, int]


def smallest_diameter_subset(distances: Tensor, size: int) -> list[int]:
    """Distances ``(M, M)`` -> indices, ascending, of the ``size`` rows with the smallest largest distance.

    Of several such subsets it is the one with the smallest next largest distance, and so on: pairs are
    forbidden from the farthest on, and a pair without which no subset would be left is kept. Of equal
    distances, those between the highest indices are forbidden first.
    """
    graph = _Graph([0] * len(distances), alive=(1 << len(distances)) - 1, kept=0, size=size)
    pairs = _farthest_first(distances)
    while not graph.decided:
        limit = graph.budget * len(distances) + 1  # no cover of that size could drop more pairs
        pending = list(islice(filter(graph.is_open, pairs), limit))
        feasible, infeasible = 0, len(pending)
        while infeasible - feasible > 1:
            middle = (feasible + infeasible) // 2
            if graph.forbidding(pending[:middle]).has_subset():
                feasible = middle
            else:
                infeasible = middle
        graph = graph.forbidding(pending[:feasible]).keeping(pending[feasible])
    return list(_members(graph.kept if graph.kept.bit_count() == size else graph.alive))


@dataclass(frozen=True)
class _Graph:
    """Forbidden pairs, as one bit set of neighbours for each row, and what is decided of the rows."""

    forbidden: list[int]
    alive: int
    kept: int
    size: int

    @property
    def budget(self) -> int:
        """How many rows are still to be dropped."""
        return self.alive.bit_count() - self.size

    @property
    def decided(self) -> bool:
        return self.budget == 0 or self.kept.bit_count() == self.size

    def is_open(self, pair: Pair) -> bool:
        i, j = pair
        both = 1 << i | 1 << j
        return self.alive & both == both != self.kept & both and not self.forbidden[i] >> j & 1

    def forbidding(self, pairs: list[Pair]) -> "_Graph":
        forbidden = self.forbidden.copy()
        for i, j in pairs:
            forbidden[i] |= 1 << j
            forbidden[j] |= 1 << i
        return replace(self, forbidden=forbidden)

    def keeping(self, pair: Pair) -> "_Graph":
        """With the pair kept, and all that follows; no smaller budget may do, and not to forbid the pair."""
        graph = replace(self, kept=self.kept | 1 << pair[0] | 1 << pair[1])
        while True:
            alive, kept = graph.alive, graph.kept
            for row in _members(alive & ~kept):
                neighbors = self.forbidden[row] & alive
                if neighbors & kept or neighbors.bit_count() > alive.bit_count() - self.size:
                    alive ^= 1 << row
            for row in _members(alive & ~kept):
                if not self.forbidden[row] & alive:
                    kept |= 1 << row
            if (alive, kept) == (graph.alive, graph.kept):
                return graph
            graph = replace(graph, alive=alive, kept=kept)

    def has_subset(self) -> bool:
        """Whether ``size`` rows, all that are kept among them, contain no forbidden pair."""
        dropped = 0
        for row in _members(self.kept):
            dropped |= self.forbidden[row]
        dropped &= self.alive
        budget = self.budget - dropped.bit_count()
        return not dropped & self.kept and _has_cover(self.forbidden, self.alive & ~dropped, budget)


def _has_cover(graph: list[int], alive: int, budget: int) -> bool:
    """Whether at most ``budget`` of the vertices ``alive`` touch every edge between these."""
    while budget >= 0:
        degrees = {v: n for v in _members(alive) if (n := (graph[v] & alive).bit_count())}
        if not degrees:
            return True
        reach = sum(sorted(degrees.values(), reverse=True)[:budget])
        if 2 * reach < sum(degrees.values()):
            return False
        alive = sum(1 << v for v in degrees)
        leaf = next((v for v, degree in degrees.items() if degree == 1), None)
        top = max(degrees, key=degrees.__getitem__)
        if leaf is not None:
            alive &= ~graph[leaf]
        elif degrees[top] <= budget and _has_cover(graph, alive & ~graph[top], budget - degrees[top]):
            return True
        else:
            alive ^= 1 << top
        budget -= 1
    return False


def _members(rows: int) -> Iterator[int]:
    while rows:
        lowest = rows & -rows
        yield lowest.bit_length() - 1
        rows ^= lowest


def _farthest_first(distances: Tensor) -> list[Pair]:
    size = len(distances)
    i, j = torch.triu_indices(size, size, offset=1, device=distances.device).flip(1)
    order = distances[i, j].sort(descending=True, stable=True).indices
    return list(zip(i[order].tolist(), j[order].tolist(), strict=True))
