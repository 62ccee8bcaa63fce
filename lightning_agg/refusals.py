"""What jsonargparse says of a wrong setting, in one paragraph.

It tries every type that a setting may have and tells of all, at length. What counts is the deepest of the settings that
it names, and what it wants there.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_agg import catalog
from lightning_agg.aggregators.external import PEERS
from lightning_agg.constructors import constructors
from lightning_agg.errors import SettingError

KEY = re.compile(r'Parser key "([^"]+)":(?: (.+))?$')
CLASS = re.compile(r"Problem with given class_path '([^']+)':$")
VALUE = re.compile(r"Given value: (.*)$")
GOT = re.compile(r"(.*)\. Got value: (.*)$")
TYPES = re.compile(r"Subtypes: \[(.*)\]$")
CALLABLE = re.compile(r"Type .* expects a function or a callable class: ")
ARGUMENT = re.compile(r"argument (?:-\w/)?--(\S+): (.*)")
SECTION = re.compile(r"(?:Subcommand '.*' does not accept option|^Option) '([^']+)'")
NOISE = re.compile(
    r"Does not validate|Errors:|Given value type: |Expected a path but |Expected (?:a )?<class '(?:NoneType|list)'>$"
    r"|Not a valid subclass|Subclass types expect|a class path \(str\)|a dict "
)
OTHERS = Callback, Optimizer, LRScheduler
"""Families of others whose classes settings name."""


@dataclass(frozen=True)
class Reason:
    """One thing that is wrong.

    Args:
        setting: Its dotted name.
        owner: Path of the class whose setting it is, if of one.
        text: What jsonargparse says.
        value: What was given, where that is told.
    """

    setting: str
    owner: str
    text: str
    value: str = ""


def explained(message: str, parser: ArgumentParser) -> str:
    """``message`` in one paragraph, with what may have been meant; itself where it has another form."""
    unknown = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if unknown:
        return "; ".join(_unknown_option(argument, parser) for argument in unknown[1].split())
    if argument := ARGUMENT.match(message):
        return f"{argument[1]}: {argument[2]}."
    if section := SECTION.search(message):
        return _unknown_section(section[1], parser)
    reasons = list(_reasons(message))
    if not reasons:
        return _unread(message)
    depth = max(reason.setting.count(".") for reason in reasons)
    deepest = list(dict.fromkeys(r for r in reasons if r.setting.count(".") == depth))
    typed = [r for r in deepest if r.text.startswith("Expected a ") and "dot import" not in r.text]
    others = [_told(r) for r in deepest if r not in typed]
    if not typed or any("did you mean" in told or "must be given" in told for told in others):
        return " ".join(dict.fromkeys(others))
    types = " or ".join(dict.fromkeys(_type(reason.text) for reason in typed))
    value = next((reason.value for reason in typed if reason.value), "")
    hint = " (infinity is written .inf)" if value.lstrip("+-") == "inf" else ""
    if value == "None":
        return f"{typed[0].setting} must be given: {types}."
    return f"{typed[0].setting} must be {types}" + (f", got {value}{hint}." if value else ".")


def with_its_file(told: str, args: Sequence[str]) -> str:
    """``told`` with the configuration file of a command line in which the setting stands that it begins with, if in one and nowhere else."""
    files = dict(_config_files(args))
    for file, text in files.items():
        try:
            read = yaml.safe_load(text)
        except yaml.YAMLError as error:
            return f"config must name files in YAML; {file} is not: {' '.join(str(error).split())}."
        if not isinstance(read, dict):
            return f"config must name files of settings by their names; in {file} there are none."
    setting = re.match(r"(?:there is no setting )?([\w.]+)", told)
    if setting is None:
        return told
    name = setting[1].rpartition(".")[2]
    has = [file for file, text in files.items() if re.search(rf"\b{name}[\"']?\s*:", text)]
    typed = any(re.split(r"[-.]", argument.partition("=")[0])[-1] == name for argument in args)
    return f"{told} It is in {has[0]}." if len(has) == 1 and not typed else told


def _config_files(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The files that options name, and what is in them; of those that cannot be read jsonargparse tells."""
    for argument, following in pairwise([*args, ""]):
        if argument in ("-c", "--config") or argument.startswith("--config="):
            file = following if "=" not in argument else argument.partition("=")[2]
            with suppress(OSError):
                yield file, Path(file).read_text(errors="replace")


def require_subcommand(given: Sequence[str], known: Sequence[str]) -> None:
    """Check that the first word of a command line, if it is none of the options, is a subcommand."""
    if given and not given[0].startswith("-") and given[0] not in known:
        raise SettingError(
            f"the first word must be one of {', '.join(known)}, got {given[0]}{_meant(given[0], known)}"
        )


def _reasons(message: str) -> Iterator[Reason]:
    stack: list[tuple[int, str, str]] = []
    found: list[Reason] = []
    lists: list[Reason] = []
    for line in filter(str.strip, message.splitlines()):
        indent = len(line) - len(line.lstrip(" "))
        text, called = CALLABLE.subn("", line.lstrip(" -"))
        while stack and stack[-1][0] >= indent:
            stack.pop()
        setting = ".".join(name for _, kind, name in stack if kind == "key")
        owners = [name for _, kind, name in reversed(stack) if kind == "class" and not called]
        owner = owners[0] if owners else ""
        if key := KEY.match(text):
            stack.append((indent, "key", key[1]))
            if key[2]:
                found.append(Reason(f"{setting}.{key[1]}".lstrip("."), owner, key[2]))
        elif path := CLASS.match(text):
            stack.append((indent, "class", path[1]))
        elif value := VALUE.match(text):
            given = value[1].partition(". Got value: ")[0]
            if not given.startswith(("NestedArg(", "Namespace(")):
                found = [replace(r, value=r.value or given) if r.setting == setting else r for r in found]
                lists = [replace(r, value=given) if r.setting == setting else r for r in lists]
        elif types := TYPES.match(text):
            if types[1].startswith("list["):
                lists.append(Reason(setting, owner, f"Expected a {types[1].partition(']')[0]}]"))
        elif not NOISE.match(text):
            found.append(_reason(setting, owner, text))
    depth = max((reason.setting.count(".") for reason in found), default=-1)
    yield from found
    yield from (reason for reason in lists if reason.setting.count(".") > depth)


