"""Rounds of the recurrent network without autograd: forward, and backpropagation through time by hand."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning_agg.aggregators.recurrent_network import RecurrentNetwork

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_MINUS_ONE = torch.tensor(-1.0)


class _Gates(NamedTuple):
    """A layer's gates in one round, or the cotangents of what they are functions of.

    Args:
        all: ``(4H, c)``.
        sigmoids: The first of them, which are sigmoids, ``(3H, c)`` (LSTM) or ``(2H, c)`` (GRU).
        blocks: ``(H, c)`` each: input, forget, output, proposal (LSTM); reset, update, proposal, and the hidden units' part
            of the latter (GRU).
    """

    all: Tensor
    sigmoids: Tensor
    blocks: tuple[Tensor, ...]


class _Step(NamedTuple):
    """What a layer computes in one round, as views of the window's buffers.

    Args:
        rows: ``(n + H + 1, c)``: the layer's input, its hidden units before the round, ones.
        input: The first n of these rows.
        before: Hidden units, and cell state (LSTM), before the round, ``(H, c)`` each.
        gates: Its gates.
        squashed: tanh of the new cell state (LSTM).
        after: As ``before``, after the round.
    """

    rows: Tensor
    input: Tensor
    before: tuple[Tensor, ...]
    gates: _Gates
    squashed: Tensor
    after: tuple[Tensor, ...]


class Window:
    """K rounds of up to ``width`` coordinates, in buffers that the next coordinates use again.

    All gates of a layer are one matrix product, ``(4H, n + H + 1) @ (n + H + 1, c)``, and so is the gradient of its
    weights.

    Args:
        network: Whose weights are used, as they are now.
        rounds: Rounds K.
        width: Most coordinates at once.
    """

    def __init__(self, network: "RecurrentNetwork", rounds: int, width: int) -> None:
        self.lstm = network.cell == "lstm"
        self.size = network.hidden_size
        self.output = network.output.detach()
        self.output_bias = network.output_bias.detach()
        parts = zip(network.from_input, network.from_hidden, network.bias, strict=True)
        self.plain = [self._packed(*(part.detach() for part in layer)) for layer in parts]
        self.weights = [weights.clone() for weights in self.plain]
        if self.lstm:
            for weights in self.weights:
                weights[3 * self.size :] *= 2  # tanh(z) = 2 sigmoid(2z) - 1: one sigmoid for all gates
        self.output_sum = torch.zeros_like(self.output)
        self.output_bias_sum = torch.zeros_like(self.output_bias)
        self.sums = [torch.zeros_like(weights.T) for weights in self.weights]
        shapes: list[tuple[int, int]] = []
        for weights in self.weights:
            shapes += [
                (rounds + 1, weights.shape[1]),
                (rounds, 4 * self.size),
                (rounds + 1, self.size * self.lstm),
                (rounds, self.size * self.lstm),
            ]
        # One block, which the allocator keeps from window to window; it gives many smaller ones back.
        block = self.output.new_empty(sum(k * height for k, height in shapes), width)
        split = block.split_with_sizes([k * height for k, height in shapes])
        buffers = [part.view(*shape, width) for part, shape in zip(split, shapes, strict=True)]
        self.buffers = [buffers[i : i + 4] for i in range(0, len(buffers), 4)]
        for rows, *_ in self.buffers:
            rows[:, -1] = 1
        self.steps_of_width: dict[int, list[list[_Step]]] = {}

    @torch.inference_mode()
    def forward(self, inputs: Sequence[Tensor], memory: Tensor) -> None:
        """Run the network on K inputs ``(n, c)``, from ``(state_size, c)``."""
        self.steps = self._steps(memory.shape[1])
        before = [part for step in self.steps[0] for part in step.before]
        for part, value in zip(before, memory.chunk(len(before)), strict=True):
            part.copy_(value)
        apply = _lstm if self.lstm else _gru
        for x, steps in zip(inputs, self.steps, strict=True):
            for weights, step in zip(self.weights, steps, strict=True):
                step.input.copy_(x)
                torch.mm(weights, step.rows, out=step.gates.all)
                apply(step)
                x = step.after[0]

    @torch.inference_mode()
    def once(self, inputs: Tensor, memory: Tensor, output: Tensor) -> None:
        """One round of ``(n, c)`` inputs: writes the output ``(c,)``, and the memory ``(state_size, c)`` in place."""
        steps = self._steps(memory.shape[1])[0]
        apply = _lstm if self.lstm else _gru
        x, states = inputs, memory.chunk(len(self.weights))
        for weights, step, state in zip(self.weights, steps, states, strict=True):
            parts = state.chunk(2) if self.lstm else (state,)
            step.input.copy_(x)
            step.rows[-self.size - 1 : -1].copy_(parts[0])
            torch.mm(weights, step.rows, out=step.gates.all)
            apply(step._replace(before=parts, after=parts))
            x = parts[0]
        if len(self.output) == 1:
            torch.addmm(self.output_bias, self.output, x, out=output[None])
            return
        outputs = torch.addmm(self.output_bias, self.output, x)
        outputs[1:].mul_(direct_inputs(inputs, self.output))
        torch.sum(outputs, dim=0, out=output)

    @torch.inference_mode()
    def backward(self, cotangents: Tensor) -> None:
        """Add up the gradient of the sum of ``cotangents`` ``(K, c)`` times the outputs, after :meth:`forward`."""
        apply = _lstm_backward if self.lstm else _gru_backward
        size, (height, count) = self.size, self.steps[0][0].gates.all.shape
        by_hidden = self.output.new_zeros(len(self.plain) * size, count)
        # Of a layer: what its gates have read of the hidden units, those of the layer below it and its own.
        read = [by_hidden[max(layer - 1, 0) * size : (layer + 1) * size] for layer in range(len(self.plain))]
        to_hidden = [
            weights[:, -len(part) - 1 : -1].T.contiguous()
            for weights, part in zip(self.plain, read, strict=True)
        ]
        by_state = [
            (part[-size:], *map(torch.zeros_like, step.before[1:]))
            for part, step in zip(read, self.steps[0], strict=True)
        ]
        by_gates = self._gates(by_hidden.new_empty(height, count))
        by_outputs = cotangents[:, None]
        if len(self.output) > 1:
            factors = torch.stack([direct_inputs(steps[0].input, self.output) for steps in self.steps])
            by_outputs = torch.cat([by_outputs, factors * by_outputs], dim=1)
        self.output_bias_sum.add_(by_outputs.sum(dim=(0, 2))[:, None])
        for by_output, steps in zip(by_outputs.flip(0), reversed(self.steps), strict=True):
            by_state[-1][0].addmm_(self.output.T, by_output)
            self.output_sum.addmm_(by_output, steps[-1].after[0].T)
            for layer in range(len(steps) - 1, -1, -1):
                apply(steps[layer], by_state[layer], by_gates)
                read[layer].addmm_(to_hidden[layer], by_gates.all)
                # Transposed, it takes a quarter less time.
                self.sums[layer].addmm_(steps[layer].rows, by_gates.all.T)

    def gradients(self) -> list[Tensor]:
        """What :meth:`backward` has added up since the last call, for each of the network's ``parameters()``."""
        totals = [self.output_sum, self.output_bias_sum, *self.sums]
        output, output_bias, *sums = [total.clone() for total in totals]
        for total in totals:
            total.zero_()
        size, gates = self.size, torch.arange(4 * self.size)
        of_input = gates if self.lstm else gates[: 3 * size]
        of_hidden = gates if self.lstm else torch.cat([gates[: 2 * size], gates[3 * size :]])
        sums = [total.T for total in sums]
        return [
            output,
            output_bias,
            *[total[of_input, : -size - 1] for total in sums],
            *[total[of_hidden, -size - 1 : -1] for total in sums],
            *[total[of_input, -1:] for total in sums],
        ]

    def _packed(self, from_input: Tensor, from_hidden: Tensor, bias: Tensor) -> Tensor:
        """All weights of a layer, ``(4H, n + H + 1)``."""
        whole = torch.cat([from_input, from_hidden, bias], dim=1)
        if self.lstm:
            return whole
        of_hidden = slice(-self.size - 1, -1)
        proposal, hidden_part = whole[2 * self.size :].clone(), torch.zeros_like(whole[2 * self.size :])
        hidden_part[:, of_hidden] = proposal[:, of_hidden]
        proposal[:, of_hidden] = 0
        return torch.cat([whole[: 2 * self.size], proposal, hidden_part])

    def _gates(self, gates: Tensor) -> _Gates:
        return _Gates(gates, gates[: (3 if self.lstm else 2) * self.size], gates.chunk(4))

    def _steps(self, width: int) -> list[list[_Step]]:
        """What is computed in each round and layer, of so many coordinates."""
        if width not in self.steps_of_width:
            self.steps_of_width[width] = self._views(width)
        return self.steps_of_width[width]

    def _views(self, width: int) -> list[list[_Step]]:
        layers = []
        for buffers in self.buffers:
            rows, gates, cells, squashed = (buffer[..., :width] for buffer in buffers)
            states = [
                (row[-self.size - 1 : -1], *([cell] if self.lstm else []))
                for row, cell in zip(rows, cells, strict=True)
            ]
            layers.append(
                [
                    _Step(row, row[: -self.size - 1], before, self._gates(gate), tanh, after)
                    for row, gate, tanh, (before, after) in zip(
                        rows[:-1], gates, squashed, pairwise(states), strict=True
                    )
                ]
            )
        return [list(steps) for steps in zip(*layers, strict=True)]


