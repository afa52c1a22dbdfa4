"""Accuracy and flipped predictions of a corpus at every budget, and of the peers at equal bytes.

    python -m benchmarks.accuracy CORPUS [--budgets B ...] [--peers-at B] [--versions v1 ...]

CORPUS is a folder of tasks as docs/budget.md describes it. All adapters go into one space, one
after another, as in use; each is exported, loaded with PEFT and evaluated against the adapter as it
was trained. A flip is a prediction that differs. The peers get the first version of the tasks of
common shape and as many bytes as share_registry takes for these at the budget of `--peers-at`, or,
where that is too few for them, the fewest they can do with.
"""

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

import share_registry as sr
from benchmarks.adapters import write_bare
from benchmarks.budget import adapters_of, corpus_module, predict
from benchmarks.counting import task_names
from benchmarks.peers import common_shape
from benchmarks.rivals import Factors, Lorashare, Ours, Rival, Vlora, largest

BUDGETS: Final = (0.01, 0.025, 0.05, 0.10, 0.30)
WEIGHTS: Final = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A task's test set and what its adapter predicts as it was trained."""

    name: str
    folder: Path
    ids: Any
    labels: Any
    head: Any
    original: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Points of accuracy lost or won, and predictions changed."""

    change: float
    flips: int


def main() -> None:
    """Print one table of budgets and one beside the peers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--budgets", type=float, nargs="*", default=list(BUDGETS))
    parser.add_argument("--peers-at", type=float, default=0.05)
    parser.add_argument(
        "--versions", nargs="*", default=None, help="only these versions of every task"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    common = corpus_module(options.corpus / "common.py")
    folders = [
        folder
        for _, folder in adapters_of(options.corpus)
        if options.versions is None or folder.name in options.versions
    ]
    tests = [_test(common, folder) for folder in folders]
    _budgets(common, tests, options.budgets)
    first = {folder for folder in common_shape(options.corpus) if folder.name == "v1"}
    if options.peers_at:
        _peers(common, [test for test in tests if test.folder in first], options.peers_at)


def _test(common: Any, folder: Path) -> Test:
    ids, labels = common.encode(common.read_jsonl(folder.parent / "test.jsonl"))
    head = common.load_head(folder / "head.safetensors")
    name = task_names([folder])[0]
    return Test(
        name=name,
        folder=folder,
        ids=ids,
        labels=labels,
        head=head,
        original=predict(common, folder, head, ids),
    )


def _outcome(common: Any, test: Test, folder: Path) -> Outcome:
    predictions = predict(common, folder, test.head, test.ids)
    change = 100 * float(
        (predictions == test.labels).float().mean() - (test.original == test.labels).float().mean()
    )
    return Outcome(change=change, flips=int((predictions != test.original).sum()))


def _budgets(common: Any, tests: Sequence[Test], budgets: Sequence[float]) -> None:
    columns = [_column(common, tests, budget) for budget in budgets]
    print(
        "| adapter | accuracy | "
        + " | ".join(f"{100 * budget:g} %" for budget in budgets)
        + " |\n| --- | --- |"
        + " --- |" * len(budgets)
    )
    for test, *row in zip(tests, *columns, strict=True):
        print(
            f"| {test.name} | {_accuracy(test):.2f} | "
            f"{' | '.join(_cell(outcome) for outcome in row)} |"
        )
    _summary(tests, columns)


def _column(common: Any, tests: Sequence[Test], budget: float) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as place:
        with sr.Registry.open(Path(place) / "registry") as registry:
            space = registry.create_space("all", policy=sr.Policy(budget=budget))
            refs = [
                space.commit(test.folder, task=test.name, allow_base_mismatch=True).ref
                for test in tests
            ]
            exports = [
                registry.export(ref, Path(place) / ref.replace("/", "-")).path for ref in refs
            ]
        return [
            _outcome(common, test, Path(export))
            for test, export in zip(tests, exports, strict=True)
        ]


def _peers(common: Any, tests: Sequence[Test], budget: float) -> None:
    with tempfile.TemporaryDirectory() as place:
        folders = write_bare([test.folder for test in tests], Path(place) / "bare")
        ours = Ours(folders)
        allowed = ours.point(budget)
        columns = [
            _evaluate(
                common,
                tests,
                folders,
                ours.export(budget, Path(place) / "ours"),
                Path(place) / "out",
            )
        ]
        heads = [
            (
                f"{ours.name}, {allowed.setting}: {allowed.size_bytes / 1000:.0f} kB, error "
                f"{allowed.error:.3f}"
            )
        ]
        rivals: list[Rival] = [Vlora(folders), Lorashare(folders)]
        for rival in rivals:
            point = largest(rival, allowed.size_bytes, rival.forms) or min(
                (rival.point(1, form) for form in rival.forms), key=lambda point: point.size_bytes
            )
            k, form = point.setting.removeprefix("k = ").split(", ")
            heads.append(
                f"{rival.name}, {point.setting}: {point.size_bytes / 1000:.0f} kB, error "
                f"{point.error:.3f}"
            )
            columns.append(
                _evaluate(common, tests, folders, rival.factors(int(k), form), Path(place) / "out")
            )
    print(f"\n| adapter | accuracy | {' | '.join(heads)} |\n| --- | --- |" + " --- |" * len(heads))
    for test, *row in zip(tests, *columns, strict=True):
        print(
            f"| {test.name} | {_accuracy(test):.2f} | "
            f"{' | '.join(_cell(outcome) for outcome in row)} |"
        )
    _summary(tests, columns)


def _evaluate(
    common: Any,
    tests: Sequence[Test],
    folders: Sequence[Path],
    factors: Mapping[str, Factors],
    place: Path,
) -> list[Outcome]:
    outcomes = []
    for test, folder in zip(tests, folders, strict=True):
        shutil.copytree(folder, place, dirs_exist_ok=True)
        sides = {
            f"{module}.lora_{side}.weight": rows
            for module, pair in factors[folder.name].items()
            for side, rows in zip("AB", pair, strict=True)
        }
        save_file(
            {
                f"base_model.model.{key}": rows.to(torch.float32).contiguous()
                for key, rows in sides.items()
            },
            place / WEIGHTS,
        )
        outcomes.append(_outcome(common, test, place))
    return outcomes


def _summary(tests: Sequence[Test], columns: Sequence[Sequence[Outcome]]) -> None:
    rows = sum(len(test.labels) for test in tests)
    means = [
        f"{sum(outcome.change for outcome in column) / len(column):+.2f}" for column in columns
    ]
    worst = [f"{min(outcome.change for outcome in column):+.2f}" for column in columns]
    flips = [f"{100 * sum(outcome.flips for outcome in column) / rows:.2f} %" for column in columns]
    for name, cells in (("mean change", means), ("worst change", worst), ("flips, pooled", flips)):
        print(f"| **{name}** | | {' | '.join(cells)} |", flush=True)


def _accuracy(test: Test) -> float:
    return 100 * float((test.original == test.labels).float().mean())


def _cell(outcome: Outcome) -> str:
    return f"{outcome.change:+.2f}, {outcome.flips}"


if __name__ == "__main__":
    main()
