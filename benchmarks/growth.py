"""Time and memory of adding an adapter to a growing collection, and the error of the others after.

    python -m benchmarks.growth [--counts N ...] [--width D] [--layers L] [--rank R] [--tools TOOL
    ...] [--corpus CORPUS]

A collection of N adapters with shared columns is put into each tool and saved; then a process of
its own opens it, adds one adapter and saves: processor seconds after the imports, and the peak
resident memory of that process (imports included, given beside it). Here the first adapters are
committed, as many as a commit looks at, and the others are mixtures of their rows
(`benchmarks/many.py`): what a commit refers to is then the same rows at every N, and N = 1000 is
made in minutes. `share_registry refit` makes a basis of 16 directions from all N tasks and one that
has come since the refit before; the first refit has no moments to go on from and reads all. The
second table adds ten real adapters, one after another, to the first two of a corpus at a fixed k,
and shows the error of those two before and after.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.adapters import write_bare, write_planted
from benchmarks.memory import peak_mb
from benchmarks.peers import DEMO, common_shape
from benchmarks.rivals import Factors, by_module, error, factors_of, size_of, vlora_factors

TOOLS: Final = (
    "share_registry",
    "share_registry refit",
    "share_registry first refit",
    "vlora-dev absorb",
    "vlora-dev absorb_incremental",
    "lorashare",
)
K: Final = 32
FIRST: Final = 2
MERGES: Final = 10
RETAINED_K: Final = 16
COMMITTED: Final = 8
"""Adapters that are committed one by one.

