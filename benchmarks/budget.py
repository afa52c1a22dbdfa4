"""Measure what an error budget costs in accuracy: the curve behind the default budget.

    python benchmarks/budget.py CORPUS --out docs

CORPUS holds `<task>/test.jsonl` and, per adapter, a PEFT directory with `head.safetensors` (see
docs/budget.md). Every adapter is committed at every budget to a registry of its own, exported,
loaded with PEFT and evaluated; what counts is the change of accuracy and how many predictions flip
against the original adapter.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import share_registry as sr

BUDGETS: Final = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.4)
MEAN_POINTS: Final = 0.1
WORST_FLIPS: Final = 0.02
POOLED_FLIPS: Final = 0.005
"""The rule, of which half the budget is taken.

Mean accuracy within 0.1 points, at most 6 of 300 predictions flipped on the worst task, at most
0.5 % of all.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One adapter at one budget."""

    task: str
    adapter: str
    budget: float
    error: float
    kilobytes: float
    accuracy: float
    original: float
    flips: int
    rows: int


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--budgets", type=float, nargs="*", default=list(BUDGETS))
    options = parser.parse_args()
    common = corpus_module(options.corpus / "common.py")
    rows = [
        row
        for task, folder in adapters_of(options.corpus)
        for row in _measure(common, task, folder, options.budgets)
    ]
    (options.out / "budget.json").write_text(
        "[\n" + ",\n".join(json.dumps(asdict(row)) for row in rows) + "\n]\n"
    )
    table = _table(rows)
    print(table)


def corpus_module(path: Path) -> ModuleType:
    """Import the module of a corpus that knows its base model, batching and pooling."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    spec = importlib.util.spec_from_file_location("common", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules["common"] = module
    spec.loader.exec_module(module)
    return module


def adapters_of(corpus: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every task folder of a corpus with every PEFT directory in it."""
    for config in sorted(corpus.glob("*/*/*/adapter_config.json")):
        yield config.parent.parent, config.parent


def _measure(common: Any, task: Path, folder: Path, budgets: list[float]) -> Iterator[Row]:
    ids, labels = common.encode(common.read_jsonl(task / "test.jsonl"))
    head = common.load_head(folder / "head.safetensors")
    original = predict(common, folder, head, ids)
    for budget in budgets:
        with tempfile.TemporaryDirectory() as place:
            with sr.Registry.open(Path(place) / "registry") as registry:
                report = registry.commit(folder, task=task.name, budget=budget).report
                exported = registry.export(task.name, Path(place) / "out").path
            predictions = predict(common, exported, head, ids)
        assert report is not None
        row = Row(
            task=task.name,
            adapter=folder.name,
            budget=budget,
            error=report.error,
            kilobytes=report.bytes_added / 1000,
            accuracy=float((predictions == labels).float().mean()),
            original=float((original == labels).float().mean()),
            flips=int((predictions != original).sum()),
            rows=len(labels),
        )
        print(
            f"{row.task:20} {row.adapter:4} {budget:5.2f} error {row.error:.4f} accuracy "
            f"{row.original:.4f} -> {row.accuracy:.4f} flips {row.flips}",
            file=sys.stderr,
        )
        yield row


def predict(common: Any, folder: Path, head: Any, ids: Any) -> Any:
    """Return the labels that the base model with an adapter and a head gives."""
    import torch.nn.functional as F  # noqa: N812 - the field's name for it
    from peft import PeftModel

    model = PeftModel.from_pretrained(common.base_model(), folder).eval()
    return F.linear(common.features(model, ids), *head).argmax(1)


def _table(rows: list[Row]) -> str:
    lines = [
        (
            "| budget | mean accuracy change, points | worst adapter, points | flips, pooled | "
            "flips, worst of 300 | within the rule |"
        ),
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for budget in sorted({row.budget for row in rows}):
        mean, worst, pooled, most = _summary([row for row in rows if row.budget == budget])
        within = abs(mean) <= MEAN_POINTS and most <= WORST_FLIPS and pooled <= POOLED_FLIPS
        lines.append(
            f"| {budget:g} | {mean:+.3f} | {worst:+.2f} | {100 * pooled:.2f} % | "
            f"{300 * most:.0f} | {'yes' if within else 'no'} |"
        )
    return "\n".join(lines)


def _summary(rows: list[Row]) -> tuple[float, float, float, float]:
    """Return mean and worst change of accuracy in points, and pooled and largest share of flips."""
    changes = [100 * (row.accuracy - row.original) for row in rows]
    pooled = sum(row.flips for row in rows) / sum(row.rows for row in rows)
    return (
        sum(changes) / len(changes),
        min(changes),
        pooled,
        max(row.flips / row.rows for row in rows),
    )


if __name__ == "__main__":
    main()
