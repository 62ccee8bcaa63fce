"""Ships the aggregator that a run of ``MetaLearner`` has trained: copies its weights and writes its card.

    lightning-agg fit -c configs/meta/mnist_arnn.yaml
    python benchmarks/ship.py logs/meta/mnist_arnn/version_0 mnist_arnn_lstm --command "lightning-agg fit -c configs/meta/mnist_arnn.yaml"
    python benchmarks/learned.py attacked --root DIR --results FILE
    python benchmarks/ship.py ... --results FILE      # again, now with the scores

Without ``--results`` the card says nothing of scores beyond those of the validation. ``--judges RUN`` adds the judges of other runs to its own,
``--settings SETTING=VALUE`` changes what may differ from what was trained with.
"""

import argparse
import ast
import csv
import hashlib
import json
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from learned_runs import ATTACKS, MARKS, NO_ATTACK, Run, settings_in

from lightning_agg import pretrained
from lightning_agg.aggregators import Recurrent
from lightning_agg.aggregators.recurrent_settings import read_weights
from lightning_agg.sweep.markdown import header, row, spread


def last_rule(run: Path) -> Recurrent:
    """With the weights of the run's last checkpoint."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    rule = Recurrent(weights=str(run / "aggregator.safetensors"))
    for name, part in (("network", rule.network), ("judges", rule.judges)):
        prefix = f"aggregator.{name}."
        if part is not None:
            part.load_state_dict(
                {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            )
    return rule


def last_weights(run: Path, share: float, others: Sequence[Path]) -> Path:
    """Those of the run's last checkpoint, as a file; of its network this share of them, and the rest of those that the run began with.

    The mean keeps more of what the start was good at (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). The judges of
    the ``others`` judge beside its own.
    """
    rule = last_rule(run)
    if share < 1:
        config = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["aggregator"]
        began = Recurrent(**config["init_args"]).network.state_dict()
        tensors = rule.network.state_dict()
        rule.network.load_state_dict({key: began[key].lerp(value, share) for key, value in tensors.items()})
    for other in others:
        judges = last_rule(other).judges
        if rule.judges is None or judges is None:
            raise SystemExit(f"--judges must be runs with trust learned, as RUN; {run} or {other} is not")
        rule.judges.extend(judges)
        rule.architecture["num_judges"] = len(rule.judges)
    rule.save(run / "last.safetensors")
    return run / "last.safetensors"


def card(
    run: Path,
    weights: Path,
    last: float | None,
    name: str,
    command: str,
    others: Sequence[Path],
    changes: Sequence[str],
    results: dict[str, Any],
) -> Iterator[str]:
    """The lines of the card."""
    settings, tensors = read_weights(weights)
    config = yaml.safe_load((run / "config.yaml").read_text())
    with (run / "metrics.csv").open() as file:
        validations = [line for line in csv.DictReader(file) if line.get("meta/val_loss")]
    shown = validations[-1] if last else min(validations, key=lambda line: float(line["meta/val_loss"]))
    yield f"# {name}"
    yield ""
    yield f"Trained weights of `Recurrent`: `--model.aggregator Recurrent --model.aggregator.weights {name}`,"
    yield "with `torch.optim.SGD` and lr 1 as the server's optimizer."
    yield ""
    yield f"- Settings: {', '.join(f'{key} {value}' for key, value in settings.items())}."
    yield f"- {sum(t.numel() for t in tensors.values()):,} weights, sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`."
    yield f"- Trained on {config['data']['class_path'].split('.')[-1]}, seed {config['seed_everything']}, {config['trainer']['max_steps']}"
    which = "last" if last else "best"
    mixed = f"{1 - last:.0%} of the first weights and {last:.0%} of " if last and last < 1 else ""
    yield f"  windows; these are {mixed}the weights after {int(shown['step']) + 1}, the {which} validation: loss"
    yield f"  {float(shown['meta/val_loss']):.3f} along the episodes and {float(shown['val/loss']):.3f} at their end, accuracy {100 * float(shown['val/accuracy']):.1f} %"
    yield "  there (mean over the validation episodes of the config below)."
    if others:
        own = read_weights(run / "aggregator.safetensors")[0]["num_judges"]
        yield f"- {own} of the {settings['num_judges']} judges are this training's; the others are those of the second."
    option = "" if last is None else " --last" if last == 1 else f" --last {last:g}"
    option += " --judges RUN_2" * bool(others)
    option += f" --settings {' '.join(changes)}" * bool(changes)
    yield f"- Made by `{command}`, then `python benchmarks/ship.py RUN {name}{option}`."
    yield ""
    yield from scores(name, results)
    yield "## Configuration"
    yield ""
    yield "```yaml"
    parts = {key: config[key] for key in ("seed_everything", "model", "data", "byzantine") if key in config}
    yield yaml.safe_dump(parts, sort_keys=False).rstrip()
    yield "```"


def read_run(text: str) -> Run:
    """The run whose ``repr`` it is."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    return Run(**{str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords})


