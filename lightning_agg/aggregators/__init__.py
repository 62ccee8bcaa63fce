"""Aggregators: the rows of M workers, ``(M, d)``, in; the vector that the server descends, ``(d,)``, out.

>>> gradients = torch.tensor([[1.0, 2.0], [1.5, 2.0], [2.0, 2.5], [1.0, 3.0], [-1e9, 1e9]])
>>> CoordinateMedian()(gradients)
tensor([1.0000, 2.5000])
>>> Krum(num_byzantine=1).influence(gradients)
tensor([0., 1., 0., 0., 0.])

Coordinate by coordinate: :class:`CoordinateMedian`, :class:`TrimmedMean`, :class:`Meamed`,
:class:`Phocas`, :class:`SignMajority`. Whole rows, by their distances: :class:`Krum`, :class:`MultiKrum`,
:class:`MinimumDiameterAveraging`, :class:`MoNNA`, :class:`GeometricMedian`, and, with memory,
:class:`CenteredClipping`; both: :class:`Bulyan`. By their length: :class:`CGE`. By the directions in which they
spread: :class:`SMEA`, :class:`CAF`, :class:`DnC`. By the server's public data: :class:`Zeno`, :class:`FLTrust`,
:class:`LossWeightedMean`. :class:`PreAggregated` puts pre-aggregators before any of them; :class:`External` is a rule
of another library.
:class:`Mean` is the baseline. To write your own, see :class:`Aggregator`.
"""

from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.bulyan import Bulyan
from lightning_agg.aggregators.caf import CAF
from lightning_agg.aggregators.centered_clipping import CenteredClipping
from lightning_agg.aggregators.cge import CGE
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.coordinate_median import CoordinateMedian
from lightning_agg.aggregators.dnc import DnC
from lightning_agg.aggregators.external import External
from lightning_agg.aggregators.fl_trust import FLTrust
from lightning_agg.aggregators.geometric_median import GeometricMedian
from lightning_agg.aggregators.krum import Krum
from lightning_agg.aggregators.loss_weighted_mean import LossWeightedMean
from lightning_agg.aggregators.meamed import Meamed
from lightning_agg.aggregators.mean import Mean
from lightning_agg.aggregators.minimum_diameter_averaging import MinimumDiameterAveraging
from lightning_agg.aggregators.monna import MoNNA
from lightning_agg.aggregators.multi_krum import MultiKrum
from lightning_agg.aggregators.phocas import Phocas
from lightning_agg.aggregators.pre_aggregated import PreAggregated
from lightning_agg.aggregators.recurrent import Recurrent
from lightning_agg.aggregators.selecting_aggregator import SelectingAggregator
from lightning_agg.aggregators.sign_majority import SignMajority
from lightning_agg.aggregators.smea import SMEA
from lightning_agg.aggregators.trimmed_mean import TrimmedMean
from lightning_agg.aggregators.weighted_aggregator import WeightedAggregator
from lightning_agg.aggregators.zeno import Zeno

__all__ = [
    "CAF",
    "CGE",
    "SMEA",
    "Aggregator",
    "Bulyan",
    "CenteredClipping",
    "Context",
    "CoordinateMedian",
    "DnC",
    "External",
    "FLTrust",
    "GeometricMedian",
    "Krum",
    "LossWeightedMean",
    "Meamed",
    "Mean",
    "MinimumDiameterAveraging",
    "MoNNA",
    "MultiKrum",
    "Phocas",
    "PreAggregated",
    "Recurrent",
    "SelectingAggregator",
    "SignMajority",
    "TrimmedMean",
    "WeightedAggregator",
    "Zeno",
]
