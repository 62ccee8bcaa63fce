"""What a worker sends instead of d floats: (M, d) in, (M, d) out, in fewer bits.

``QSGD(levels=4)(gradients)`` works on any ``(M, d)`` tensor; in a run, ``--compression.compressor`` takes one.
"""

from lightning_agg.compressors.base import CompressionContext, Compressor
from lightning_agg.compressors.error_feedback_sign import ErrorFeedbackSign
from lightning_agg.compressors.qsgd import QSGD
from lightning_agg.compressors.tern_grad import TernGrad

__all__ = ["QSGD", "CompressionContext", "Compressor", "ErrorFeedbackSign", "TernGrad"]