def scores(name: str, results: dict[str, Any]) -> Iterator[str]:
    """What ``benchmarks/learned.py`` has measured."""
    losses, accuracies = defaultdict(list), defaultdict(list)
    plain = Run(name)
    for text, result in results.items():
        run = read_run(text)
        usual = replace(run, attack=NO_ATTACK, num_byzantine=0, rounds=plain.rounds, seed=plain.seed)
        if usual != plain:
            continue
        if run.attack == NO_ATTACK and run.rounds == max(MARKS):
            for mark in MARKS:
                losses[mark].append(result["loss"][str(mark)])
        elif run.attack in ATTACKS and run.rounds == 100:
            accuracies[run.num_byzantine, run.attack].append(result["accuracy"])
    if losses:
        yield "## Without attack"
        yield ""
        yield f"Validation loss, mean ± standard deviation over {len(losses[100])} seeds (`benchmarks/learned.py clean`)."
        yield ""
        yield from header(*(f"{mark} rounds" for mark in sorted(losses)))
        yield row(*(spread(losses[mark]) for mark in sorted(losses)))
        yield ""
    if accuracies:
        yield "## Under attack"
        yield ""
        yield "Test accuracy in % after 100 rounds, the mean over seeds under the worst attack of the suite (`benchmarks/learned.py attacked`)."
        yield ""
        numbers = sorted({number for number, _ in accuracies if number in (1, 3, 7, 9)})
        yield from header(*(f"{number} of 10 Byzantine" for number in numbers))
        worst = [
            min((statistics.mean(v), a) for (n, a), v in accuracies.items() if n == number)
            for number in numbers
        ]
        yield row(*(f"{100 * value:.1f} ({attack})" for value, attack in worst))
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run, version_N")
    parser.add_argument("name")
    parser.add_argument("--command", required=True, help="what made the run")
    parser.add_argument("--results", type=Path, help="results of benchmarks/learned.py")
    parser.add_argument(
        "--last",
        nargs="?",
        type=float,
        const=1.0,
        metavar="SHARE",
        help="the last weights instead of the best validation's; or this share of them, and the rest of the run's first ones",
    )
    parser.add_argument(
        "--judges",
        nargs="*",
        type=Path,
        default=[],
        metavar="RUN",
        help="runs whose last judges are added; with --last",
    )
    parser.add_argument(
        "--settings",
        nargs="*",
        default=[],
        metavar="SETTING=VALUE",
        help="of Recurrent, that are not those of the run",
    )
    arguments = parser.parse_args()
    if arguments.judges and not arguments.last:
        parser.error("--judges needs --last: it takes the last judges of the runs")
    if arguments.last is not None and not 0 < arguments.last <= 1:
        parser.error(f"--last must be in (0, 1], got {arguments.last:g}")
    found = arguments.results.read_text().splitlines() if arguments.results else []
    results = dict(map(json.loads, found))
    weights = arguments.run / "aggregator.safetensors"
    if arguments.last:
        weights = last_weights(arguments.run, arguments.last, arguments.judges)
    if arguments.settings:
        changed = Recurrent(weights=str(weights), **settings_in(arguments.settings))
        weights = arguments.run / "changed.safetensors"
        changed.save(weights)
    lines = card(
        arguments.run,
        weights,
        arguments.last,
        arguments.name,
        arguments.command,
        arguments.judges,
        arguments.settings,
        results,
    )
    text = "\n".join(lines) + "\n"
    (pretrained.FOLDER / f"{arguments.name}.md").write_text(text)
    target = pretrained.FOLDER / f"{arguments.name}.safetensors"
    shutil.copyfile(weights, target)


if __name__ == "__main__":
    main()
