"""Our rules in the hands of ByzFL and TorchJD."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from aggregator_cases import honest_rows
from torch import nn

from lightning_agg.aggregators import CenteredClipping, CoordinateMedian, External, Krum, TrimmedMean
from lightning_agg.errors import SettingError
from lightning_agg.interop import for_arrays, for_torchjd, weighting_for_torchjd


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_tensors_and_lists_give_their_own_kind(dtype) -> None:
    rows = honest_rows(dtype=torch.float64).numpy().astype(dtype)
    rule, expected = for_arrays(TrimmedMean(3)), np.sort(rows, axis=0)[3:-3].mean(axis=0)
    for vectors in (rows, list(rows)):
        found = rule(vectors)
        assert isinstance(found, np.ndarray)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    backwards, foreign = rows[:, ::-1], rows.astype(rows.dtype.newbyteorder())
    np.testing.assert_allclose(rule(backwards), expected[::-1], rtol=1e-5)
    np.testing.assert_allclose(rule(foreign), expected, rtol=1e-5)
    for vectors in (torch.from_numpy(rows), list(torch.from_numpy(rows))):
        np.testing.assert_allclose(rule(vectors).numpy(), expected, rtol=1e-5)


def test_byzfl_searches_its_worst_attack_against_our_rule() -> None:
    byzfl = pytest.importorskip("byzfl")
    honest = honest_rows(8).double().numpy()
    attack = byzfl.Optimal_InnerProductManipulation(agg=for_arrays(CoordinateMedian()), pre_agg_list=[], f=2)
    worst = attack(honest)
    found = for_arrays(CoordinateMedian())(np.concatenate([honest, worst[None], worst[None]]))
    assert np.linalg.norm(found - honest.mean(0)) > 0.1


def test_byzfl_pre_aggregators_go_before_our_rule() -> None:
    byzfl = pytest.importorskip("byzfl")
    rows = honest_rows(10).double().numpy()
    rows[:2] = 1e9
    assert np.abs(for_arrays(TrimmedMean(2))(byzfl.NNM(f=2)(rows)) - 1).max() < 0.3


def losses_of(model: nn.Module) -> torch.Tensor:
    data = torch.arange(10.0).reshape(5, 2)
    return model(data).squeeze(1).square()


def test_torchjd_descends_along_our_rule() -> None:
    torchjd = pytest.importorskip("torchjd")
    model = nn.Linear(2, 1)
    losses = losses_of(model)
    rows = torch.stack(
        [
            torch.cat(
                [g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)]
            )
            for loss in losses
        ]
    )
    torchjd.autojac.backward(losses)
    torchjd.autojac.jac_to_grad(model.parameters(), for_torchjd(CoordinateMedian()))
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(found, CoordinateMedian()(rows))


def test_torchjd_combines_by_our_influence() -> None:
    jd = pytest.importorskip("torchjd.aggregation")
    rows = honest_rows()
    rows[4] = 1e6
    rule = jd.WeightedAggregator(weighting_for_torchjd(Krum(3)))
    torch.testing.assert_close(rule(rows), Krum(3)(rows))


def test_memory_is_part_of_torchjds_module() -> None:
    pytest.importorskip("torchjd")
    rule = for_torchjd(CenteredClipping(1.0))
    first = rule(honest_rows())
    assert torch.equal(rule.state_dict()["aggregator.center"], first)


def test_a_rule_without_influence_gives_no_weights() -> None:
    pytest.importorskip("torchjd")
    with pytest.raises(
        SettingError, match=r"weighting_for_torchjd: External defines no influence of the rows\."
    ):
        weighting_for_torchjd(External(lambda rows: rows[0]))(honest_rows())


def test_neither_library_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, lightning_agg.interop, lightning_agg.aggregators\n"
        "sys.exit(any(name in sys.modules for name in ('byzfl', 'torchjd')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
