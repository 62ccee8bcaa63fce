"""Settings of the learned aggregators, and the files that hold them beside the weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_agg.aggregators.recurrent_network import Cell
from lightning_agg.aggregators.worker_features import Clamp, Order, Scale, Trust
from lightning_agg.aggregators.worker_trust import LIMIT
from lightning_agg.errors import SettingError, require, require_choice, require_count, require_positive

ARCHITECTURE: dict[str, Any] = {
    "cell": "lstm",
    "hidden_size": 20,
    "num_layers": 2,
    "loss_information": False,
    "worker_order": "given",
    "scale": "l2",
    "running_scale": 0.0,
    "adaptivity": 0.0,
    "normalization": 0.0,
    "batch_scaling": 0.0,
    "batch_decay": 0.0,
    "clamp": "signed",
    "clamp_exponent": 10.0,
    "output_scale": 0.1,
    "decay_after": 0,
    "slots": 10,
    "num_samples": 32,
    "trial_step": 1.0,
    "gate": False,
    "trust": "losses",
    "num_judges": 1,
    "length_limit": 5.0,
    "trust_horizon": 0,
    "trust_floor": -LIMIT,
    "merge_copies": False,
    "early_samples": 0,
    "trust_decay": 0.0,
    "trust_margin": 0.0,
    "direction_decay": 0.0,
    "direction_margin": 0.0,
    "distrust_copies": False,
    "momenta": [],
    "line_search": False,
}
"""The settings that weights belong to, with the values that stand where neither settings nor weights give one."""

FREE = {
    "output_scale", "normalization", "decay_after", "batch_scaling", "batch_decay",
    "trust", "trust_decay", "trust_margin", "direction_decay", "direction_margin", "distrust_copies", "length_limit", "trust_horizon", "trust_floor", "merge_copies", "early_samples",
    "num_samples", "trial_step", "line_search",
}  # fmt: skip
"""Settings that may differ from those of the weights: the step size, and by what workers are trusted."""


RULE_OF_TRUST = ("trust_decay", "trust_margin", "direction_decay", "direction_margin", "distrust_copies")
"""Settings of the rule by which workers are trusted where that is not learned."""

OF_JUDGES = ("num_judges", "length_limit", "trust_horizon", "trust_floor", "merge_copies", "early_samples")
"""Settings of trust that is learned."""


def merged(given: dict[str, Any], stored: dict[str, Any], weights: str | None) -> dict[str, Any]:
    """The settings that are ``given`` over those ``stored`` with the ``weights``, a value for each of ARCHITECTURE.

    Raises:
        SettingError: If a setting that is given must be that of the weights and is not, or the settings do not fit each other.
    """
    for name, value in given.items():
        require(
            name in FREE
            or stored.get(name, value) == value
            or (name == "loss_information" and widens(given, stored))
            or (name == "num_judges" and stored.get("trust") != "learned"),
            f"Recurrent.{name} must be that of the weights, or null ({weights}: {stored.get(name)!r}, {name} ="
            f" {value!r}).",
        )
    settings = {**ARCHITECTURE, **stored, **given}
    if settings["trust"] == "learned":  # weights that were trained with a rule hold the rule's settings
        settings |= {name: ARCHITECTURE[name] for name in RULE_OF_TRUST if name not in given}
    else:  # and weights that were trained with judges theirs
        settings |= {name: ARCHITECTURE[name] for name in OF_JUDGES if name not in given}
    check_settings(settings)
    return settings


def widens(given: dict[str, Any], stored: dict[str, Any]) -> bool:
    """Whether an RNN's weights are to begin an ARNN."""
    return given.get("loss_information") is True and stored.get("loss_information") is False


