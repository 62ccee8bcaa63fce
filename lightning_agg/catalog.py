"""What there is to choose from: ``lightning-agg list``."""

import argparse
import inspect
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from lightning_agg import models, pretrained
from lightning_agg.aggregators import Aggregator
from lightning_agg.aggregators.recurrent_settings import read_weights
from lightning_agg.attacks import Attack
from lightning_agg.compressors import Compressor
from lightning_agg.data import PoolDataModule, TorchvisionPool
from lightning_agg.modules import PoolModule
from lightning_agg.noise_scales import NoiseScale
from lightning_agg.partitioners import Partitioner
from lightning_agg.preaggregators import PreAggregator

PLUGINS = "lightning_agg"
"""Group of the entry points of packages whose classes are known by their bare names."""

FAMILIES: dict[str, tuple[type, str]] = {
    "aggregators": (Aggregator, "model.aggregator"),
    "preaggregators": (PreAggregator, "model.aggregator.steps"),
    "attacks": (Attack, "byzantine.attack"),
    "partitioners": (Partitioner, "data.partitioner"),
    "data": (PoolDataModule, "data"),
    "models": (nn.Module, "model.model"),
    "noise_scales": (NoiseScale, "noise.scale"),
    "compressors": (Compressor, "compression.compressor"),
    "modules": (PoolModule, "model"),
}
"""Base class of each family, and the setting that takes one of it."""

WEIGHTS = "weights"
"""The family that is of files and not of classes."""

LATEX = {
    r"\tau": "τ", r"\kappa": "κ", r"\gamma": "γ", r"\mu": "μ", r"\sigma": "σ", r"\varepsilon": "ε",  # noqa: RUF001
    r"\lambda": "λ", r"\lfloor": "⌊", r"\rfloor": "⌋", r"\lVert": "‖", r"\rVert": "‖", r"\min": "min", r"\log": "log",
    r"\sum": "Σ", r"\mathcal{N}": "N", r"\frac12": "½", r"\operatorname": "",
}  # fmt: skip


def load_plugins() -> None:
    """Import what other packages have registered; one that cannot be imported is a warning, and the others go on."""
    for plugin, fault in import_plugins():
        if fault:
            warnings.warn(f"the plugin {plugin.value} cannot be imported: {fault}", stacklevel=2)


def import_plugins() -> Iterator[tuple[EntryPoint, str]]:
    """What other packages have registered, imported, each with what was wrong with it: mostly nothing."""
    for plugin in entry_points(group=PLUGINS):
        try:
            plugin.load()
        except Exception as error:  # whatever it is made of
            yield plugin, f"{type(error).__name__}: {error}"
        else:
            yield plugin, ""


def entries(family: str) -> list[dict[str, str]]:
    """Each choice of a family, by name: the setting that takes it, the value for that, and what it is."""
    if family == WEIGHTS:
        return [
            {"name": name, "setting": "model.aggregator.weights", "value": name, "summary": _trained(name)}
            for name in pretrained.names()
        ]
    base, setting = FAMILIES[family]
    found = _models() if family == "models" else set(below(base))
    return [
        {
            "name": cls.__name__,
            "setting": setting,
            "value": f"{cls.__module__}.{cls.__qualname__}",
            "summary": plain((inspect.getdoc(cls) or "").partition("\n\n")[0]),
        }
        for cls in sorted(found, key=lambda cls: cls.__name__)
    ]


def main(args: Sequence[str]) -> None:
    """List the families, or those that are named.

    Args:
        args: What follows ``list`` on the command line.
    """
    families = [*FAMILIES, WEIGHTS]
    parser = argparse.ArgumentParser(
        prog="lightning-agg list", description="What there is of each family, or of those that are named."
    )
    parser.add_argument("family", nargs="*", help=", ".join(families))
    parser.add_argument("--json", action="store_true", help="as JSON, by family")
    told = parser.parse_args(list(args))
    named = [next((f for f in families if name in (f, f.removesuffix("s"))), name) for name in told.family]
    unknown = sorted(set(named) - set(families))
    if unknown:
        parser.error(f"family must be one of {', '.join(families)}, got {', '.join(unknown)}.")
    load_plugins()
    listed = {family: entries(family) for family in named or families}
    if told.json:
        print(json.dumps(listed, indent=2))
        return
    for family, choices in listed.items():
        print(f"{family}, --{choices[0]['setting']}:")
        width = max(len(choice["name"]) for choice in choices)
        for choice in choices:
            print(f"  {choice['name']:{width}}  {choice['summary']}")
        print()


def plain(text: str) -> str:
    """The text of a docstring without its markup.

    Example:
        >>> plain("Rows longer than :math:`x_i`, as :class:`~lightning_agg.aggregators.Krum` and ``Mean``.")
        'Rows longer than x_i, as Krum and Mean.'
    """
    text = re.sub(r":math:`([^`]*)`", lambda formula: _without_latex(formula[1]), " ".join(text.split()))
    text = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", text)
    return text.replace("``", "")


def _without_latex(formula: str) -> str:
    for command, sign in LATEX.items():
        formula = formula.replace(command, sign)
    return formula.replace("{", "").replace("}", "")


def below(base: type) -> Iterator[type]:
    """The classes below ``base`` that can be made, those of plugins too."""
    children: list[type] = base.__subclasses__()
    for cls in children:
        if not inspect.isabstract(cls) and cls is not TorchvisionPool:
            yield cls
        yield from below(cls)


def _models() -> set[type]:
    """Those of this package: of others, any ``nn.Module`` may be one."""
    exported: list[object] = [getattr(models, name) for name in models.__all__]
    return {cls for cls in exported if isinstance(cls, type)}


def _trained(name: str) -> str:
    settings, _ = read_weights(pretrained.locate(name))
    kind = "ARNN" if settings["loss_information"] else "RNN"
    trust = ", trust learned" if settings["trust"] == "learned" else ""
    return f"{kind} of {settings['cell'].upper()} cells, workers in {settings['worker_order']} order{trust}"
