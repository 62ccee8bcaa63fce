"""Reading a command line: its settings, its files, and in which order they win."""

from collections.abc import Sequence
from itertools import islice

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, get_loader, set_loader

from lightning_agg.errors import SettingError
from lightning_agg.refusals import explained, with_its_file


def parse(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """What ``parser`` reads.

    Raises:
        SettingError: If it does not accept something, or a configuration file is no text.
    """
    known = get_loader("yaml")
    # jsonargparse hands what it has read on to the parser of a class in a class, as Python's text of it: null as None.
    set_loader("yaml", lambda text: None if text == "None" else known(text), (yaml.YAMLError,))
    try:
        return parser.parse_args(list(args))
    except UnicodeDecodeError as error:
        raise SettingError(f"config must name text files in YAML; one is not: {error}.") from error
    except ArgumentError as error:
        parsers = getattr(parser._subcommands_action, "_name_parser_map", {})
        told = explained(str(error), parsers.get(args[0], parser) if args else parser)
        raise SettingError(with_its_file(told, args)) from None
    finally:
        set_loader("yaml", known, (yaml.YAMLError,))


def files_first(args: Sequence[str]) -> list[str]:
    """A command line with its configuration files before its options, so that options win over files wherever they stand.

    Example:
        >>> files_first(["fit", "--data.pool_size", "5", "-c", "a.yaml", "--config=b.yaml"])
        ['fit', '-c', 'a.yaml', '--config=b.yaml', '--data.pool_size', '5']
    """
    if not args or args[0].startswith("-"):
        return list(args)
    subcommand, *rest = args
    files, options, told = [], [], iter(rest)
    for argument in told:
        if argument in ("-c", "--config"):
            files += [argument, *islice(told, 1)]
        elif argument.startswith("--config="):
            files.append(argument)
        else:
            options.append(argument)
    return [subcommand, *files, *options]
