"""Compressors by hand, their laws, and their place in a round."""

import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from runs import assert_same_run, checkpoint, metrics, run

from lightning_agg import seeding
from lightning_agg.aggregators import Mean
from lightning_agg.attacks import Gaussian
from lightning_agg.callbacks import ByzantineInjection, GradientCompression, NoisePerturbation
from lightning_agg.callbacks.base import PoolCallback
from lightning_agg.compressors import QSGD, CompressionContext, Compressor, ErrorFeedbackSign, TernGrad
from lightning_agg.data import DigitsPool
from lightning_agg.errors import SettingError
from lightning_agg.models import MLP
from lightning_agg.modules import ParameterServer

ALL = [ErrorFeedbackSign, QSGD, TernGrad, lambda: TernGrad(clip=2.5), lambda: QSGD(2, 3, "max")]
REPEATS = 10_000
ROW = torch.tensor([[0.3, -1.2, 0.0, 2.0, -0.01, 0.7]], dtype=torch.float64)


def mean_and_variance(compressor, row):
    """Empirical moments over independent workers, and the standard error of the mean."""
    sent = compressor(row.expand(REPEATS, -1))
    return sent.mean(0), sent.var(0), sent.std(0) / math.sqrt(REPEATS)


def variance_tolerance(p):
    """4.5 standard errors of the empirical variance of a Bernoulli variable, to second order."""
    error = 4.5 * (p * (1 - p) / REPEATS).sqrt()
    return error * (1 - 2 * p).abs() + error**2 + 2 / REPEATS


@pytest.mark.parametrize("levels", [1, 2, 7])
@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("bucket_size", [None, 4])
def test_qsgd_is_unbiased_on_its_grid(levels, norm, bucket_size):
    compressor = QSGD(levels, bucket_size, norm)
    mean, variance, error = mean_and_variance(compressor, ROW)
    assert ((mean - ROW[0]).abs() <= 4.5 * error + 1e-12).all()
    size = bucket_size or 6
    for start in range(0, 6, size):
        bucket = ROW[0, start : start + size]
        length = bucket.norm() if norm == "l2" else bucket.abs().max()
        multiples = compressor(ROW.expand(50, -1))[:, start : start + size] * levels / length
        torch.testing.assert_close(multiples, multiples.round())
        # Var of one coordinate: (norm / s)^2 p (1 - p), p the fractional part of s |v| / norm.
        p = (levels * bucket.abs() / length) % 1
        expected = (length / levels) ** 2 * p * (1 - p)
        tolerance = (length / levels) ** 2 * variance_tolerance(p)
        assert ((variance[start : start + size] - expected).abs() <= tolerance).all()
        if norm == "l2":
            bound = min(len(bucket) / levels**2, math.sqrt(len(bucket)) / levels)
            assert expected.sum() <= bound * length**2


@pytest.mark.parametrize("bucket_size", [None, 7])
def test_qsgd_of_rows_whose_squares_overflow(bucket_size):
    gradients = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    compress = QSGD(levels=4, bucket_size=bucket_size)
    assert torch.allclose(compress(1e20 * gradients), 1e20 * compress(gradients), rtol=1e-5)


def test_qsgd_by_hand():
    """Norm 5, two levels: 3 is between 2.5 and 5, 4 between the same, drawn by the keyed numbers."""
    row = torch.tensor([[3.0, -4.0]])
    u = seeding.uniform(2, torch.device("cpu"), 9, "compression", worker=4, step=7)
    expected = [5.0 if u[0] < 0.2 else 2.5, -5.0 if u[1] < 0.6 else -2.5]
    assert QSGD(2)(row, CompressionContext(7, 9, (4,))).tolist() == [expected]
    on_grid = torch.tensor([[5.0, 0.0], [0.0, 0.0]])
    assert torch.equal(QSGD(3)(on_grid), on_grid)


