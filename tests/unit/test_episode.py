"""An episode played by a baseline, and how episodes are drawn."""

import copy
import io
import math
from functools import partial

import lightning as L
import pytest
import torch

from lightning_agg import flat
from lightning_agg.aggregators import CenteredClipping, Mean, Recurrent
from lightning_agg.attacks import Disguise, InnerProduct, LineSearch, SignFlip
from lightning_agg.callbacks import ByzantineInjection, EpisodeCurves
from lightning_agg.callbacks.base import TEST_EPISODES, VALIDATION_EPISODES
from lightning_agg.callbacks.figures import curves_figure
from lightning_agg.data import DigitsPool
from lightning_agg.errors import SettingError
from lightning_agg.models import MLP
from lightning_agg.modules import MetaLearner, ParameterServer
from lightning_agg.modules.episode import Baseline, Curve, Episode, LearnedServer, play

ROUNDS = 12


class Losses(L.Callback):
    def __init__(self):
        self.values = []

    def on_validation_end(self, trainer, pl_module):
        self.values.append(float(trainer.callback_metrics["val/loss"]))


def fit(module, *callbacks, **settings):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[ByzantineInjection(SignFlip(), 1, seed=0), *callbacks], **settings,
    )  # fmt: skip
    trainer.fit(module, datamodule=DigitsPool(pool_size=4, batch_size=16, seed=0))


def learner_and_start(aggregator):
    learner = MetaLearner(aggregator, model=MLP, horizon=20, seed=0)
    fit(learner, max_steps=0, limit_val_batches=0)
    return learner, learner.initial_parameters(0)


def losses_of_a_parameter_server(aggregator, optimizer, start):
    class Given(MLP):
        def forward(self, images):
            if isinstance(self[1], torch.nn.modules.lazy.LazyModuleMixin):
                super().forward(images)
                tensors = flat.trainable(self)
                with torch.no_grad():
                    for p, value in zip(
                        tensors.values(), flat.unflatten(start, tensors).values(), strict=True
                    ):
                        p.copy_(value)
            return super().forward(images)

    losses = Losses()
    server = ParameterServer(aggregator, Given, optimizer, gradient_samples=0, seed=0)
    fit(server, losses, max_steps=ROUNDS, val_check_interval=1, check_val_every_n_epoch=None)
    assert max(losses.values) - min(losses.values) > 0.01
    return losses.values


@pytest.mark.parametrize("aggregator", [Mean, CenteredClipping])  # one without memory, one with
@pytest.mark.parametrize(
    "optimizer", [partial(torch.optim.SGD, lr=0.5, momentum=0.9), partial(torch.optim.Adam, lr=0.02)]
)
def test_a_baseline_is_what_a_parameter_server_does(aggregator, optimizer):
    learner, start = learner_and_start(Recurrent(slots=4))
    expected = losses_of_a_parameter_server(aggregator(), optimizer, start)
    baseline = Baseline(aggregator(), optimizer)
    for _ in range(2):  # nothing is remembered of the first time
        with torch.no_grad():
            curve = play(
                learner.problem, baseline.server(learner.model, start), start, 0, ROUNDS, learner.data.val
            )
        assert curve.losses.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*the network is untrained, or its judge")
@pytest.mark.parametrize("trust", [{"trust_decay": 0.9, "direction_decay": 0.8}, {"trust": "learned"}])
def test_what_is_trained_is_what_a_parameter_server_does(trust):
    settings = {
        **trust, "worker_order": "trust", "loss_information": True, "gate": True, "scale": "trusted", "running_scale": 0.9, "momenta": [0.9],
        "batch_scaling": 0.5, "batch_decay": 0.9, "decay_after": 5, "output_scale": 1000.0, "line_search": True, "num_samples": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    rule = Recurrent(**settings)
    if rule.judges is not None:
        torch.nn.init.normal_(rule.judges[0].out.weight)
    learner, start = learner_and_start(copy.deepcopy(rule))
    expected = losses_of_a_parameter_server(rule, partial(torch.optim.SGD, lr=1.0), start)
    server = LearnedServer(learner.aggregator, 4, start)
    with torch.no_grad():
        curve = play(learner.problem, server, start, 0, ROUNDS, learner.data.val)
    assert curve.losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert rule.search[0] == server.state.seen[0].search[0] > 0


def curve(*losses):
    values = torch.tensor(losses)
    return Curve(torch.arange(1, len(losses) + 1), values, values[-1], torch.tensor(0.5))


def test_there_are_no_curves_of_a_server():
    with pytest.raises(SettingError, match="must not have an EpisodeCurves in ParameterServer"):
        fit(ParameterServer(Mean()), EpisodeCurves(), max_steps=1)


def test_the_figure_has_a_panel_per_episode_and_cuts_off_what_diverged():
    diverged = curve(2.0, 1e30, math.inf, math.nan)
    figure = curves_figure(
        {
            "no_attack": Episode(curve(2.0, 1.0, 0.5, 0.25), {"mean": curve(2.0, 1.5, 1.0, 1.0)}),
            "Reverse_3": Episode(diverged, {"mean": diverged}),
        },
        largest=3.0,
    )
    figure.savefig(io.BytesIO())
    assert [panel.get_title() for panel in figure.axes] == ["no_attack", "Reverse_3"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean", "learned"]
    assert all(panel.get_ylim() == pytest.approx((0.9 * 0.25, 3.0)) for panel in figure.axes)


def test_the_figure_stands_where_everything_diverged():
    figure = curves_figure({"Reverse_3": Episode(curve(math.inf, math.nan), {})}, largest=3.0)
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_ylim() == pytest.approx((1.35, 3.0))


def test_a_baseline_is_told_its_learning_rate():
    told = []

    class Told(Mean):
        def forward(self, gradients, context):
            told.append(context.lr)
            return super().forward(gradients, context)

    learner, start = learner_and_start(Recurrent(slots=4))
    baseline = Baseline(Told(), partial(torch.optim.SGD, lr=0.5))
    with torch.no_grad():
        play(learner.problem, baseline.server(learner.model, start), start, 0, 2, learner.data.val)
    assert told == [0.5, 0.5]


def test_only_episodes_of_the_training_are_scaled():
    learner = MetaLearner(Recurrent(slots=4), model=MLP, horizon=20, parameter_scaling=1.0, seed=0)
    fit(learner, max_steps=0, limit_val_batches=0)
    assert learner.scaling(3).std() > 0
    assert learner.scaling(VALIDATION_EPISODES) == learner.scaling(TEST_EPISODES + 1) == 1


def test_an_attack_that_must_know_the_rule_is_refused():
    def start(module, *attacks):
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, max_steps=0,
            callbacks=[ByzantineInjection([SignFlip(), *attacks], 1, seed=0)], limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(module, datamodule=DigitsPool(pool_size=4, batch_size=16, seed=0))

    def learner():
        return MetaLearner(Recurrent(slots=4), model=MLP, horizon=20, seed=0)

    with pytest.raises(SettingError, match=r"the aggregator it knows in MetaLearner.*got Disguise"):
        start(learner(), Disguise(LineSearch(InnerProduct())))
    start(learner(), Disguise(LineSearch(InnerProduct(), Mean())))
    start(ParameterServer(Mean(), MLP), LineSearch(InnerProduct()))
