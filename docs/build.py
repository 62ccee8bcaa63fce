"""Writes the page of every aggregator, pre-aggregator and attack, and the list of where others err, from the docstrings.

python docs/build.py
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType

from lightning_agg import aggregators, attacks, preaggregators

ROOT = Path(__file__).parent.parent
FAMILIES = {
    "aggregators": (aggregators, aggregators.Aggregator),
    "preaggregators": (preaggregators, preaggregators.PreAggregator),
    "attacks": (attacks, attacks.Attack),
}
SECTIONS = ("Reference", "Args", "Raises", "Example")
NOTE = "<!-- Made by python docs/build.py from the docstrings: change those. -->\n"


def pages() -> dict[str, str]:
    """The text of every page, by its path below ``docs/``."""
    made = {}
    for folder, (package, base) in FAMILIES.items():
        classes = sorted(rules(package, base), key=lambda cls: cls.__name__)
        made[f"{folder}/README.md"] = index(folder, classes)
        for cls in classes:
            made[f"{folder}/{cls.__name__}.md"] = page(folder, package, cls)
    made["where_others_err.md"] = errors_of_others()
    return made


def rules(package: ModuleType, base: type) -> Iterator[type]:
    """The concrete classes of a family."""
    for name in package.__all__:
        cls = getattr(package, name)
        if isinstance(cls, type) and issubclass(cls, base) and not inspect.isabstract(cls):
            yield cls


def page(folder: str, package: ModuleType, cls: type) -> str:
    """The page of one class."""
    text, sections = parsed(cls)
    parts = [NOTE + f"# {cls.__name__}", markdown(text, folder)]
    if "Reference" in sections:
        parts += ["## Source", markdown(sections["Reference"], folder)]
    if "Args" in sections:
        parts += ["## Settings", settings(cls, sections["Args"], folder)]
    if "Raises" in sections:
        parts += ["## Errors", markdown(sections["Raises"], folder)]
    if "Example" in sections:
        parts += ["## Example", example(package, sections["Example"])]
    group = folder.removeprefix("pre").removesuffix("s")
    fragment = ROOT / "configs" / group / f"{snake(cls.__name__)}.yaml"
    if fragment.exists():
        shown = fragment.relative_to(ROOT)
        parts += [f"In YAML, `-c {shown}`:", f"```yaml\n{fragment.read_text().strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def index(folder: str, classes: list[type]) -> str:
    """The table of a family."""
    with_breakdown = folder != "attacks"
    names = ["", "", "cost", "breakdown point"][: 4 if with_breakdown else 3]
    lines = [" | ".join(["", *names, ""]).strip(), "|" + "---|" * len(names)]
    for cls in classes:
        text, _ = parsed(cls)
        summary = markdown(text.split("\n\n")[0], folder)
        row = [f"[{cls.__name__}]({cls.__name__}.md)", summary, labelled(text, "Cost", folder)]
        row += [labelled(text, "Breakdown", folder)] if with_breakdown else []
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    return NOTE + f"# {folder.capitalize()}\n\n" + "\n".join(lines) + "\n"


def parsed(cls: type) -> tuple[str, dict[str, str]]:
    """The free text of a docstring, and its sections."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", inspect.getdoc(cls) or "", flags=re.M)
    return parts[0].strip(), dict(
        zip(parts[1::2], (dedent(part).strip() for part in parts[2::2]), strict=True)
    )


def labelled(text: str, label: str, folder: str) -> str:
    """The paragraph that begins with ``label:``."""
    found = [part for part in text.split("\n\n") if part.startswith(f"{label}: ")]
    return markdown(found[0].removeprefix(f"{label}: "), folder) if found else ""