@pytest.mark.parametrize("sizes", [(6,), (2, 4)])
def test_tern_grad_is_unbiased_and_ternary(sizes):
    context = CompressionContext(sizes=sizes)
    sent = TernGrad()(ROW.expand(REPEATS, -1), context)
    assert ((sent.mean(0) - ROW[0]).abs() <= 4.5 * sent.std(0) / math.sqrt(REPEATS) + 1e-12).all()
    for part, row in zip(torch.split(sent, sizes, 1), torch.split(ROW[0], sizes), strict=True):
        scaler = row.abs().max().item()
        assert set(part.unique().tolist()) <= {-scaler, 0.0, scaler}
        expected = scaler * row.abs() - row**2  # E g^2 - (E g)^2
        tolerance = scaler**2 * variance_tolerance(row.abs() / scaler)
        assert ((part.var(0) - expected).abs() <= tolerance).all()


def test_tern_grad_clips_to_deviations_around_zero():
    """Root mean square 5 of the row: clipped at 7.5, which is then the scaler."""
    row = torch.tensor([[1.0, 1.0, 7.0, 7.0, 0.0, 5.0, 5.0, 0.0]])
    rms = row.square().mean().sqrt().item()
    sent = TernGrad(clip=1.0)(row.expand(400, -1))
    assert sent.max().item() == pytest.approx(rms)
    assert torch.equal(sent[:, 2], sent.max().expand(400))
    single = torch.tensor([[3.0]])
    assert torch.equal(TernGrad(clip=2.5)(single), single)


def test_error_feedback_by_hand():
    """Two workers, tensors of 2 and 1 coordinates, two rounds."""
    compressor, context = ErrorFeedbackSign(), CompressionContext(workers=(3, 8), sizes=(2, 1))
    first = compressor(torch.tensor([[1.0, -3.0, 5.0], [0.0, 4.0, -1.0]]), context)
    assert first.tolist() == [[2.0, -2.0, 5.0], [0.0, 2.0, -1.0]]
    # Errors (-1, -1, 0) and (0, 2, 0).
    second = compressor(torch.tensor([[1.0, -3.0, 5.0], [1.0, 1.0, 1.0]]), context)
    assert second.tolist() == [[0.0, -2.0, 5.0], [2.0, 2.0, 1.0]]
    assert compressor.errors[3].tolist() == [0.0, -2.0, 0.0]
    assert compressor.errors[8].tolist() == [-1.0, 1.0, 0.0]


def test_error_feedback_of_other_coordinates_is_refused():
    compressor = ErrorFeedbackSign()
    compressor(torch.ones(2, 1))
    with pytest.raises(SettingError, match=r"ErrorFeedbackSign remembers d = 1 coordinates, got d = 9"):
        compressor(torch.ones(2, 9))


def test_error_feedback_sends_everything_in_the_end():
    """The sum of the messages is the sum of the gradients less the last error, and the error stays bounded."""
    compressor, sent, wanted = ErrorFeedbackSign(), torch.zeros(2, 5), torch.zeros(2, 5)
    generator = torch.Generator().manual_seed(0)
    for index in range(200):
        gradients = torch.randn(2, 5, generator=generator)
        wanted += gradients
        sent += compressor(gradients, CompressionContext(index))
    errors = torch.stack([compressor.errors[0], compressor.errors[1]])
    torch.testing.assert_close(wanted - sent, errors, rtol=1e-4, atol=1e-4)
    assert errors.norm() < 20