def write_weights(path: Path, settings: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write weights, with the settings they belong to, as a safetensors file."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial = path.with_name(path.name + ".partial")  # a run that is killed here keeps the weights before
    save_file(on_cpu, partial, metadata={"architecture": json.dumps(settings, default=_python_number)})
    partial.replace(path)


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a file that :func:`write_weights` has written.

    Raises:
        SettingError: If the file is truncated or no safetensors file, or holds weights of something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise SettingError(
            f"Recurrent.weights must be a complete safetensors file; {path} is not: {error}"
        ) from error
    try:
        stored = json.loads(metadata.get("architecture", "{}"))
    except ValueError:
        stored = {}
    kinds = {name: type(value) for name, value in ARCHITECTURE.items()}
    require(
        isinstance(stored, dict)
        and len(stored) > 0
        and all(name in kinds and _is(kinds[name], value) for name, value in stored.items()),
        f"Recurrent.weights must hold a Recurrent aggregator; {path} lacks its settings.",
    )
    # A setting that came after the weights were saved has the value that it had without being one.
    settings = {**ARCHITECTURE, **stored}
    try:
        check_settings(settings)
    except SettingError as error:
        raise SettingError(
            f"Recurrent.weights must hold settings that fit each other; {path} does not: {error}"
        ) from error
    require(
        all(bool(tensor.isfinite().all()) for tensor in tensors.values()),
        f"Recurrent.weights must be finite; those of {path} are not.",
    )
    return settings, tensors


def _python_number(value: Any) -> Any:
    """Of one of NumPy's, which JSON does not know."""
    return value.item()


def _is(kind: type, value: object) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def check_settings(settings: dict[str, Any]) -> None:
    """Raise :class:`SettingError` unless the settings, a value for each of ARCHITECTURE, fit each other."""
    for name in ("hidden_size", "num_layers", "slots", "num_samples", "num_judges"):
        require_count(name, settings[name], minimum=1)
    for name in ("decay_after", "trust_horizon", "early_samples"):
        require_count(name, settings[name])
    for name in ("clamp_exponent", "output_scale", "trial_step", "length_limit"):
        require_positive(name, settings[name])
    for name, choices in (
        ("cell", Cell),
        ("worker_order", Order),
        ("scale", Scale),
        ("clamp", Clamp),
        ("trust", Trust),
    ):
        require_choice(name, settings[name], get_args(choices))
    for name in ("trust_decay", "batch_scaling", "adaptivity", "normalization"):
        require(0 <= settings[name] <= 1, f"{name} must be in [0, 1], got {settings[name]}.")
    for name in ("trust_margin", "direction_decay", "direction_margin", "running_scale", "batch_decay"):
        require(0 <= settings[name] < 1, f"{name} must be in [0, 1), got {settings[name]}.")
    require(
        -LIMIT <= settings["trust_floor"] <= 0,
        f"trust_floor must be in [{-LIMIT:g}, 0], got {settings['trust_floor']}.",
    )
    for momentum in settings["momenta"]:
        require(
            isinstance(momentum, int | float) and 0 <= momentum < 1,
            f"momenta must be in [0, 1), got {momentum!r}.",
        )
    gated = settings["gate"]
    uses_trust = gated or settings["loss_information"] or settings["worker_order"] == "trust"
    for name in ("trust_decay", "trust_margin", "direction_decay"):
        require(
            uses_trust or not settings[name],
            f"{name} needs gate true, loss_information true or worker_order trust, got {settings[name]} and none of them.",
        )
    learned = settings["trust"] == "learned"
    for name in RULE_OF_TRUST:
        require(
            not learned or not settings[name],
            f"{name} must be 0 or false where trust is learned: it is of trust by a rule, got {settings[name]}.",
        )
    for name in OF_JUDGES:
        require(
            learned or settings[name] == ARCHITECTURE[name],
            f"{name} needs trust learned, got {settings[name]} and {settings['trust']}.",
        )
    require(
        uses_trust or settings["trust"] == "losses",
        f"trust {settings['trust']} needs gate true or worker_order trust, got neither.",
    )
    require(
        settings["direction_decay"] > 0 or not settings["direction_margin"],
        f"direction_margin needs a direction_decay above 0, got {settings['direction_margin']} and 0.",
    )
    require(
        gated or not settings["batch_scaling"],
        "batch_scaling needs gate true: it is that of trusted workers, got false"
        f" ({settings['batch_scaling']}).",
    )
    require(
        settings["batch_scaling"] > 0 or not settings["batch_decay"],
        f"batch_decay needs a batch_scaling above 0, got {settings['batch_decay']} and 0.",
    )
    require(
        not gated or settings["worker_order"] != "sorted",
        "gate needs worker_order given or trust: sorted inputs belong to no worker, got sorted.",
    )
    require(
        settings["trust"] != "peers" or not settings["loss_information"],
        "trust peers needs loss_information false: it asks for no losses, got true.",
    )
    require(settings["scale"] != "trusted" or gated, "scale trusted needs gate true, got false.")
    require(gated or not settings["distrust_copies"], "distrust_copies needs gate true, got false.")
    require(
        settings["scale"] != "lead" or settings["slots"] >= 2,
        f"scale lead needs at least 2 slots, got {settings['slots']}.",
    )
