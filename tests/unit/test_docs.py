"""The pages of docs/ say what the docstrings say, and their examples run."""

import doctest
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from lightning_agg.aggregators import Recurrent

DOCS = Path(__file__).parents[2] / "docs"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = load()
PAGES = BUILD.pages()


@pytest.mark.parametrize("path", PAGES)
def test_page_is_up_to_date(path: str) -> None:
    assert (DOCS / path).read_text() == PAGES[path], "run python docs/build.py"


@pytest.mark.parametrize("folder", BUILD.FAMILIES)
def test_every_class_has_a_page_and_no_other(folder: str) -> None:
    package, base = BUILD.FAMILIES[folder]
    pages = {path.stem for path in (DOCS / folder).glob("*.md")} - {"README"}
    assert pages == {cls.__name__ for cls in BUILD.rules(package, base)}


@pytest.mark.parametrize("path", [path for path in PAGES if ">>>" in PAGES[path]])
def test_examples_run(path: str) -> None:
    blocks = PAGES[path].split("```python\n")[1].split("```")[0]
    test = doctest.DocTestParser().get_doctest(blocks, {}, path, path, 0)
    assert len(test.examples) > 1
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


@pytest.mark.parametrize("path", [path for path in PAGES if "```yaml" in PAGES[path]])
def test_yaml_is_yaml(path: str) -> None:
    for block in PAGES[path].split("```yaml\n")[1:]:
        assert isinstance(yaml.safe_load(block.split("```")[0]), dict)


@pytest.mark.parametrize("folder", BUILD.FAMILIES)
def test_docstrings_tell_source_cost_and_breakdown(folder: str) -> None:
    package, base = BUILD.FAMILIES[folder]
    classes = set(BUILD.rules(package, base)) - {Recurrent}  # its cost is that of its network
    assert len(classes) > 3
    for cls in classes:
        text, sections = BUILD.parsed(cls)
        assert {"Reference", "Example"} <= set(sections), cls
        named = [p for p in inspect.signature(cls).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert ("Args" in sections) == bool(named), cls
        assert all(f"| `{p.name}` |" in PAGES[f"{folder}/{cls.__name__}.md"] for p in named), cls
        assert BUILD.labelled(text, "Cost", folder), cls
        assert folder == "attacks" or BUILD.labelled(text, "Breakdown", folder), cls


@pytest.mark.parametrize("path", PAGES)
def test_no_docstring_markup_is_left(path: str) -> None:
    text = PAGES[path]
    assert ":math:" not in text
    assert ":class:" not in text
    assert "`_" not in text
    assert "::" not in text
