"""Sizes by hand, shapes, and what a pool cannot train."""

import pytest
import torch
from torch import nn

from lightning_agg.errors import SettingError
from lightning_agg.models import MLP, ConvNet, ResNet, check_model

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def stages(per_first, shortcut=0, norm=0):
    """Parameters of a ResNet-20 without its stem: three stages, their vectors and the classifier."""
    convolutions = 6 * 16 * 16 * 9 + (16 * 32 + 5 * 32 * 32) * 9 + (32 * 64 + 5 * 64 * 64) * 9
    return convolutions + per_first * 6 * (16 + 32 + 64) + shortcut + 64 * 10 + 10


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        (MLP(10), MNIST, 784 * 20 + 20 + 20 * 10 + 10),
        (MLP(10), MNIST, 15_910),
        (MLP(10, [40]), MNIST, 31_810),
        (MLP(10, [20, 20]), MNIST, 16_330),
        (MLP(10, [128], "relu"), MNIST, 101_770),
        (MLP(10, []), MNIST, 7_850),
        (MLP(2, [3], "tanh"), (5,), 5 * 3 + 3 + 3 * 2 + 2),
        (ConvNet(10), CIFAR, 448 + 2_320 + 10_250),
        (ConvNet(10), CIFAR, 13_018),
        (ConvNet(10, [20, 50], 5, "valid", 500), MNIST, 431_080),
        (ConvNet(7, [4]), (2, 6, 6), 2 * 4 * 9 + 4 + 4 * 9 * 7 + 7),
        (ResNet(10), CIFAR, 3 * 16 * 9 + 16 + stages(1)),
        (ResNet(10, norm="group"), CIFAR, 3 * 16 * 9 + 2 * 16 + stages(2)),
        (ResNet(10, norm="group"), CIFAR, 269_722),  # what He et al. count as 0.27M: a norm has two vectors
        (ResNet(10, shortcut="projection"), CIFAR, 448 + stages(1, 16 * 32 + 32 + 32 * 64 + 64)),
    ],
)
def test_number_of_parameters(model, shape, count):
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape[0] == 2
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("depth", [8, 20, 32])
def test_depth_of_resnet(depth):
    model = ResNet(10, depth=depth)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == depth


@pytest.mark.parametrize("model", [MLP(5), ConvNet(5), ResNet(5), ResNet(5, norm="group")])
@pytest.mark.parametrize("shape", [MNIST, CIFAR])
def test_models_find_the_input_shape(model, shape):
    fresh = type(model)(5)
    assert fresh(torch.rand(2, *shape)).shape == (2, 5)
    check_model(fresh)


def test_conv_net_is_pool_of_relu_of_convolution():
    model = ConvNet(10, [4, 6], hidden_size=8)
    images = torch.randn(3, 1, 12, 12)
    scores = model(images)
    x = images
    for convolution in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        x = nn.functional.max_pool2d(
            nn.functional.conv2d(x, convolution.weight, convolution.bias, padding=1).relu(), 2
        )
    hidden, output = (m for m in model.modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(scores, output(hidden(x.flatten(1)).relu()))


def test_resnet_block_shortcut_pads_channels_with_zeros():
    model = ResNet(10, depth=8)
    model(torch.rand(1, 3, 8, 8))
    block = model.blocks[1]
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
        images = torch.rand(2, 16, 8, 8)
        out = block(images)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], images[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(10, activation="tanh"),
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)),
        lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)),
        lambda: nn.LSTM(2, 2),
    ],
)
def test_check_model_accepts(make):
    check_model(make())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.BatchNorm1d(2), r"it is BatchNorm1d.*torch.nn.GroupNorm"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm2d()), r"layer '1' is LazyBatchNorm2d"),
        (lambda: nn.Sequential(nn.SyncBatchNorm(2)), r"layer '0' is SyncBatchNorm"),
        (lambda: nn.InstanceNorm2d(2, track_running_stats=True), r"running statistics are never aggregated"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), r"layer '1' is Dropout, p = 0.5"),
        (lambda: nn.LSTM(2, 2, num_layers=2, dropout=0.1), r"it is LSTM, p = 0.1"),
        (lambda: nn.MultiheadAttention(2, 1, dropout=0.2), r"it is MultiheadAttention, p = 0.2"),
        (
            lambda: nn.Sequential(nn.Linear(2, 2).double(), nn.Linear(2, 2)),
            r"parameters of one type, as they are rows of one matrix, got torch.float32 and torch.float64",
        ),
        (
            lambda: nn.Sequential(nn.Embedding(3, 2, sparse=True)),
            r"must not have sparse gradients .layer .0. is Embedding.*Set sparse to false",
        ),
    ],
)
def test_check_model_refuses(make, message):
    with pytest.raises(SettingError, match=message):
        check_model(make())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(10, depth=18), r"depth must be 6 n \+ 2 with n >= 1, got 18"),
        (lambda: ResNet(10, depth=2), r"got 2"),
        (lambda: ConvNet(10, kernel_size=4), r"kernel_size must be odd for padding 'same', got 4"),
    ],
)
def test_settings_refused(make, message):
    with pytest.raises(SettingError, match=message):
        make()
