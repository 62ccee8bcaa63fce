"""Robust and learned gradient aggregation over a simulated pool of untrusted workers.

The tour: a ``data`` module divides a data set among the workers by a ``partitioner``; a
:class:`~lightning_agg.modules.ParameterServer` lets every worker compute a gradient, callbacks add noise and attacks,
an ``aggregator`` makes one vector of the rows, and the server's optimizer descends it.

Symbols used in shapes and formulas:

====== =======================================================
M      workers of the pool (``pool_size``)
m      workers simulated by this process
f      Byzantine workers (``num_byzantine``)
d      coordinates: trainable parameters of the model
B      samples in a worker's batch
L      local steps of a worker in a round
C      classes
t      round, from 0
θ      global parameters, ``(d,)``
====== =======================================================

Aggregators, attacks and partitioners are plain torch and numpy: ``Krum(num_byzantine=3)(gradients)`` works on any
``(M, d)`` tensor.
"""

from lightning_agg import aggregators, attacks, partitioners, preaggregators

__version__ = "0.1.0"

__all__ = ["aggregators", "attacks", "partitioners", "preaggregators"]
