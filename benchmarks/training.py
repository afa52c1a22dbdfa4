"""Training in the subspace on real tasks that the basis has not seen.

Accuracy against LoRA and against a random basis, over k, p and phi.

    python -m benchmarks.training --corpus DIR [--results FILE] [--show DIR]

A basis is fitted, in a registry, to the adapters of all tasks of the common shape but those held
out. Coefficients, LoRA (r = 8, alpha = 16) and a random orthonormal basis get the same batches for
the same number of epochs, and the same kind of head. A run that is in the results file already is
not repeated; the tables and the plot are made from it.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch

import share_registry as sr

HELD_OUT: Final = ("man-section", "tag-role", "wn-pos-gloss")
FOLDS: Final = (
    ("apt-lang-modules", "apt-system", "man-section"),
    ("mo-domain-fr", "mo-slavic", "tag-role"),
    ("text-position", "wn-noun-abstract", "wn-pos-gloss"),
    ("wn-syn-ant", "wn-verb-frame", "word-germanic"),
)
"""All tasks of the common shape by name, three at a time.

The basis of a task has seen neither it nor its neighbours.
"""
OTHER_SHAPES: Final = ("mo-nordic", "tag-implemented-in")
EPOCHS: Final = 4
BATCH: Final = 16
HEAD_RATE: Final = 2e-3
LORA_RATE: Final = 2e-3
RATE: Final = 2e-2
DIRECTION_RATE: Final = 2e-3
SEEDS: Final = (0, 1, 2)


Row = dict[str, Any]
"""One run: its setting, task and seed, and what came of it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to train: "lora", "shared" or "random"; the accuracy of one seed is a run."""

    kind: str
    k: int = 0
    p: int = 0
    phi: int = 0
    rate: float = RATE


SETTINGS: Final = (
    Setting(kind="lora", rate=LORA_RATE),
    Setting(kind="shared", k=64, p=4),
    Setting(kind="random", k=64, p=4),
    Setting(kind="shared", k=32, p=8),
    Setting(kind="random", k=32, p=8),
)
"""At a twelfth of LoRA's parameters, with every seed."""
OF_ALL: Final = tuple(setting for setting in SETTINGS if setting.k != 64)
"""On every task."""
TRADE_OFF: Final = (
    Setting(kind="shared", k=128, p=2),
    Setting(kind="random", k=128, p=2),
    Setting(kind="shared", k=128, p=1),
    Setting(kind="shared", k=64, p=8),
    Setting(kind="shared", k=32, p=2),
    Setting(kind="shared", k=16, p=8),
    Setting(kind="random", k=16, p=8),
    Setting(kind="shared", k=128, p=2, phi=2),
)
"""With one seed."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Token ids and labels of a task, and the head to start from."""

    train: Any
    test: Any
    head: tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    """Run what is missing, then show everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, required=True, help="the corpus: a folder with dev/ and common.py"
    )
    parser.add_argument("--results", type=Path, default=Path("docs/training.json"))
    parser.add_argument(
        "--show", type=Path, default=Path("docs"), help="folder of the table and the plot"
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[],
        help="only try these learning rates of coefficients, k = 64, p = 4",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(options.corpus))
    settings = [Setting(kind="shared", k=64, p=4, rate=rate) for rate in options.rates] or SETTINGS
    with TemporaryDirectory() as place, sr.Registry.open(Path(place) / "registry") as registry:
        folds = [(OF_ALL, fold, options.seeds) for fold in FOLDS]
        for grid, tasks, seeds in (
            (settings, HELD_OUT, options.seeds),
            (TRADE_OFF, HELD_OUT, options.seeds[:1]),
            *folds,
        ):
            if not options.rates or grid is settings:
                run_all(options.corpus, registry, options.results, grid, tasks, seeds)
    if not options.rates:
        show(json.loads(options.results.read_text()), options.show)


def run_all(
    corpus: Path,
    registry: sr.Registry,
    results: Path,
    settings: Sequence[Setting],
    tasks: Sequence[str],
    seeds: Sequence[int],
) -> None:
    """Run every setting that the results file lacks."""
    import common  # type: ignore[import-not-found]

    rows = json.loads(results.read_text()) if results.exists() else []
    for seed, setting, name in product(seeds, settings, tasks):
        key = {"task": name, "without": _without(setting, tasks), "seed": seed, **asdict(setting)}
        if any(all(row.get(member) == value for member, value in key.items()) for row in rows):
            continue
        rows.append(key | _run(common, corpus, registry, name, setting, seed, tasks))
        results.write_text(json.dumps(rows, indent=1) + "\n")
        print(json.dumps(rows[-1]), flush=True)


def _without(setting: Setting, tasks: Sequence[str]) -> str:
    """Return which tasks the basis has not seen; nothing where it is not made from tasks."""
    return " ".join(tasks) if setting.kind == "shared" else ""


def _run(
    common: Any,
    corpus: Path,
    registry: sr.Registry,
    name: str,
    setting: Setting,
    seed: int,
    held_out: Sequence[str],
) -> dict[str, float]:
    task = _task(common, corpus / "dev" / name)
    torch.manual_seed(seed)
    model = _adapt(common, corpus, registry, setting, seed, held_out)
    head = torch.nn.Linear(task.head[0].shape[1], task.head[0].shape[0])
    head.load_state_dict({"weight": task.head[0], "bias": task.head[1]})
    started = time.process_time()
    loss = _train(common, model, head, task, setting.rate, seed)
    model.eval()
    accuracy = common.accuracy(model, (head.weight, head.bias), *task.test)
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return {
        "parameters": trained,
        "accuracy": accuracy,
        "loss": loss,
        "cpu_s": round(time.process_time() - started, 1),
    }


def _task(common: Any, folder: Path) -> Task:
    train, test = (
        common.encode(common.read_jsonl(folder / f"{part}.jsonl")) for part in ("train", "test")
    )
    return Task(train=train, test=test, head=common.load_head(folder / "base_head.safetensors"))


def _adapt(
    common: Any,
    corpus: Path,
    registry: sr.Registry,
    setting: Setting,
    seed: int,
    held_out: Sequence[str],
) -> Any:
    import peft

    if setting.kind == "lora":
        return peft.get_peft_model(
            common.base_model(),
            peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"]),
        )
    space = _space(corpus, registry, setting.k, held_out)
    config = sr.peft.ShareConfig(
        registry=registry,
        space=space,
        pseudo_rank=setting.p,
        extra_directions=setting.phi,
        seed=seed,
    )
    model = peft.get_peft_model(common.base_model(), config)
    if setting.kind == "random":
        generator = torch.Generator().manual_seed(seed)
        for layer in model.modules():
            if isinstance(layer, sr.peft.ShareLayer):
                for factor in (layer.share_alpha["default"], layer.share_beta["default"]):
                    factor.copy_(
                        torch.linalg.qr(torch.randn(factor.mT.shape, generator=generator))[0].mT
                    )
    return model


def _space(corpus: Path, registry: sr.Registry, k: int, held_out: Sequence[str]) -> str:
    """Return a space that holds both adapters of every other task, with a basis of k directions."""
    space = f"k{k}-without-{'-'.join(held_out)}"
    if space not in {existing.name for existing in registry.spaces()}:
        folders = sorted(
            folder
            for folder in (corpus / "dev").iterdir()
            if folder.name not in (*held_out, *OTHER_SHAPES)
        )
        adapters = {
            f"{folder.name}-{version}": folder / version
            for folder in folders
            for version in ("v1", "s42")
        }
        registry.create_space(space, base_model="sentence-transformers/all-MiniLM-L6-v2")
        registry.commit_many(adapters, space=space)
        registry.space(space).refit(max_rank=k, force=True)
        print(
            space,
            registry.space(space).basis().size_bytes,
            sorted(set(registry.space(space).basis().ranks.values())),
            flush=True,
        )
    return space


def _train(
    common: Any, model: Any, head: torch.nn.Module, task: Task, rate: float, seed: int
) -> float:
    """Train adapter and head with AdamW and a rate that falls to zero.

    Return the mean loss of the last epoch.
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    directions = [
        value for name, value in named if ".share_extra_a" in name or ".share_extra_b" in name
    ]
    coefficients = [
        value for name, value in named if not (".share_extra_a" in name or ".share_extra_b" in name)
    ]
    groups = [
        {"params": coefficients, "lr": rate},
        {"params": directions, "lr": DIRECTION_RATE},
        {"params": list(head.parameters()), "lr": HEAD_RATE},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
    ids, labels = task.train
    steps = EPOCHS * -(-len(ids) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.06 * steps)) * (1 - step / steps)
    )
    losses: list[float] = []
    for epoch in range(EPOCHS):
        losses.clear()
        for batch in _batches(ids, torch.Generator().manual_seed(1000 * seed + epoch)):
            loss = torch.nn.functional.cross_entropy(
                head(common.pool(model, [ids[i] for i in batch])), labels[batch]
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def _batches(ids: list[list[int]], generator: torch.Generator) -> Iterator[list[int]]:
    """Yield batches of texts of like length, in random order."""
    order = torch.randperm(len(ids), generator=generator).tolist()
    pools = [
        sorted(order[start : start + 8 * BATCH], key=lambda number: len(ids[number]))
        for start in range(0, len(order), 8 * BATCH)
    ]
    batches = [
        pool[start : start + BATCH] for pool in pools for start in range(0, len(pool), BATCH)
    ]
    yield from (
        batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()
    )


def show(rows: Sequence[Row], folder: Path) -> None:
    """Write the tables; `make picture` draws accuracy over trained parameters from them."""
    main = _table([row for row in rows if row["without"] in ("", " ".join(HELD_OUT))])
    lines = [
        "# Training in the subspace of other tasks",
        "",
        (
            "Accuracy in points; the basis is fitted to both adapters of every other task of the "
            "common shape: 18 adapters of 9 tasks."
        ),
        (
            f"{EPOCHS} epochs, batches of {BATCH}, AdamW, the same batches for all of a seed; "
            "heads are trained beside and not counted."
        ),
        (
            "A test set has 300 rows, so that a point on one task is three of them. Made by "
            "`python -m benchmarks.training --corpus DIR` from the runs in `training.json`."
        ),
        "",
        "## Three tasks, over k, p and phi",
        "",
        *main,
        "",
        (
            "On these three tasks, held out together, the basis of other tasks at k = 16 and 32 is "
            "better than a random one of the same size, from 64 directions on of 384 it makes no "
            "difference."
        ),
        (
            "The tasks are not a blind choice: they are those on which an earlier study was "
            "made. Of all tasks see below."
        ),
        "",
        "![accuracy over trained parameters](pictures/training.svg)",
        "",
        "## Every task",
        "",
        (
            "All twelve tasks in the order of their names, three held out at a time; k = 32, p "
            f"= 8, a twelfth of LoRA's parameters; mean of {len(SEEDS)} seeds."
        ),
        "",
        *_all_tasks(rows),
        "",
        (
            "Over all tasks the basis of other tasks is as good as a random one, which is what "
            "independently trained adapters that share little lead one to expect. The gap to "
            "LoRA is under 2 points"
        ),
        (
            "on seven tasks of twelve, and 13 on text-position. The three tasks of the first "
            "table, each held out here with two others, have 77.9 in the mean: the advantage "
            "there depends on which"
        ),
        (
            "tasks the basis was fitted to. It may be expected to be larger where the adapters "
            "of a space share directions, which `analyze` measures; that was not tested here."
        ),
    ]
    (folder / "training.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _table(rows: Sequence[Row]) -> list[str]:
    """Return what was measured on the three tasks, as a table."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["task"] in HELD_OUT:
            groups.setdefault((row["kind"], row["k"], row["p"], row["phi"]), []).append(row)
    lines = [
        (
            f"| trained | k | p | phi | parameters | of LoRA's | {' | '.join(HELD_OUT)} | mean | "
            "against LoRA | seeds |"
        ),
        (
            f"| --- | --- | --- | --- | --- | --- | {' | '.join('---' for _ in HELD_OUT)} | --- | "
            "--- | --- |"
        ),
    ]
    for (kind, k, p, phi), runs in groups.items():
        seeds = {row["seed"] for row in runs}
        mean, lora = (
            _means(runs),
            _means([row for row in groups["lora", 0, 0, 0] if row["seed"] in seeds]),
        )
        count, whole = runs[0]["parameters"], groups["lora", 0, 0, 0][0]["parameters"]
        cells = " | ".join(f"{value:.1f}" for value in (*mean, _mean(mean)))
        share = "1" if kind == "lora" else f"1/{whole / count:.1f}"
        lines.append(
            f"| {kind} | {k or '-'} | {p or 8} | {phi or '-'} | {count:,} | {share} | {cells} | "
            f"{_mean(mean) - _mean(lora):+.1f} | {len(seeds)} |"
        )
    return lines


def _all_tasks(rows: Sequence[Row]) -> list[str]:
    """Return the table of every task.

    LoRA, coefficients over the basis of other tasks, and over a random one.
    """
    lines = [
        "| task | " + " | ".join(setting.kind for setting in OF_ALL) + " |",
        "| --- |" + " --- |" * len(OF_ALL),
    ]
    accuracies = []
    for name, fold in ((task, tasks) for tasks in FOLDS for task in tasks):
        settings = [
            {"task": name, "without": _without(setting, fold), **asdict(setting)}
            for setting in OF_ALL
        ]
        accuracies.append(
            [
                _mean([100 * row["accuracy"] for row in rows if wish.items() <= row.items()])
                for wish in settings
            ]
        )
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in accuracies[-1]) + " |")
    means = [_mean(list(column)) for column in zip(*accuracies, strict=True)]
    return [*lines, "| mean | " + " | ".join(f"{value:.1f}" for value in means) + " |"]


def _means(rows: Sequence[Row]) -> list[float]:
    return [
        _mean([100 * row["accuracy"] for row in rows if row["task"] == task]) for task in HELD_OUT
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


if __name__ == "__main__":
    main()