def _reason(setting: str, owner: str, text: str) -> Reason:
    got = GOT.match(text)
    if got is None:
        return Reason(setting, owner, text)
    text, given = got.groups()
    made = re.match(r"Namespace\(class_path='([^']+)'", given)
    if made is None:
        return Reason(setting, owner, text, given)
    value = re.search(rf"\b{setting.rpartition('.')[2]}='?([^',)]*)", given)
    return Reason(setting, made[1], text, value[1] if value else "")


def _told(reason: Reason) -> str:
    text, setting = reason.text, reason.setting
    owner = reason.owner.rpartition(".")[2]
    if name := re.match(r"Expected a dot import path string: (.*)", text):
        if family := next((f for f in catalog.FAMILIES if name[1] in _names(f)), None):
            place = catalog.FAMILIES[family][1]
            if setting == place:  # of which the class takes not every one
                wanted = _parameters(reason.owner)[setting.rpartition(".")[2]].annotation
                return f"{setting} must be a {getattr(wanted, '__name__', wanted)} in {owner}, got {name[1]}."
            return f"{setting}: {name[1]} is one of the {family}, for {place}."
        return f"{setting}: there is no class {name[1]}{_meant(name[1], _class_names())}"
    if name := re.match(r"Option '(.*)' is not accepted", text):
        names = list(_parameters(reason.owner))
        has = f" (it has {', '.join(names)})" if names else ""
        return f"{setting}.{name[1]}: {owner} has no such setting{_meant(name[1], names, has + '.')}"
    if missing := re.match(r"the following arguments are required: (.*)", text):
        names = [f"{setting}.{name}".lstrip(".") for name in missing[1].split(", ")]
        needs = f": {owner} needs {'it' if len(names) == 1 else 'them'}." if owner else "."
        return f"{' and '.join(names)} must be given{needs}"
    if base := re.search(r"but (?:(\S+) )?is abstract", text):
        return _of_an_abstract_class(setting, base[1] or reason.value)
    if path := re.match(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", text):
        given = path[1] or reason.value
        peer = path[2] == "Aggregator" and given.partition(".")[0] in PEERS
        hint = f"; a rule of another library: --{setting} External --{setting}.rule {given}" if peer else ""
        return f"{setting}: {given} is no {path[2]}{hint}."
    if text.startswith("No module named"):
        return f"{setting}: {reason.owner or reason.value} cannot be imported: {text}."
    return f"{setting}: {text}"


def _of_an_abstract_class(setting: str, path: str) -> str:
    """Of one of ours, that another one is to be named; of the user's own, what it lacks."""
    package, _, name = path.rpartition(".")
    if not package or package.startswith("lightning_agg."):
        return f"{setting} must name a class, before its settings: {name} is none that can be made."
    return f"{setting}: {name} must define {' and '.join(sorted(resolve_name(path).__abstractmethods__))}."


def _type(text: str) -> str:
    wanted = text.removeprefix("Expected a ")
    if choices := re.match(r"typing\.Literal\[(.*)\]", wanted):
        return " or ".join(choices[1].split(", "))
    plain = re.match(r"<class '(?:.*\.)?(\w+)'>", wanted)
    return {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a text"}.get(
        plain[1] if plain else "", plain[1] if plain else wanted
    )


def _unknown_option(argument: str, parser: ArgumentParser) -> str:
    name = argument.partition("=")[0]
    return f"there is no setting {name}{_meant(name, parser._option_string_actions)}"


def _unknown_section(name: str, parser: ArgumentParser) -> str:
    """Of a name in a file; where its first part is none that there is, of that."""
    known = {action.dest for action in parser._actions}
    sections = {dest.partition(".")[0] for dest in known}
    first = name.partition(".")[0]
    name, known = (name, known) if first in sections else (first, sections)
    return f"there is no setting {name}{_meant(name, known)}"


def _unread(message: str) -> str:
    """Of a value in which there is nothing to read."""
    key, value = KEY.match(message.partition("\n")[0]), VALUE.search(message)
    if key is None or value is None:
        return message
    return f"{key[1]} must be a class_path with its init_args, or settings alone, got {value[1]}."


def _meant(name: str, names: Iterable[str], otherwise: str = ".") -> str:
    """The end of a sentence: which of ``names`` may have been meant, if one is close."""
    lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean {lower[close[0]]}?" if close else otherwise


def _names(family: str) -> set[str]:
    return {entry["name"] for entry in catalog.entries(family)}


def _class_names() -> set[str]:
    others = {cls.__name__ for base in OTHERS for cls in catalog.below(base)}
    return others.union(*map(_names, catalog.FAMILIES))


def _parameters(path: str) -> dict[str, Parameter]:
    """The settings of a class by name, those that it hands on to its bases included."""
    parameters = (
        p for function in constructors(resolve_name(path)) for p in signature(function).parameters.values()
    )
    found: dict[str, Parameter] = {}
    for p in parameters:
        if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            found.setdefault(p.name, p)  # a class's own word counts, where its base has the same parameter
    return found