Those whose rows a commit tries, and whose rows the others are mixtures of.
"""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="*", default=[8, 32])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--corpus", type=Path, default=DEMO)
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--growth-only", action="store_true", help="leave the second table out")
    parser.add_argument(
        "--add", nargs=3, metavar=("TOOL", "STORE", "ADAPTER"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.add:
        _measure(*options.add)
        return
    _growth(options)
    if not options.growth_only:
        _retention(options.corpus)


def _growth(options: argparse.Namespace) -> None:
    print(
        f"Adding one adapter ({2 * options.layers} modules, {options.width} wide, r = "
        f"{options.rank}; k = min({K}, N) for the peers)\n"
    )
    print(
        "| N | tool | processor s | peak MB | of it imports | store MB |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for count in options.counts:
        with tempfile.TemporaryDirectory() as place:
            ours = all(tool.split()[0] == "share_registry" for tool in options.tools)
            total = min(count, COMMITTED) + 1 if ours else count + 1
            folders = write_planted(
                Path(place) / "adapters",
                count=total,
                rank=options.rank,
                width=options.width,
                shared=32,
                noise=0.05,
                layers=options.layers,
            )
            built: dict[str, Path] = {}
            for tool in options.tools:
                store = built.setdefault(tool.split()[0], Path(place) / tool.split()[0])
                if not store.exists():
                    _BUILD[tool.split()[0]](store, folders[:-1], count)
                copied = Path(place) / f"{store.name}-copy"
                subprocess.run(["cp", "-r", str(store), str(copied)], check=True)
                if tool == "share_registry refit":
                    _refit_and_add(copied, folders[-1])
                figures = _child(tool, copied, folders[-1])
                print(
                    f"| {count} | {tool} | {figures['seconds']:.2f} | {figures['peak']:.0f} | "
                    f"{figures['imports']:.0f} | {size_of(copied) / 1e6:.1f} |",
                    flush=True,
                )
                subprocess.run(["rm", "-r", str(copied)], check=True)


def _child(tool: str, store: Path, adapter: Path) -> dict[str, float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.growth",
        "--add",
        tool,
        str(store),
        str(adapter),
    ]
    figures: dict[str, float] = json.loads(
        subprocess.run(
            command, check=True, capture_output=True, env=environment
        ).stdout.splitlines()[-1]
    )
    return figures


def _measure(tool: str, store: str, adapter: str) -> None:
    add = _ADD[tool]()
    imports = peak_mb()
    start = time.process_time()
    add(Path(store), Path(adapter))
    seconds = time.process_time() - start
    print(json.dumps({"seconds": seconds, "peak": peak_mb(), "imports": imports}))


def _build_ours(store: Path, folders: Sequence[Path], count: int) -> None:
    import share_registry as sr
    from benchmarks.many import mix

    with sr.Registry.open(store) as registry:
        for folder in folders[:COMMITTED]:
            registry.commit(folder, task=folder.name)
        mix(registry, "synthetic", count=max(0, count - COMMITTED))


def _build_vlora(store: Path, folders: Sequence[Path], _: int) -> None:
    from vlora import SharedSubspace, load_adapter

    names = [folder.name for folder in folders]
    SharedSubspace.from_adapters(
        [load_adapter(folder) for folder in folders],
        task_ids=names,
        num_components=min(K, len(folders)),
    ).save(store)


def _build_lorashare(store: Path, folders: Sequence[Path], _: int) -> None:
    from lorashare import SHAREModel

    SHAREModel.from_adapters(
        {folder.name: str(folder) for folder in folders}, num_components=K, device="cpu"
    ).save_pretrained(store)


def _add_ours() -> Callable[[Path, Path], None]:
    import share_registry as sr
    import share_registry.registry.commands.commit

    with (
        tempfile.TemporaryDirectory() as place,
        sr.Registry.open(Path(place) / "empty") as registry,
    ):
        registry.create_space("imports")
    return lambda store, adapter: _commit(sr, store, adapter)


def _commit(sr: Any, store: Path, adapter: Path) -> None:
    with sr.Registry.open(store) as registry:
        registry.commit(adapter, task=adapter.name)


def _refit_and_add(store: Path, adapter: Path) -> None:
    """Leave a store as it is when one task has come since a refit."""
    import share_registry as sr

    with sr.Registry.open(store) as registry:
        registry.space("synthetic").refit(max_rank=RETAINED_K, force=True)
        registry.commit(adapter, task=adapter.name, space="synthetic")


def _refit_ours() -> Callable[[Path, Path], None]:
    import share_registry as sr

    _add_ours()

    def refit(store: Path, _: Path) -> None:
        with sr.Registry.open(store) as registry:
            registry.space("synthetic").refit(max_rank=RETAINED_K, force=True)

    return refit


def _add_vlora(method: str) -> Callable[[Path, Path], None]:
    from vlora import SharedSubspace, load_adapter

    def add(store: Path, adapter: Path) -> None:
        space = SharedSubspace.load(store)
        getattr(space, method)(load_adapter(adapter), adapter.name)
        space.save(store)

    return add


def _add_lorashare() -> Callable[[Path, Path], None]:
    from lorashare import SHAREModel

    def add(store: Path, adapter: Path) -> None:
        model = SHAREModel.from_pretrained(store)
        model.add_adapter(str(adapter), name=adapter.name, device="cpu")
        model.save_pretrained(store)

    return add


_BUILD: Final[dict[str, Callable[[Path, Sequence[Path], int], None]]] = {
    "share_registry": _build_ours,
    "vlora-dev": _build_vlora,
    "lorashare": _build_lorashare,
}
_ADD: Final[dict[str, Callable[[], Callable[[Path, Path], None]]]] = {
    "share_registry": _add_ours,
    "share_registry refit": _refit_ours,
    "share_registry first refit": _refit_ours,
    "vlora-dev absorb": lambda: _add_vlora("absorb"),
    "vlora-dev absorb_incremental": lambda: _add_vlora("absorb_incremental"),
    "lorashare": _add_lorashare,
}


def _retention(corpus: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        folders = write_bare(common_shape(corpus), Path(place) / "real")[: FIRST + MERGES]
        originals = [factors_of(folder) for folder in folders]
        added = len(folders) - FIRST
        print(
            f"\nThe first {FIRST} real adapters after {added} more, k = {RETAINED_K} where there "
            f"is a k (vlora-dev keeps at most the {FIRST} it began with)\n"
        )
        print(
            "| tool | error at the start | after | worst error of all at the end | kB at the end "
            "|\n| --- | --- | --- | --- | --- |"
        )
        for name, run in _KEEP.items():
            start, end, size = run(Path(place) / name.replace(" ", "-"), folders)
            before = [error(*pair) for pair in zip(start, originals, strict=False)]
            after = [error(*pair) for pair in zip(end, originals, strict=True)]
            print(
                f"| {name} | {_mean(before):.4f} | {_mean(after[:FIRST]):.4f} | {max(after):.4f} "
                f"| {size / 1000:.0f} |",
                flush=True,
            )


Kept = tuple[list[Factors], list[Factors], int]


def _keep_ours(policy: Callable[[Any], Any]) -> Callable[[Path, Sequence[Path]], Kept]:
    def keep(store: Path, folders: Sequence[Path]) -> Kept:
        import share_registry as sr

        with sr.Registry.open(store / "registry") as registry:
            space = registry.create_space("all", policy=policy(sr))
            for folder in folders[:FIRST]:
                space.commit(folder, task=folder.name, allow_base_mismatch=True)
            start = _exports(registry, store, folders[:FIRST])
            for folder in folders[FIRST:]:
                space.commit(folder, task=folder.name, allow_base_mismatch=True)
            end = _exports(registry, store, folders)
        return start, end, sum(size_of(store / "registry" / part) for part in ("objects", "spaces"))

    return keep


def _exports(registry: Any, store: Path, folders: Sequence[Path]) -> list[Factors]:
    return [
        factors_of(registry.export(folder.name, store / f"{len(folders)}-{folder.name}").path)
        for folder in folders
    ]


def _keep_vlora(method: str) -> Callable[[Path, Sequence[Path]], Kept]:
    def keep(store: Path, folders: Sequence[Path]) -> Kept:
        from vlora import SharedSubspace, load_adapter

        adapters = [load_adapter(folder) for folder in folders]
        space = SharedSubspace.from_adapters(
            adapters[:FIRST],
            task_ids=[folder.name for folder in folders[:FIRST]],
            num_components=RETAINED_K,
        )
        start = [vlora_factors(space, folder.name) for folder in folders[:FIRST]]
        for folder, adapter in zip(folders[FIRST:], adapters[FIRST:], strict=True):
            getattr(space, method)(adapter, folder.name)
        space.save(store)
        return start, [vlora_factors(space, folder.name) for folder in folders], size_of(store)

    return keep


def _keep_lorashare(store: Path, folders: Sequence[Path]) -> Kept:
    from lorashare import SHAREModel

    model = SHAREModel.from_adapters(
        {folder.name: str(folder) for folder in folders[:FIRST]},
        num_components=RETAINED_K,
        device="cpu",
    )
    start = [by_module(model.reconstruct(folder.name)) for folder in folders[:FIRST]]
    for folder in folders[FIRST:]:
        model.add_adapter(str(folder), name=folder.name, device="cpu")
    model.save_pretrained(store)
    return start, [by_module(model.reconstruct(folder.name)) for folder in folders], size_of(store)


_KEEP: Final[dict[str, Callable[[Path, Sequence[Path]], Kept]]] = {
    "share_registry, default policy": _keep_ours(lambda sr: sr.Policy()),
    f"share_registry, Policy.share(k={RETAINED_K})": _keep_ours(
        lambda sr: sr.Policy.share(k=RETAINED_K)
    ),
    "vlora-dev absorb": _keep_vlora("absorb"),
    "vlora-dev absorb_incremental": _keep_vlora("absorb_incremental"),
    "lorashare add_adapter": _keep_lorashare,
}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