def test_absent_and_broken_workers_keep_their_memory():
    compressor, row = ErrorFeedbackSign(), torch.tensor([[3.0, -1.0]])
    compressor(row.expand(2, -1))
    before = compressor.errors[1].clone()
    compressor(row, CompressionContext(workers=(0,)))
    assert torch.equal(compressor.errors[1], before)
    broken = compressor(torch.tensor([[3.0, torch.inf], [torch.nan, 1.0]]))
    assert not broken.isfinite().all(dim=1).any()
    assert torch.equal(compressor.errors[1], before)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_row_stays_broken_and_alone(make, value):
    gradients = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    clean = make()(gradients)
    gradients[1, 4] = value
    sent = make()(gradients)
    assert not sent[1].isfinite().all()
    assert torch.equal(sent[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract(make, dtype):
    gradients = torch.randn(4, 10, dtype=dtype, generator=torch.Generator().manual_seed(1))
    gradients[2] = 0
    before, context = gradients.clone(), CompressionContext(5, 3, (2, 4, 6, 8), (7, 3))
    sent = make()(gradients, context)
    assert sent.shape == gradients.shape
    assert sent.dtype == dtype
    assert torch.equal(gradients, before)
    assert not sent[2].any()
    assert torch.equal(sent, make()(gradients, context))
    alone = make()(gradients[1:2], CompressionContext(5, 3, (4,), (7, 3)))
    assert torch.equal(sent[1:2], alone)  # keyed by the worker, whoever else takes part
    assert ((sent == 0) | (sent.sign() == gradients.sign())).all()
    assert make().bits((7, 3)) < 32 * 10 * 3


def test_every_compressor_is_here():
    made = {type(make()) for make in ALL}
    assert {c for c in Compressor.__subclasses__() if c.__module__.startswith("lightning_agg")} == made


@pytest.mark.parametrize(
    ("compressor", "bits"),
    [
        (ErrorFeedbackSign(), 101_770 + 4 * 32),
        (QSGD(levels=1), 101_770 * math.log2(3) + 32),
        (QSGD(levels=4, bucket_size=512), 101_770 * math.log2(9) + 199 * 32),
        (TernGrad(), 101_770 * math.log2(3) + 4 * 32),
    ],
)
def test_bits_of_a_message(compressor, bits):
    assert compressor.bits((784 * 128, 128, 128 * 10, 10)) == pytest.approx(bits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QSGD(0), "compressor.levels must be at least 1, got 0"),
        (lambda: QSGD(bucket_size=0), "compressor.bucket_size must be at least 1, got 0"),
        (lambda: QSGD(norm="l1"), "compressor.norm must be l2 or max, got 'l1'"),
        (lambda: TernGrad(clip=0), "compressor.clip must be a finite number above 0, got 0"),
        (lambda: QSGD()(torch.zeros(3)), r"must be an \(M, d\) matrix, got shape \(3,\)"),
        (lambda: QSGD()(torch.zeros(2, 3), CompressionContext(workers=(1,))), "2 x 3 matrix, got 1 workers"),
        (lambda: TernGrad()(torch.zeros(2, 3), CompressionContext(sizes=(2,))), r"got 2 workers and sizes \(2,\)"),
    ],
)  # fmt: skip
def test_refused(make, message):
    with pytest.raises(SettingError, match=message):
        make()


@pytest.mark.parametrize(
    ("decoded", "told"), [(lambda rows: rows[:, :2], r"shape \(1, 2\), torch.float64"), (lambda rows: None, "NoneType")]
)  # fmt: skip
def test_what_a_compressor_of_ones_own_returns_is_checked(decoded, told):
    class Own(Compressor):
        def forward(self, gradients, context):
            return decoded(gradients)

        def bits(self, sizes):
            return 1

    with pytest.raises(
        SettingError, match=rf"^Own.forward must return a torch.Tensor of shape \(1, 6\), got {told}"
    ):
        Own()(ROW)


def test_the_meta_learner_does_not_compress():
    learner = SimpleNamespace(rounds_in_order=False)
    with pytest.raises(
        SettingError, match=r"compression.compressor must be null in SimpleNamespace, got QSGD"
    ):
        GradientCompression(QSGD()).setup(None, learner, "fit")
    GradientCompression().setup(None, learner, "fit")


def test_a_class_is_no_compressor():
    with pytest.raises(
        SettingError, match=r"^compression.compressor must be a compressor, got <class .*QSGD'>"
    ):
        GradientCompression(QSGD)


