"""Fully connected networks."""

from typing import Literal

from torch import nn

from lightning_agg.errors import require_count

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "tanh": nn.Tanh}


class MLP(nn.Sequential):
    """Fully connected network on the flattened input.

    Reference:
        The default is the optimisee of Ji et al., "Learning to Learn Gradient Aggregation by Gradient
        Descent", IJCAI 2019: 784-20-10 with sigmoid on MNIST, 15,910 parameters.

    Args:
        num_classes: Number of outputs.
        hidden_sizes: Width of each hidden layer, 20 if not given; an empty list is logistic regression.
        activation: Nonlinearity after each hidden layer.

    Raises:
        SettingError: If a width is below 1.

    Example:
        >>> MLP(10, hidden_sizes=[128], activation="relu")(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        num_classes: int,
        hidden_sizes: list[int] | None = None,
        activation: Literal["sigmoid", "relu", "tanh"] = "sigmoid",
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for size in [20] if hidden_sizes is None else hidden_sizes:
            require_count("hidden_sizes", size, minimum=1)
            layers += [nn.LazyLinear(size), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.LazyLinear(num_classes))
