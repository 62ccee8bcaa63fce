"""Rules of other libraries among ours."""

from typing import Any

import pytest
import torch
from aggregator_cases import honest_rows
from runs import run
from torch import Tensor, nn

from lightning_agg.aggregators import Aggregator, External, PreAggregated
from lightning_agg.attacks import InnerProduct, LineSearch
from lightning_agg.cli import main
from lightning_agg.errors import SettingError


class Last:
    """Half of the way from where it was to the mean of the rows."""

    def __init__(self) -> None:
        self.center: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        mean = rows.mean(dim=0)
        self.center = mean if self.center is None else (self.center + mean) / 2
        return self.center

    def rule(self, rows: Tensor) -> Tensor:
        return self(rows)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, rows: Tensor) -> Tensor:
        return self.scale * rows.mean(dim=0)


def fail(rows: Tensor) -> Tensor:
    raise ValueError("of two\n  lines")


def spoil(rows: Tensor) -> Tensor:
    return rows.mul_(2)[0]


def test_rows_are_not_touched_and_the_result_is_no_view() -> None:
    gradients = honest_rows()
    before, aggregator = gradients.clone(), External(spoil)
    result = aggregator(gradients)
    assert torch.equal(result, 2 * before[0])
    result.fill_(7.0)
    assert torch.equal(gradients, before)


def test_the_result_is_not_the_memory_of_the_rule() -> None:
    aggregator = External(Last())
    aggregator(torch.ones(3, 2)).fill_(77.0)
    assert torch.equal(aggregator(torch.full((3, 2), 3.0)), torch.full((2,), 2.0))


def test_a_trial_leaves_the_memory_as_it_is_and_reset_forgets() -> None:
    aggregator, rows = External(Last()), torch.ones(3, 2)
    aggregator(rows)
    assert torch.equal(aggregator.trial(3 * rows), torch.full((2,), 2.0))
    assert torch.equal(aggregator(rows), torch.ones(2))
    aggregator.reset()
    assert torch.equal(aggregator(3 * rows), torch.full((2,), 3.0))


@pytest.mark.parametrize("of", [lambda rule: rule, lambda rule: rule.rule], ids=["object", "its method"])
def test_memory_survives_a_checkpoint(of) -> None:
    aggregator, restored = External(of(Last())), External(of(Last()))
    aggregator(torch.ones(3, 2))
    restored.load_state_dict(aggregator.state_dict())
    assert torch.equal(restored(torch.full((3, 2), 3.0)), torch.full((2,), 2.0))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("GradVac", {}),
        ("ExcessMTL", {"robust_step_size": 0.1, "n_warmup_steps": 1}),
        ("PCD", {}),
    ],
)
def test_what_a_module_makes_in_its_first_round_survives_a_checkpoint(
    name: str, options: dict[str, Any], tmp_path
) -> None:
    make = getattr(pytest.importorskip("torchjd.aggregation"), name)
    aggregator, restored = External(make(**options)), External(make(**options))
    for seed in range(3):
        aggregator(honest_rows(4, seed=seed))
        restored(honest_rows(5))  # is forgotten
    torch.save(aggregator.state_dict(), tmp_path / "state")
    restored.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    rows, results = honest_rows(4, seed=3), []
    for rule in (aggregator, restored):
        torch.manual_seed(0)  # GradVac draws from the global generator
        results.append(rule(rows))
    assert torch.equal(*results)


