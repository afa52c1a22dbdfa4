"""Which task a text belongs to, from the row spaces of adapters alone.

    python -m benchmarks.routing CORPUS [--inputs N] [--version V]

CORPUS has a folder a task with adapters, and test.jsonl with texts of the task; its common.py has
the base model. The adapters are committed at the default budget, and `Registry.routing_index` is
made of them. An input is right at k where its own task is among the k best. Standardised by the
inputs with even numbers, of all tasks and without their labels, and judged on the others; without
standardising judged on the same. Sent to unlike tasks: the share of inputs whose best task is of
another shape than the rest, and in brackets how many truly are of one. Seeds and order are fixed, so that a run gives the same figures
again; times are ratios of medians of one run.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

import share_registry as sr

# Tasks of another shape than the others: rank 16, or more modules
UNLIKE: Final = ("mo-nordic", "tag-implemented-in")
BATCH: Final = 25
TIMED: Final = 100
Activations = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What enters the modules for every input, and which task it is of."""

    activations: list[dict[str, Tensor]]
    tasks: list[str]

    def of(self, names: Sequence[str], part: int) -> "Inputs":
        """Return every other input of some tasks."""
        own = [n for n, task in enumerate(self.tasks) if task in names and n % 2 == part]
        return Inputs(
            activations=[self.activations[n] for n in own], tasks=[self.tasks[n] for n in own]
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--inputs", type=int, default=100, help="of each task")
    parser.add_argument("--version", default="v1")
    options = parser.parse_args()
    common = _module(options.corpus / "common.py")
    model = common.base_model()
    tasks = sorted(path.name for path in (options.corpus / "dev").iterdir() if path.is_dir())
    usual = [task for task in tasks if task not in UNLIKE]
    with tempfile.TemporaryDirectory() as place, sr.Registry.open(place) as registry:
        for task in tasks:
            registry.commit(options.corpus / "dev" / task / options.version, task=task)
        texts = {
            task: common.encode(
                common.read_jsonl(options.corpus / "dev" / task / "test.jsonl")[: options.inputs]
            )[0]
            for task in tasks
        }
        whole = registry.routing_index()
        inputs = _observe(whole, model, common.collate, texts)
        print(f"{len(usual)} tasks of one shape, chance {1 / len(usual):.2f}, {3 / len(usual):.2f}")
        _print(registry, usual, inputs, _variants(usual))
        print(f"\nall {len(tasks)} tasks, chance {1 / len(tasks):.2f}, {3 / len(tasks):.2f}")
        _print(registry, tasks, inputs, [Variant(name="all modules", unlike=UNLIKE)])
        _print_times(registry.routing_index(usual), model, common.collate, texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An index, and what is made of the inputs."""

    name: str
    modules: str | None = None
    max_rank: int | None = None
    change: Callable[[sr.RoutingIndex], sr.RoutingIndex] = lambda index: index
    view: Callable[[Activations], Activations] = lambda x: x
    unlike: Sequence[str] = ()
    examples: Callable[[Inputs], list[dict[str, Tensor]]] = lambda inputs: inputs.activations


def _variants(tasks: Sequence[str]) -> list[Variant]:
    return [
        Variant(name="all modules"),
        Variant(name="query modules", modules=".*query"),
        Variant(name="value modules", modules=".*value"),
        Variant(name="last three layers", modules=r".*layer\.[345]\..*"),
        Variant(name="last layer", modules=r".*layer\.5\..*"),
        *(Variant(name=f"max_rank {rank}", max_rank=rank) for rank in (1, 2, 4, 8)),
        Variant(name="max_rank 2, query modules", modules=".*query", max_rank=2),
        Variant(name="every other task of rank 2", change=_cut, unlike=tasks[::2]),
        *(
            Variant(name=f"standardised by {count} of them", examples=partial(_spread, count=count))
            for count in (12, 60, 120)
        ),
        Variant(
            name="standardised by those of every other task",
            examples=lambda inputs: _of_tasks(inputs, tasks[::2]),
        ),
        Variant(name="rows of bfloat16", change=_as_bfloat16),
        Variant(name="the mean of the tokens", view=_mean),
        Variant(name="the first token", view=lambda x: {name: y[0] for name, y in x.items()}),
    ]


def _as_bfloat16(index: sr.RoutingIndex) -> sr.RoutingIndex:
    rows = {name: rows.bfloat16().float() for name, rows in index.table.rows.items()}
    return sr.RoutingIndex(replace(index.table, rows=rows))


def _cut(index: sr.RoutingIndex, rank: int = 2) -> sr.RoutingIndex:
    """Leave the strongest rows alone of the first task and of every other one after it."""
    table = index.table
    counts = table.counts.clone()
    counts[:, ::2] = counts[:, ::2].clamp_max(rank)
    rows = {}
    for module, (name, stacked) in enumerate(table.rows.items()):
        parts = torch.split(stacked, table.counts[module].tolist())
        rows[name] = torch.cat(
            [part[:count] for part, count in zip(parts, counts[module].tolist(), strict=True)]
        )
    widths = torch.tensor(list(index.modules.values()))
    return sr.RoutingIndex(
        replace(table, rows=rows, counts=counts, expected=counts.double() / widths[:, None])
    )


def _spread(inputs: Inputs, count: int) -> list[dict[str, Tensor]]:
    return inputs.activations[:: len(inputs.activations) // count]


def _of_tasks(inputs: Inputs, tasks: Sequence[str]) -> list[dict[str, Tensor]]:
    pairs = zip(inputs.activations, inputs.tasks, strict=True)
    return [x for x, task in pairs if task in tasks]


def _mean(x: Activations) -> Activations:
    return {name: tokens.mean(0) for name, tokens in x.items()}


def _observe(index: sr.RoutingIndex, model: Any, collate: Any, texts: Any) -> Inputs:
    activations, tasks = [], []
    for task, ids in texts.items():
        for start in range(0, len(ids), BATCH):
            tokens, mask = collate(ids[start : start + BATCH])
            activations += index.observe(model, input_ids=tokens, attention_mask=mask)
        tasks += [task] * len(ids)
    return Inputs(activations=activations, tasks=tasks)


def _print(
    registry: sr.Registry, tasks: Sequence[str], inputs: Inputs, variants: Sequence[Variant]
) -> None:
    reference, judged = inputs.of(tasks, 0), inputs.of(tasks, 1)
    print(
        f"\n{len(reference.tasks)} inputs to standardise by, {len(judged.tasks)} judged\n\n"
        "| index | kB | top-1 | top-3 | sent to unlike tasks | standardised: top-1 | top-3 | sent to unlike tasks |\n"
        + "| --- " * 8
        + "|"
    )
    for variant in variants:
        index = variant.change(
            registry.routing_index(list(tasks), modules=variant.modules, max_rank=variant.max_rank)
        )
        standard = index.standardised(map(variant.view, variant.examples(reference)))
        figures = []
        for each in (index, standard):
            ranked = [
                [route.ref.split("/")[1].split("@")[0] for route in each.route(variant.view(x), 3)]
                for x in judged.activations
            ]
            pairs = list(zip(ranked, judged.tasks, strict=True))
            figures += [
                f"{statistics.mean(task == best[0] for best, task in pairs):.2f}",
                f"{statistics.mean(task in best for best, task in pairs):.2f}",
            ]
            sent = statistics.mean(best[0] in variant.unlike for best, _ in pairs)
            true = statistics.mean(task in variant.unlike for _, task in pairs)
            figures.append(f"{sent:.2f} ({true:.2f})" if variant.unlike else "")
        with tempfile.TemporaryDirectory() as place:
            size = index.save(Path(place) / "index").stat().st_size
        print(f"| {variant.name} | {size / 1e3:.0f} | {' | '.join(figures)} |", flush=True)


def _print_times(index: sr.RoutingIndex, model: Any, collate: Any, texts: Any) -> None:
    some = [ids for rows in texts.values() for ids in rows][:: max(1, len(texts))][:TIMED]
    batches = [collate([ids]) for ids in some]
    seen = [index.observe(model, input_ids=x, attention_mask=mask)[0] for x, mask in batches]

    def forward(number: int) -> None:
        with torch.no_grad():
            model(input_ids=batches[number][0], attention_mask=batches[number][1])

    def observe(number: int) -> None:
        index.observe(model, input_ids=batches[number][0], attention_mask=batches[number][1])

    works = {
        "one forward pass of the base model": forward,
        "`observe`, which has the forward pass": observe,
        "`route`": lambda number: index.route(seen[number]),
        "`route` of the mean of the tokens": lambda number: index.route(_mean(seen[number])),
    }
    took = {
        name: statistics.median(map(_timed(work), range(len(some)))) for name, work in works.items()
    }
    first = next(iter(took.values()))
    print(
        f"\n{len(some)} inputs one by one, {statistics.mean(map(len, some)):.0f} tokens in the mean\n"
    )
    print("| what | microseconds | over a forward pass |\n| --- | --- | --- |")
    for name, seconds in took.items():
        print(f"| {name} | {seconds * 1e6:.0f} | {seconds / first:.2f} |")


def _timed(work: Callable[[int], object]) -> Callable[[int], float]:
    def timed(number: int) -> float:
        started = time.perf_counter()
        work(number)
        return time.perf_counter() - started

    return timed


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("common", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
