"""The learned aggregators."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_agg import pretrained, seeding
from lightning_agg.aggregators import line_search
from lightning_agg.aggregators.base import Aggregator
from lightning_agg.aggregators.context import Context
from lightning_agg.aggregators.recurrent_network import Cell, RecurrentNetwork
from lightning_agg.aggregators.recurrent_settings import (
    ARCHITECTURE,
    merged,
    read_weights,
    widens,
    write_weights,
)
from lightning_agg.aggregators.seen import Seen
from lightning_agg.aggregators.trust_judge import JudgePanel
from lightning_agg.aggregators.worker_features import Clamp, Order, Scale, Trust, WorkerFeatures
from lightning_agg.aggregators.worker_trust import bounded, positive
from lightning_agg.errors import SettingError, require
from lightning_agg.memory import put_buffer

JUDGES = "judges."
"""What the names of the judges' weights begin with in a file."""


class Recurrent(Aggregator):
    r"""A recurrent network that was trained to aggregate: RNN, and with ``loss_information`` ARNN.

    Every coordinate i has a network state of its own and the same network. Its inputs are the workers' gradients
    :math:`g_{m,i} / A_i`, for ARNN also how much a trial step along each worker's gradient lowers the loss on the server's
    public data; its output :math:`o_i` makes the update :math:`\theta_i \leftarrow \theta_i + s A_i o_i`. The aggregate is
    minus that update: run it with ``torch.optim.SGD`` and lr 1. ``MetaLearner`` trains it.

    Each setting that is null is that of the weights, or without weights the value in brackets. Those of the step size
    (``output_scale``, ``normalization``, ``decay_after``, ``batch_scaling``, ``batch_decay``, ``line_search``) and of trust (``trust``, ``trust_decay``,
    ``trust_margin``, ``direction_decay``, ``direction_margin``, ``distrust_copies``, ``length_limit``, ``trust_horizon``, ``trust_floor``, ``merge_copies``, ``early_samples``, ``num_samples``, ``trial_step``) may differ from those of the weights. An RNN's weights serve an ARNN too, which begins by ignoring the inputs that they lack, and
    with learned trust weights that hold no judge begin with ones that trust all alike.

    Cost: :math:`O((M + H^2) d)` for H hidden units, :math:`O((M^2 + H^2) d)` with trust that is learned or by peers, or distrust of copies; where losses are asked for, M + 1 forward passes on ``num_samples``
    images too, two for the line search, and a gradient on them for the direction or learned trust (at first on ``early_samples``).

    Breakdown: none is proved; docs/learned_attacked.md measures it.

    Reference:
        Ji et al., *Learning to Learn Gradient Aggregation by Gradient Descent*, IJCAI 2019, sections 4.1 to 4.3. The output is
        an update, not θ itself as the text says: θ = A o would vanish with the gradients. Where :math:`A_i` is 0, inputs
        and update are 0. ``sorted`` and ``trust`` order, all scales but ``l2``, the running scale, the gate, the line search
        and trust that adds up are ours: one round's losses cannot tell liars from honest workers once the loss is low, their sum can. Who is honest
        for long and lies then is trusted for a while. So is the judge. A row that was dropped because it was not finite is absent; in ``given``
        order the rows after it move up.

    Args:
        weights: Trained weights: the name of shipped ones (``lightning_agg.pretrained``), or a safetensors file; untrained
            when null.
        cell: ``lstm`` or ``gru`` [lstm].
        hidden_size: Units of a layer [20].
        num_layers: Layers [2].
        loss_information: Whether the trial losses are inputs: ARNN [false].
        worker_order: Which worker is which input: ``given`` (the paper), ``sorted`` (the order statistics of each
            coordinate), ``trust`` (by trial loss, best first) [given].
        scale: :math:`A_i`: ``l2`` norm over the inputs (the paper), ``median`` of the workers' absolute values, ``lead``: root
            mean square of the first two inputs, ``trusted``: of all rows, weighed as by ``gate`` [l2].
        running_scale: Decay in [0, 1) of a running scale, which replaces :math:`A_i` in the update, with their log-ratio as one
            more input; 0 for none [0].
        adaptivity: Exponent a in [0, 1] by which the :math:`A_i` of the update are evened: to :math:`A_i (\bar A / A_i)^a`, with
            their root mean square :math:`\bar A`. At 0 coordinates with small gradients move little, as with SGD; at 1 all
            move alike, as with Adam (whose step, unlike this one, does not grow with the gradients); between, as with Padam
            (Chen et al., IJCAI 2020, of p = a / 2). Above 0 it wants a ``running_scale`` of more than 0.9 [0].
        normalization: Exponent c in [0, 1] by which the step's growth with the gradients is lessened: it is divided by :math:`\lVert A \rVert^c`, the
            length of the :math:`A_i` of all coordinates. At 0 it is in proportion to the gradients, at 1 always of one length but for the network's
            outputs; between, it is longer than that where they are short, on a plateau, and shorter where they are long [0].
        batch_scaling: Exponent b in [0, 1] by which the step follows the trusted workers' joint batch: it is :math:`(n / \text{slots})^b`
            as large where their weights by ``gate`` are worth n < slots workers (Kish's effective number, in which copies are
            one). 0.5 is the square-root rule of step sizes, 1 the linear one (Goyal et al., *Accurate, large minibatch SGD*,
            2017) [0].
        batch_decay: Decay in [0, 1) of a running mean of that n, which begins at the number of rows; 0 for that of the round alone.
            In the first rounds, in which little is known of the workers and less of the step is noise, it is then not shortened [0].
        clamp: What becomes of inputs below :math:`e^{-p}`: ``signed`` :math:`\pm e^{-p}`, ``literal`` :math:`+e^{-p}` (the
            paper's text), ``drop`` 0 [signed].
        clamp_exponent: That p; with ``l2`` above 0.5 log M [10].
        output_scale: Factor s of the update [0.1].
        decay_after: Rounds T after which it falls, as :math:`s T / t` in the t-th round; 0 for never [0].
        slots: Workers that the network has inputs for. In ``given`` order the pool must have as many; in the others,
            more are grouped, in order, and so are fewer, but with ``gate`` missing ones are as if not trusted [10].
        num_samples: Public samples of a trial loss [32].
        trial_step: Step of a trial [1].
        gate: Whether rows are weighed by the trust in their workers, from 0 for none to 1 for at least half of that in the
            best; the weighted mean is then one more input [false].
        trust: What a worker is trusted by: ``losses``, the descent of a trial step on public data, cut to 1 nat; ``peers``,
            which needs none and an honest majority: the median of the cosines with the rows trusted so far; or ``learned``, by a
            network of its own, a *judge*, whose weights are among those here and which ``MetaLearner`` trains. It reads the descents, the cosines with the public
            gradient and with the other rows, their sums over rounds, lengths and copies, and remembers each worker. Its weights of the rows, relative to the largest (where part of the workers take part, among
            their last ones of all) and less a twentieth,
            are trust and ``gate``; ``trust_decay``, ``trust_margin``, ``direction_decay``, ``direction_margin`` and ``distrust_copies`` are of trust by a rule, and must then be 0 or false [losses].
        num_judges: Judges of ``learned`` trust, trained from different starts; the median of their logits counts, of an even number the lower one [1].
        length_limit: Under ``learned`` trust no row counts for more than one that many times as long as the public gradient is, or usually
            is: the judge wants some rounds to tell. FLTrust (Cao et al., NDSS 2021) brings all rows to that length [5].
        trust_horizon: Under ``learned`` trust, rounds T that its judges were trained for. Past them, what they read that forgets does so the more slowly the more rounds
            there were: a sum with decay :math:`\beta` has :math:`1 - (1 - \beta) T / t` in the t-th round, as a round's progress falls and its noise does not. 0 for never [0].
        trust_floor: Under ``learned`` trust nobody is trusted of whom all that sums up along the public gradients, descents and cosines, is below this part of the best
            worker's, in [-3, 0]. Judges may trust what they hardly met, such as one who sends the opposite in a pool of three; -0.5 keeps that out. At -3, where sums are cut, it is none [-3].
        merge_copies: Under ``learned`` trust, whether rows that differ by at most a tenth of their length are one worker's to the judges, whose row is their mean and who
            counts once: who sends copies then gains nothing by their number, and who is copied (Mimic) loses nothing. Not where all rows are nearly the same [false].
        early_samples: Under ``learned`` trust, public samples of the gradient in the first 20 rounds of an episode, if more than ``num_samples``: where workers' batches are small, a few
            samples tell little at first of where the training should go, and it is then that judges are unsure [0].
        trust_decay: Decay in [0, 1] of a running sum by which workers are trusted; 0 for this round alone, 1 for all rounds alike. Descents
            become small in a long training, and a sum that forgets is then one of noise [0].
        trust_margin: Share in [0, 1) of the trust in the best worker that is taken off everyone's: who is trusted less than that
            is not trusted at all. By peers, 0.25 leaves rows of pure noise out, which are somewhere around 0 [0].
        direction_decay: Decay in [0, 1) of a running sum of the directions of the gradient on ``num_samples`` public samples. A worker
            is then trusted no more than by the cosines of its rows with this sum, which add up by ``trust_decay``, too, and are
            relative to the best worker's. FLTrust (Cao et al., NDSS 2021) takes those with one round's gradient; the sum over
            rounds shows attacks that hide in what all rows share in the directions in which the training oscillates: LabelFlip,
            ALIE with noise. 0 for none [0].
        direction_margin: As ``trust_margin``, for these cosines [0].
        distrust_copies: Whether rows that are nearly the same are distrusted, as those of attackers who agree on what they send:
            of k that differ by at most a tenth of their length, each has :math:`1/k^2` of its weight by ``gate`` and of its
            trust, so that all together count for less than one. Not where all rows are nearly the same; those that are equal are
            then still one worker to ``batch_scaling`` [false].
        momenta: Decays in [0, 1) of running means, from 0, of the rows' center (their weighted mean with ``gate``, their median
            in ``sorted`` order, else their mean). Each one over :math:`A_i` is an input more, by which the network multiplies
            an output more; the update is the sum of all. Before training it is SGD with momentum: the mean of these means as
            the gradient, ``output_scale`` as the step size [none].
        line_search: Whether the step, times the learning rate of the server's optimizer, is tried on ``num_samples`` public samples first, and halved, from then on in this
            episode, while it would raise the loss to a quarter above the largest of the last ten rounds':
            :func:`lightning_agg.aggregators.line_search.search`. Models that want smaller steps than the one trained on then
            find them [false].
        seed: Seed of the weights of a network that is not trained; the run's when null.

    Raises:
        ValueError: If the settings contradict each other, the weights or the pool, or a file is no such weights.

    Example:
        >>> rule = Recurrent(weights="mnist_rnn_lstm")
        >>> rule(torch.full((10, 3), 0.1)).sign()  # goes down the gradient
        tensor([1., 1., 1.])
    """

    def __init__(
        self,
        weights: str | None = None,
        cell: Cell | None = None,
        hidden_size: int | None = None,
        num_layers: int | None = None,
        loss_information: bool | None = None,
        worker_order: Order | None = None,
        scale: Scale | None = None,
        running_scale: float | None = None,
        adaptivity: float | None = None,
        normalization: float | None = None,
        batch_scaling: float | None = None,
        batch_decay: float | None = None,
        clamp: Clamp | None = None,
        clamp_exponent: float | None = None,
        output_scale: float | None = None,
        decay_after: int | None = None,
        slots: int | None = None,
        num_samples: int | None = None,
        trial_step: float | None = None,
        gate: bool | None = None,
        trust: Trust | None = None,
        num_judges: int | None = None,
        length_limit: float | None = None,
        trust_horizon: int | None = None,
        trust_floor: float | None = None,
        merge_copies: bool | None = None,
        early_samples: int | None = None,
        trust_decay: float | None = None,
        trust_margin: float | None = None,
        direction_decay: float | None = None,
        direction_margin: float | None = None,
        distrust_copies: bool | None = None,
        momenta: list[float] | None = None,
        line_search: bool | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        given = {
            name: value for name, value in locals().items() if name in ARCHITECTURE and value is not None
        }
        stored, tensors = ({}, {}) if weights is None else read_weights(pretrained.locate(weights))
        self.architecture = merged(given, stored, weights)
        network = {name: self.architecture[name] for name in ("cell", "hidden_size", "num_layers")}
        names = WorkerFeatures.__dataclass_fields__.keys() & self.architecture.keys()
        features = WorkerFeatures(**{name: self.architecture[name] for name in names})
        # Not seeding.isolated: the shipped weights were trained from what seed_everything leaves the generator with.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeding.run_seed(seed))
            self.network = RecurrentNetwork(features.input_size, **network, direct=len(features.momenta))
            judges = JudgePanel(self.architecture["num_judges"]) if features.trust == "learned" else None
        self.judges = judges
        self.features = replace(features, judges=judges)
        self.public_samples = self.features.public_samples
        for name in sorted(given.keys() & {"num_samples", "trial_step"}):
            require(
                self.public_samples > 0,
                f"Recurrent.{name} is of the server's public samples, for which nothing asks (loss_information, trust losses, direction_decay or"
                f" line_search), got {given[name]}.",
            )
        self.remembers_workers = self.features.remembers_workers
        self.output_scale: float = self.architecture["output_scale"]
        self.decay_after: int = self.architecture["decay_after"]
        holds_judges = stored.get("trust") == "learned"
        self.trained = weights is not None and (judges is None or holds_judges)
        if weights is not None:
            if widens(given, stored):
                tensors = self._widened(tensors)
            self._load(weights, tensors, holds_judges)
        self.register_buffer("state", torch.zeros(0))
        for name in Seen._fields:
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    makes_step = True

    state: Tensor
    trust: Tensor
    step: Tensor

    def _load(self, weights: str, tensors: dict[str, Tensor], holds_judges: bool) -> None:
        """Those of a file, for the network and, if they hold them, for the judges."""
        judges = {name: tensors[name] for name in tensors if name.startswith(JUDGES)}
        try:
            self.network.load_state_dict({name: tensors[name] for name in tensors.keys() - judges})
            if self.judges is not None and holds_judges:
                self.judges.load_state_dict(
                    {name.removeprefix(JUDGES): tensor for name, tensor in judges.items()}
                )
        except RuntimeError as error:
            raise SettingError(
                f"Recurrent.weights must hold what their settings say; {weights} do not fit: {error}"
            ) from error

    def memory(self) -> dict[str, Tensor]:
        """Network states ``(state_size, d)``, rounds done, and by name what :class:`Seen` carries."""
        return {name: getattr(self, name) for name in ("state", *Seen._fields, "step")}

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        for name in ("state", *Seen._fields):  # what a network of another precision has left
            put_buffer(self, name, getattr(self, name).to(self.network.output.dtype))

    def reset(self) -> None:
        """Begin an episode."""
        super().reset()
        self.step = self.step.new_zeros(())

    def check(self, pool_size: int) -> None:
        """Require M = slots in given order, and p > 0.5 log M with the l2 scale."""
        slots, p = self.features.slots, self.features.clamp_exponent
        require(
            self.features.worker_order != "given" or pool_size == slots,
            f"Recurrent: worker_order given needs M = slots (M = {pool_size}, slots = {slots}).",
        )
        require(
            self.features.scale != "l2" or p > 0.5 * math.log(pool_size),
            "Recurrent: clamp_exponent must satisfy p > 0.5 log M, or every input of agreeing workers is clamped"
            f" (p = {p}, M = {pool_size}).",
        )

    def forward(self, gradients: Tensor, context: Context) -> Tensor:
        """``(M, d)`` -> minus the update ``(d,)``; remembers the network's states."""
        dtype, gradients = gradients.dtype, gradients.to(self.network.output.dtype)
        require(
            gradients.dtype != torch.float16,
            "Recurrent: its weights must be of float32, float64 or bfloat16, as float16 does not hold the squares of gradients (--trainer.precision 16-true)"
            f", got {gradients.dtype}.",
        )
        step, width = int(self.step), gradients.shape[1]
        pool_size = _pool_size(gradients, context)
        if step == 0:
            self.state = gradients.new_zeros(self.network.state_size, width)
            self._carry(self.features.unseen(pool_size, gradients))
        require(
            self.state.shape[1] == width,
            f"Recurrent remembers d = {self.state.shape[1]} coordinates, got d = {width}: call reset() first.",
        )
        require(
            len(self.trust) in (0, pool_size),
            f"Recurrent remembers M = {len(self.trust)} workers, got M = {pool_size}: call reset() first, or go on with as many.",
        )
        features = self.features(gradients, context, self._seen(), step)
        output: Tensor
        output, self.state = self.network(features.inputs, self.state)
        move = self.step_size(step) * features.scale * output
        factor, seen = self.shortened(context, move, features.seen, step)
        self._carry(seen)
        self.step = self.step + 1
        return (-factor * move).to(dtype)

    def shares(self, gradients: Tensor, context: Context) -> Tensor | None:
        """Of the weighted mean that the gate makes; ``None`` without it."""
        if not self.features.gate:
            return None
        rows, step = bounded(gradients.to(self.network.output.dtype)), int(self.step)
        seen = self._seen() if step else self.features.unseen(_pool_size(rows, context), rows)
        weights = self.features.trusted(rows, context, seen, step).weights
        return weights / positive(weights.sum())

    def _seen(self) -> Seen:
        return Seen(*(getattr(self, name) for name in Seen._fields))

    def _carry(self, seen: Seen) -> None:
        for name, value in seen._asdict().items():
            setattr(self, name, value)

    def step_size(self, step: int) -> float:
        """Factor of the update in round ``step`` of an episode, from 0."""
        decay = min(1.0, self.decay_after / (step + 1)) if self.decay_after else 1.0
        return self.output_scale * decay

    def shortened(self, context: Context, move: Tensor, seen: Seen, step: int) -> tuple[float, Seen]:
        """By how much the line search, if any, shortens the update ``(d,)`` of round ``step``, and what the next round needs."""
        if not self.features.line_search:
            return 1.0, seen
        factor, carried = line_search.search(
            context, context.lr * move, seen.search, step, self.features.num_samples
        )
        return factor, seen._replace(search=carried)

    def save(self, path: str | Path) -> None:
        """Write the weights, with the settings they belong to, as a safetensors file."""
        judges = {} if self.judges is None else self.judges.state_dict()
        tensors = self.network.state_dict() | {JUDGES + name: tensor for name, tensor in judges.items()}
        write_weights(Path(path), self.architecture, tensors)

    def _widened(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """An RNN's tensors with weights of 0 for what an ARNN sees besides: :class:`WorkerFeatures` puts it after the rows."""
        name, slots = "from_input.0", self.features.slots
        before = slots + self.features.gate
        own, other = tensors[name][:, :before], tensors[name][:, before:]
        return {**tensors, name: torch.cat([own, own.new_zeros(len(own), slots), other], dim=1)}


def _pool_size(rows: Tensor, context: Context) -> int:
    """Workers there are, of whom these rows are."""
    return context.pool_size or (len(rows) if context.finite is None else len(context.finite))