def test_a_checkpoint_has_what_has_changed_and_not_the_settings() -> None:
    class Decaying(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.rate, self.rounds, self.seen = rate, 0, [torch.zeros(2)]

        def forward(self, rows: Tensor) -> Tensor:
            self.rounds += 1
            self.seen = [rows[0]]
            return self.rate**self.rounds * rows.mean(dim=0)

    aggregator = External(Decaying(0.5))
    aggregator(torch.ones(3, 2))
    state = aggregator.get_extra_state()
    assert state.keys() == {"rounds", "seen"}
    other = External(Decaying(0.1))
    other.load_state_dict(aggregator.state_dict())
    assert other(torch.ones(3, 2)).tolist() == pytest.approx([0.01, 0.01])


def test_a_module_goes_where_the_model_goes() -> None:
    aggregator = External(Scaled()).double()
    assert aggregator.rule.scale.dtype == torch.float64
    assert torch.equal(aggregator(torch.ones(3, 2, dtype=torch.float64)), torch.full((2,), 2.0).double())


def test_rows_that_are_not_finite_are_dropped_before() -> None:
    gradients = honest_rows()
    gradients[3, 1] = torch.nan
    seen: list[int] = []
    aggregator = External(lambda rows: seen.append(len(rows)) or rows.mean(dim=0))
    assert aggregator(gradients).isfinite().all()
    assert seen == [17]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda rows: None, r"must return a tensor of shape \(2,\), got NoneType\."),
        (lambda rows: rows, r"must return a tensor of shape \(2,\), got \(3, 2\)\."),
        (lambda rows: rows[0].numpy(), r"must return a tensor of shape \(2,\), got ndarray\."),
        (
            lambda rows: rows[0].double(),
            r"must return torch.float32, got torch.float64 \(External.cast = False\)",
        ),
        (lambda rows: rows[0].long(), r"must return torch.float32, got torch.int64"),
        (
            lambda rows: rows[9],
            r"on 3 rows \(1 not finite, dropped\) failed: IndexError: index 9 is out of bounds",
        ),
        (fail, r"failed: ValueError: of two lines$"),
    ],
)
def test_what_is_no_aggregate_is_refused(rule: Any, message: str) -> None:
    rows = torch.ones(4, 2)
    rows[3] = torch.inf
    with pytest.raises(SettingError, match=rf"^External\.rule: .*{message}"):
        External(rule)(rows)


def test_cast_takes_floating_results_of_another_type_only() -> None:
    rows = torch.ones(3, 2, dtype=torch.float64)
    assert External(lambda rows: rows[0].float(), cast=True)(rows).dtype == torch.float64
    with pytest.raises(SettingError, match=r"got torch.int64 \(External.cast = True\)"):
        External(lambda rows: rows[0].long(), cast=True)(rows)


def test_a_search_for_the_worst_attack_does_not_disturb_a_rule_with_memory() -> None:
    byzfl = pytest.importorskip("byzfl")
    aggregator = External(byzfl.CenteredClipping(tau=1.0))
    aggregator(honest_rows(5))
    before = aggregator.state_dict()["_extra_state"]["m"].clone()
    LineSearch(InnerProduct(), aggregator)(honest_rows(8), honest_rows(2))
    assert torch.equal(aggregator.state_dict()["_extra_state"]["m"], before)


@pytest.mark.parametrize(
    ("library", "rule", "options"),
    [("byzfl", "byzfl.Krum", {"f": 3}), ("torchjd", "torchjd.aggregation.Krum", {"n_byzantine": 3})],
)
def test_by_class_path_from_the_command_line(
    library: str, rule: str, options: dict[str, int], tmp_path
) -> None:
    pytest.importorskip(library)
    (name, value), *_ = options.items()
    cli = main(
        [
            "fit",
            "--config=configs/quickstart.yaml",
            "--model.aggregator=External",
            f"--model.aggregator.rule={rule}",
            f"--model.aggregator.rule.{name}={value}",
            f"--trainer.default_root_dir={tmp_path}",
            "--trainer.max_steps=2",
            "--trainer.enable_progress_bar=false",
        ]
    )
    aggregator = cli.model.aggregator
    assert isinstance(aggregator, Aggregator)
    assert isinstance(aggregator, External)
    assert aggregator.rule.__class__.__name__ == "Krum"
    assert cli.trainer.global_step == 2


def test_a_misspelt_setting_of_their_rule_is_refused(tmp_path) -> None:
    pytest.importorskip("byzfl")
    with pytest.raises(
        SettingError, match=r"model\.aggregator\.rule\.F: Krum has no such setting; did you mean f\?"
    ):
        main(
            [
                "fit",
                "--config=configs/quickstart.yaml",
                "--model.aggregator=External",
                "--model.aggregator.rule=byzfl.Krum",
                "--model.aggregator.rule.F=3",
                f"--trainer.default_root_dir={tmp_path}",
            ]
        )


def test_a_value_that_their_rule_refuses_is_told_in_a_line(tmp_path) -> None:
    options = ["--model.aggregator=External", "--model.aggregator.rule=torch.nn.Dropout"]
    with pytest.raises(
        SettingError, match=r"^init_args must be .* ValueError: dropout probability .* got 2.0$"
    ):
        run("fit", tmp_path, *options, "--model.aggregator.rule.p=2")


def test_a_trial_behind_steps_leaves_its_memory() -> None:
    rule = PreAggregated([], External(Last()))
    rule(torch.ones(4, 2))
    rule.trial(torch.full((4, 2), 100.0))
    assert rule(torch.full((4, 2), 3.0)).tolist() == [2.0, 2.0]