def settings(cls: type, section: str, folder: str) -> str:
    """The arguments of a class, with their defaults, as a table."""
    lines = ["| setting | default | |", "|---|---|---|"]
    parameters = inspect.signature(cls).parameters
    for name, text in re.findall(r"^(\w+): (.*(?:\n[ ]+.*)*)", section, flags=re.M):
        default = parameters[name].default
        shown = "required" if default is inspect.Parameter.empty else f"`{default!r}`"
        lines.append(f"| `{name}` | {shown} | " + markdown(text, folder).replace("|", r"\|") + " |")
    return "\n".join(lines)


def example(package: ModuleType, section: str) -> str:
    """The example, with the imports that it needs."""
    imported = " ".join(re.findall(r"^>>> .*\bimport (.*)$", section, flags=re.M))
    used = [name for name in package.__all__ if re.search(rf"\b{name}\b", section) and name not in imported]
    head = [f">>> from {package.__name__} import {', '.join(used)}"]
    if ">>> import torch" not in section:
        head.insert(0, ">>> import torch")
    return "```python\n" + "\n".join([*head, section]) + "\n```"


def markdown(text: str, folder: str) -> str:
    """Docstring markup -> Markdown: one line a paragraph, code blocks as they are."""
    blocks: list[str] = []
    for part in text.split("\n\n"):
        if part.startswith("    ") and blocks and (blocks[-1].endswith(":") or blocks[-1].endswith("```")):
            code = inspect.cleandoc("\n" + part)
            blocks.append(f"```yaml\n{code}\n```")
        elif part.startswith("=="):
            blocks.append(f"```\n{part}\n```")
        else:
            blocks.append(paragraph(part, folder))
    return "\n\n".join(blocks)


def paragraph(text: str, folder: str) -> str:
    """One paragraph of docstring markup -> one line of Markdown."""
    text = re.sub(r"\n *-model-poisoning", "-model-poisoning", text)  # a URL broken in two lines
    text = " ".join(text.split())
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":class:`[^`]*?(\w+)`", lambda match: link(match.group(1), folder), text)
    text = re.sub(r":\w+:`~?([^`]*)`", r"``\1``", text)
    text = re.sub(r"(?<!`)`([^`<]+?) <([^`>]+)>`_", r"[\1](\2)", text)
    text = text.replace("``", "`")
    text = re.sub(r"^(Cost|Breakdown): ", r"**\1:** ", text)
    return text.removesuffix("::") + ":" if text.endswith("::") else text


def link(name: str, folder: str) -> str:
    """A class -> a link to its page, or its name where it has none."""
    for other, (package, base) in FAMILIES.items():
        if any(cls.__name__ == name for cls in rules(package, base)):
            return f"[{name}]({'' if other == folder else f'../{other}/'}{name}.md)"
    return f"`{name}`"


def snake(name: str) -> str:
    """``NearestNeighborMixing`` -> ``nearest_neighbor_mixing``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def errors_of_others() -> str:
    """What the tests of other libraries' errors say, with the versions that they ran with."""
    tests = ast.parse((ROOT / "tests" / "values" / "test_where_peers_err.py").read_text())
    said = [ast.get_docstring(node) for node in tests.body if isinstance(node, ast.FunctionDef)]
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M))
    items = [f"- {' '.join(text.split())}" for text in said if text and text.startswith(("ByzFL", "TorchJD"))]
    head = (
        "# Where others err\n\n"
        f"Seen with ByzFL {pinned['byzfl']} and TorchJD {pinned['torchjd']}. Each line is a test in"
        " [tests/values/test_where_peers_err.py](../tests/values/test_where_peers_err.py), which shows the input, an exact"
        " reference and what ours gives. Where they are right, ours agree:"
        " [tests/values/test_parity.py](../tests/values/test_parity.py).\n\n"
    )
    return NOTE + head + "\n".join(items) + "\n"


def write() -> None:
    """Write all pages; remove those of classes that are gone."""
    made = pages()
    for folder in FAMILIES:
        for old in (ROOT / "docs" / folder).glob("*.md"):
            if f"{folder}/{old.name}" not in made:
                old.unlink()
    for path, text in made.items():
        target = ROOT / "docs" / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    write()
