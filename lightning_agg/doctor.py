"""Whether what the package needs is there: ``lightning-agg doctor``."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version

import torch
from packaging.requirements import Requirement

from lightning_agg import catalog, pretrained
from lightning_agg.aggregators import Recurrent
from lightning_agg.aggregators.external import PEERS
from lightning_agg.errors import SettingError


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``wrong`` where something will not work."""

    name: str
    told: str
    wrong: bool = False


def main(args: Sequence[str]) -> None:
    """Print the report; exit with status 1 if something is wrong.

    Args:
        args: What follows ``doctor`` on the command line.
    """
    parser = argparse.ArgumentParser(
        prog="lightning-agg doctor",
        description="Tell versions, devices, plugins and shipped weights, and what is wrong with them: for a look at a new machine, and to"
        " be put into a report of a fault.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    as_json = parser.parse_args(list(args)).json
    findings = [*packages(), *machine(), *plugins(), *weights()]
    wrong = sum(finding.wrong for finding in findings)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{'wrong' if finding.wrong else 'ok':5}  {finding.name:{width}}  {finding.told}")
        print(f"\n{wrong or 'nothing'} wrong")
    sys.exit(1 if wrong else 0)


def packages() -> Iterator[Finding]:
    """Each package that this one requires, and the peers where they are installed."""
    try:
        yield Finding("lightning_agg", version("lightning_agg"))
    except PackageNotFoundError:
        yield Finding("lightning_agg", "not installed, must be: pip install -e .", wrong=True)
        return
    for requirement in map(Requirement, requires("lightning_agg") or []):
        if requirement.marker is None:  # those with one are of extras
            yield _package(requirement)
    for name in PEERS:
        try:
            yield Finding(name, f"{version(name)} (for External)")
        except PackageNotFoundError:
            yield Finding(name, "not installed (only for External)")


def _package(requirement: Requirement) -> Finding:
    asked = f"{requirement.name}{requirement.specifier}"
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Finding(requirement.name, f"not installed, must be {asked}", wrong=True)
    fits = requirement.specifier.contains(found, prereleases=True)
    return Finding(requirement.name, found if fits else f"{found}, must be {asked}", wrong=not fits)


def machine() -> Iterator[Finding]:
    """Python, processors and accelerators."""
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Finding(
        "cpu",
        f"{os.cpu_count()} cores; torch would use {torch.get_num_threads()} threads (OMP_NUM_THREADS {asked}), a run uses"
        " model.num_threads",
    )
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    yield Finding("accelerators", ", ".join(names) or "none")


def plugins() -> Iterator[Finding]:
    """What other packages have registered."""
    for plugin, fault in catalog.import_plugins():
        yield Finding(
            f"plugin {plugin.name}", f"{plugin.value}: {fault}" if fault else plugin.value, bool(fault)
        )


def weights() -> Iterator[Finding]:
    """Whether each shipped aggregator can be read."""
    for name in pretrained.names():
        try:
            Recurrent(weights=name)
            yield Finding(f"weights {name}", "read")
        except SettingError as error:
            yield Finding(f"weights {name}", str(error), wrong=True)
