"""The recurrent network of the learned aggregators, applied to every coordinate alike."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_agg.aggregators.recurrent_window import Window, direct_inputs

Cell = Literal["lstm", "gru"]

CACHED = 1000
"""Coordinates at once: few enough for their gates to stay in a CPU's cache, and no power of two, so that the rows do too."""


class RecurrentNetwork(nn.Module):
    r"""Stacked LSTM or GRU cells and linear outputs, shared by all coordinates.

    The output is :math:`o_0 + \sum_k o_k x_k`, where the :math:`o` are linear in the last layer's hidden units and the
    :math:`x_k` are the last ``direct`` inputs: those pass by the cells, which set their factors.

    Features come first and coordinates last, ``(features, d)``: every gate is then one matrix product over all
    coordinates, and any subset of the columns can be computed alone.

    Reference:
        Hochreiter and Schmidhuber, *Long short-term memory*, Neural Computation 1997; Cho et al., *Learning phrase
        representations using RNN encoder-decoder*, EMNLP 2014. The forget gate's bias starts at 1, and the output layer
        at a tenth of the usual size, so that the output of an untrained network is near minus the mean of the direct
        inputs, or near 0 without.

    Args:
        input_size: Features n of a coordinate.
        cell: ``lstm`` or ``gru``.
        hidden_size: Hidden units H of a layer.
        num_layers: Layers.
        direct: How many inputs, the last ones, the output multiplies directly.
    """

    def __init__(
        self,
        input_size: int,
        cell: Cell = "lstm",
        hidden_size: int = 20,
        num_layers: int = 2,
        direct: int = 0,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.hidden_size = hidden_size
        gates = {"lstm": 4, "gru": 3}[cell]
        sizes = [input_size, *[hidden_size] * (num_layers - 1)]
        bound = 1 / math.sqrt(hidden_size)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.from_input = nn.ParameterList([uniform(gates * hidden_size, size) for size in sizes])
        self.from_hidden = nn.ParameterList([uniform(gates * hidden_size, hidden_size) for _ in sizes])
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(gates * hidden_size, 1)) for _ in sizes])
        self.output = nn.Parameter(0.1 * uniform(1 + direct, hidden_size).detach())
        self.output_bias = nn.Parameter(torch.zeros(1 + direct, 1))
        if direct > 0:
            self.output_bias.data[1:] = -1 / direct
        if cell == "lstm":
            for bias in self.bias:
                bias.data[hidden_size : 2 * hidden_size] = 1

    @property
    def state_size(self) -> int:
        """Numbers remembered per coordinate: hidden and cell state of every layer (LSTM), or the hidden ones (GRU)."""
        return (2 if self.cell == "lstm" else 1) * self.hidden_size * len(self.bias)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: ``(n, c)`` and ``(state_size, c)`` -> ``(c,)`` and ``(state_size, c)``."""
        if torch.is_grad_enabled():
            return self._step(inputs, state)
        after = state.clone()
        return self.step_(inputs, after), after

    def step_(self, inputs: Tensor, state: Tensor, workspace: Window | None = None) -> Tensor:
        """:meth:`forward` without a graph, in place: ``(n, c)`` -> ``(c,)``, and ``state`` ``(state_size, c)`` becomes that after it.

        A ``workspace`` of :meth:`workspace` saves making it, while the weights stay as they were then.
        """
        if inputs.device.type != "cpu":
            output, after = self._step(inputs, state)
            state.copy_(after)
            return output
        count = inputs.shape[1]
        output = inputs.new_empty(count)
        window = workspace or self.workspace(count)
        for start in range(0, count, CACHED):
            columns = slice(start, start + CACHED)
            window.once(inputs[:, columns], state[:, columns], output[columns])
        return output

    def workspace(self, count: int) -> Window:
        """What :meth:`step_` needs for ``count`` columns."""
        return Window(self, rounds=1, width=min(CACHED, count))

    def _step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        step = self._lstm if self.cell == "lstm" else self._gru
        parts = state.chunk(len(self.bias))
        x, after = inputs, []
        for layer, part in enumerate(parts):
            x, remembered = step(layer, x, part)
            after.append(remembered)
        outputs = torch.addmm(self.output_bias, self.output, x)
        return outputs[0] + (outputs[1:] * direct_inputs(inputs, self.output)).sum(dim=0), torch.cat(after)

    def _lstm(self, layer: int, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = state.chunk(2)
        z = torch.addmm(self.bias[layer], self.from_input[layer], x)
        z = torch.addmm(z, self.from_hidden[layer], hidden)
        size = self.hidden_size
        ingate, forget, outgate = z[: 3 * size].sigmoid().chunk(3)
        cell = forget * cell + ingate * _tanh(z[3 * size :])
        hidden = outgate * _tanh(cell)
        return hidden, torch.cat([hidden, cell])

    def _gru(self, layer: int, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        size = self.hidden_size
        a = torch.addmm(self.bias[layer], self.from_input[layer], x)
        b = self.from_hidden[layer] @ state
        reset, update = (a[: 2 * size] + b[: 2 * size]).sigmoid().chunk(2)
        proposed = _tanh(a[2 * size :] + reset * b[2 * size :])
        hidden = proposed + update * (state - proposed)
        return hidden, hidden


def _tanh(x: Tensor) -> Tensor:
    # A sixth of the time of torch.tanh on a CPU.
    return 2 * torch.sigmoid(2 * x) - 1
