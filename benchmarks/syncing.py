"""A directory for servers: everything behind an alias, cold, again, and after one alias moved.

    python -m benchmarks.syncing [--tasks N] [--layers L] [--width W] [--rounds R] [--registry PLACE]
                                 [--at-once D]

N adapters of L layers with two modules W wide, r = 8, fp32, that share nothing, each with the
alias prod. The floor is what a sync cannot do without: the same files written aside, flushed and
renamed in the same way, and hashed, by two threads, from memory. Cold: into a directory that is
not there, in a process of its own, timed after its imports and the opening of the registry.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.adapters import write_independent

RANK: Final = 8
LINES: Final = {
    "floor": "the same files from memory: written and hashed",
    "cold": "sync into a new directory",
    "again": "sync again, nothing moved",
    "moved": "sync after one alias moved",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, help="directories at a time; as sync does if unset")
    parser.add_argument("--registry", type=Path, help="one that an earlier run has filled")
    parser.add_argument(
        "--one", nargs=3, metavar=("WHAT", "REGISTRY", "ROOT"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.one:
        what, registry, root = options.one
        print(json.dumps(_measure(what, Path(registry), Path(root), options.at_once)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        registry = options.registry or place / "registry"
        if not registry.exists():
            _fill(place, registry, options.tasks, layers=options.layers, width=options.width)
        _print(place, registry, options.rounds, options.at_once)


def _fill(place: Path, registry: Path, tasks: int, *, layers: int, width: int) -> None:
    import share_registry as sr

    write_independent(place / "adapters", count=tasks, rank=RANK, width=width, layers=layers)
    with sr.Registry.open(registry) as opened:
        opened.import_many([place / "adapters"])
        for task in opened.tasks():
            opened.set_alias(task.ref, "prod")


def _print(place: Path, registry: Path, rounds: int, at_once: int | None) -> None:
    seconds: dict[str, list[tuple[float, float]]] = {line: [] for line in LINES}
    served = place / "served"
    child = partial(_child, at_once=at_once)
    child("cold", registry, served)
    print(f"{_statements(registry, place / 'counted')} statements to the catalog\n")
    files = [path for path in served.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    print(f"{len(files)} files, {total / 1e6:.0f} MB; median of {rounds} rounds\n")
    for number in range(rounds):
        seconds["floor"].append(child("floor", served, place / f"floor{number}"))
        seconds["cold"].append(child("cold", registry, place / f"cold{number}"))
        seconds["again"].append(child("again", registry, place / f"cold{number}"))
        seconds["moved"].append(child("moved", registry, place / f"cold{number}"))
    walls = {
        line: statistics.median(wall for wall, _ in values) for line, values in seconds.items()
    }
    ratios = [
        cold[0] / floor[0] for cold, floor in zip(seconds["cold"], seconds["floor"], strict=True)
    ]
    print("| what | s | of the processor, s | over the floor |\n| --- | --- | --- | --- |")
    for line, values in seconds.items():
        work = statistics.median(each for _, each in values)
        print(
            f"| {LINES[line]} | {walls[line]:.2f} | {work:.2f} | {walls[line] / walls['floor']:.2f} |"
        )
    print(f"\ncold over the floor, round by round: {', '.join(f'{each:.2f}' for each in ratios)}")


def _statements(registry: Path, root: Path) -> int:
    """Return how many statements a cold sync sends to the catalog."""
    import share_registry as sr
    from tests.catalog.statements import counting_statements

    with sr.Registry.open(registry, mode="r") as opened:
        opened.tasks()
        with counting_statements() as statements:
            opened.sync(root)
    return len(statements)


def _child(what: str, registry: Path, root: Path, *, at_once: int | None) -> tuple[float, float]:
    command = [
        *(sys.executable, "-W", "ignore", "-m", "benchmarks.syncing"),
        *(() if at_once is None else ("--at-once", str(at_once))),
        *("--one", what, str(registry), str(root)),
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    wall, work = json.loads(lines[-1])
    return wall, work


def _measure(what: str, registry: Path, root: Path, at_once: int | None) -> tuple[float, float]:
    if what == "floor":
        return _floor(registry, root)
    import share_registry as sr
    from share_registry.registry.delivery import alias_sync

    if at_once is not None:
        vars(alias_sync)["_OF_DISK"] = at_once
    with sr.Registry.open(registry, mode="w" if what == "moved" else "r") as opened:
        opened.tasks()
        if what == "moved":
            task = opened.tasks()[0]
            opened.commit(opened.checkout(task.ref), task=task.name, allow_duplicate=True, budget=0)
            opened.set_alias(task.name, "prod")
        started = time.perf_counter(), time.process_time()
        report = opened.sync(root)
        took = time.perf_counter() - started[0], time.process_time() - started[1]
    assert report.failed == 0
    assert report.written == {"cold": len(report.tasks), "again": 0, "moved": 1}[what], report
    return took


def _floor(served: Path, root: Path) -> tuple[float, float]:
    from share_registry.exchange.export_files import place
    from share_registry.format.canonical import sha256
    from share_registry.outside.files import Outside
    from share_registry.parallel import MAX_THREADS, ahead

    exports = {
        folder.name: {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in served.iterdir()
        if folder.is_dir()
    }

    def write(name: str) -> None:
        for content in exports[name].values():
            sha256(content)
        place(exports[name], root, name, overwrite=False, outside=outside)

    outside = Outside()
    started = time.perf_counter(), time.process_time()
    for _ in ahead(partial(write), exports, threads=MAX_THREADS):
        pass
    return time.perf_counter() - started[0], time.process_time() - started[1]


if __name__ == "__main__":
    main()
