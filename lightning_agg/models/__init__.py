"""Model factories: classes whose parameter ``num_classes``, or else the first one, is the number of classes.

The shape of the input is not told: lazy layers find it in the first call. Any ``nn.Module`` class of this form
can be trained; :func:`check_model` tells which layers a pool of workers cannot train. ``Quadratic`` and ``SoftmaxBias``
are problems with known answers, for ``LabelPool``.
"""

from lightning_agg.models.checks import check_model
from lightning_agg.models.conv_net import ConvNet
from lightning_agg.models.mlp import MLP
from lightning_agg.models.quadratic import Quadratic
from lightning_agg.models.resnet import ResNet
from lightning_agg.models.softmax_bias import SoftmaxBias

__all__ = ["MLP", "ConvNet", "Quadratic", "ResNet", "SoftmaxBias", "check_model"]