def direct_inputs(inputs: Tensor, output: Tensor) -> Tensor:
    """Those of the inputs ``(n, c)`` that the network's output multiplies directly: as many as its rows after the first."""
    return inputs[len(inputs) - len(output) + 1 :]


def _lstm(step: _Step) -> None:
    (_, cell), (new_hidden, new_cell) = step.before, step.after
    ingate, forget, outgate, proposed = step.gates.blocks
    step.gates.all.sigmoid_()
    torch.add(_MINUS_ONE, proposed, alpha=2, out=proposed)
    torch.mul(forget, cell, out=new_cell).addcmul_(ingate, proposed)
    torch.mul(outgate, _tanh(new_cell, out=step.squashed), out=new_hidden)


def _lstm_backward(step: _Step, by_state: tuple[Tensor, ...], by_gates: _Gates) -> None:
    by_hidden, by_cell = by_state
    ingate, forget, outgate, proposed = step.gates.blocks
    by_ingate, by_forget, by_outgate, by_proposed = by_gates.blocks
    torch.mul(by_hidden, step.squashed, out=by_outgate)
    # By tanh' = 1 - tanh^2, with the new hidden units, which are outgate * tanh.
    by_cell.addcmul_(by_hidden, outgate).addcmul_(by_outgate, step.after[0], value=-1)
    by_hidden.zero_()  # all that depends on them is in by_gates
    torch.mul(by_cell, proposed, out=by_ingate)
    torch.mul(by_cell, step.before[1], out=by_forget)
    torch.mul(by_cell, ingate, out=by_proposed)
    by_cell.mul_(forget)
    _sigmoid_backward(by_gates.sigmoids, step.gates.sigmoids, grad_input=by_gates.sigmoids)
    _tanh_backward(by_proposed, proposed, grad_input=by_proposed)