def test_after_the_noise_and_before_the_attack(tmp_path):
    """Whatever the order of the callbacks: honest rows are ternary, noisy or not, and attackers' rows are not."""
    sent = []

    class Spy(PoolCallback):
        def on_after_aggregation(self, trainer, pl_module, gradients, aggregate, batch):
            sent.append(gradients)

    server = ParameterServer(Mean(), lambda classes: MLP(classes, []), gradient_samples=0, seed=0)
    callbacks = [
        Spy(),
        ByzantineInjection(Gaussian(std=1.0), 1, fixed=True, seed=0),
        GradientCompression(TernGrad(), seed=0),
        NoisePerturbation(0.1, seed=0),
    ]
    L.Trainer(
        accelerator="cpu", max_steps=1, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, default_root_dir=tmp_path,
    ).fit(server, datamodule=DigitsPool(pool_size=3, seed=0))  # fmt: skip
    weights = sent[0][:, :640]
    assert [len(row.abs().unique()) for row in weights] == [pytest.approx(640, abs=20), 2, 2]
    # Pixels that are always 0 have no gradient: what is there is the noise.
    dead = weights[1:].view(2, 10, 64)[:, :, 0]
    assert dead.any()


@pytest.mark.parametrize("name", ["ErrorFeedbackSign", "QSGD"])
def test_by_name_logged_and_resumed(name, tmp_path):
    options = [
        f"--compression.compressor={name}",
        "--model.aggregator=TrimmedMean",
        "--model.aggregator.num_byzantine=3",
        "--model.participation=0.8",
        "--model.gradient_samples=0",
        "--noise.scale=0.01",
        "--trainer.log_every_n_steps=1",
    ]
    cli = run("fit", tmp_path / "whole", *options, "--trainer.max_steps=5")
    run("fit", tmp_path / "stopped", *options, "--trainer.max_steps=2")
    state = checkpoint(tmp_path / "stopped")["callbacks"].get("GradientCompression", {})
    assert bool(state) is (name == "ErrorFeedbackSign")
    run("fit", tmp_path / "stopped", *options, "--trainer.max_steps=5", "--ckpt_path=last")
    assert_same_run(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "stopped"))
    sizes = [p.numel() for p in cli.model.model.parameters()]
    compressor = {"ErrorFeedbackSign": ErrorFeedbackSign, "QSGD": QSGD}[name]()
    logged = [float(row["pool/bits"]) for row in metrics(tmp_path / "whole") if "pool/bits" in row]
    assert logged == pytest.approx([8 * compressor.bits(sizes)] * 5)


def test_another_compressor_begins_anew():
    callback = GradientCompression(ErrorFeedbackSign())
    callback.compressor(torch.tensor([[3.0, -1.0]]))
    state = callback.state_dict()
    again = GradientCompression(ErrorFeedbackSign())
    again.load_state_dict(state)
    assert torch.equal(again.compressor.errors[0], torch.tensor([1.0, 1.0]))
    GradientCompression(QSGD()).load_state_dict(state)
    GradientCompression().load_state_dict(state)
    assert GradientCompression(QSGD()).state_dict() == {}


@pytest.mark.parametrize("scale", [2.0**-80, 2.0**66])
@pytest.mark.parametrize("make", [lambda: QSGD(4), lambda: TernGrad(clip=1.0)], ids=["QSGD", "TernGrad"])
def test_rows_whose_squares_float32_does_not_hold(make, scale):
    row = torch.tensor([[3.0, -1.0, 2.0, 0.5]])
    context = CompressionContext(sizes=(4,))
    sent = make()(row, context)
    assert sent.any()
    assert torch.equal(make()(scale * row, context), scale * sent)


def test_what_half_precision_rounds_off_is_fed_back():
    compressor, row = ErrorFeedbackSign(), torch.tensor([[1.0, 1.0078125]], dtype=torch.bfloat16)
    sent = sum(compressor(row, CompressionContext(round=t)).double() for t in range(500))
    assert torch.allclose(500 * row.double() - sent, compressor.errors[0].double(), atol=1e-3)


def test_rows_near_the_largest_float_are_quantised():
    row = torch.tensor([[1e38, -5e37, 0.0, 3e37]])
    rounded = QSGD(4, norm="max")(row)
    assert torch.allclose(rounded, row, atol=2.6e37)