def _gru(step: _Step) -> None:
    (hidden,), (new_hidden,) = step.before, step.after
    reset, update, proposed, from_hidden = step.gates.blocks
    step.gates.sigmoids.sigmoid_()
    _tanh(proposed.addcmul_(reset, from_hidden), out=proposed)
    torch.lerp(proposed, hidden, update, out=new_hidden)


def _gru_backward(step: _Step, by_state: tuple[Tensor, ...], by_gates: _Gates) -> None:
    (by_hidden,), (hidden,) = by_state, step.before
    reset, update, proposed, from_hidden = step.gates.blocks
    by_reset, by_update, by_proposed, by_from_hidden = by_gates.blocks
    torch.sub(hidden, proposed, out=by_update).mul_(by_hidden)
    torch.mul(by_hidden, update, out=by_from_hidden)
    torch.sub(by_hidden, by_from_hidden, out=by_proposed)
    by_hidden.copy_(by_from_hidden)
    _tanh_backward(by_proposed, proposed, grad_input=by_proposed)
    torch.mul(by_proposed, from_hidden, out=by_reset)
    torch.mul(by_proposed, reset, out=by_from_hidden)
    _sigmoid_backward(by_gates.sigmoids, step.gates.sigmoids, grad_input=by_gates.sigmoids)


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    # A sixth of the time of torch.tanh on a CPU.
    torch.add(x, x, out=out).sigmoid_()
    return torch.add(_MINUS_ONE, out, alpha=2, out=out)
