"""Server time of the pages of `share-registry ui`, for a space of many tasks.

    python -m benchmarks.pages [--tasks N] [--versions V] [--rounds R]

A space of N tasks with V versions each, labels, metrics and some aliases is made of records that
name one stored adapter over and over. Each page is asked for in this process, first of a server
that was just started, then again: what is timed is the application, from the request to the last
byte, without sockets. Times are of the processor, so that what else the machine does counts little.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import share_registry as sr
from tests.cli.tiny import write_adapter
from tests.ui.looking import looking_at
from tests.ui.many import commit_copies

SPACE: Final = "many"
AT_ONCE: Final = 1000
ALIASES: Final = 40
TEAMS: Final = ("search", "ads", "support", "legal")


def main() -> None:
    """Print one row a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        place = _grow(Path(root), options.tasks, options.versions)
        print(f"{options.tasks:,} tasks with {options.versions} versions each\n")
        print("| page | first, ms | median, ms | kB |\n| --- | ---: | ---: | ---: |")
        for name, path in _pages(options.tasks):
            first, median, size = _measure(place, path, options.rounds)
            print(f"| {name} | {1e3 * first:.0f} | {1e3 * median:.0f} | {size / 1e3:.0f} |")


def _pages(tasks: int) -> Iterator[tuple[str, str]]:
    middle = f"task-{tasks // 2:06}"
    yield "spaces", "/"
    yield "a space, its first page", f"/spaces/{SPACE}"
    yield "a page in the middle", f"/spaces/{SPACE}?after={SPACE}/{middle}"
    yield "tasks whose names have 99", f"/spaces/{SPACE}?name=99"
    yield "tasks of a team", f"/spaces/{SPACE}?label=team=legal"
    yield "tasks with acc>0.999", f"/spaces/{SPACE}?where=acc>0.999"
    yield "sorted by acc, the largest first", f"/spaces/{SPACE}?sort=-acc"
    yield "as of the fifth commit", f"/spaces/{SPACE}?at=c5"
    yield "a task", f"/tasks/{SPACE}/{middle}"
    yield "the log", f"/spaces/{SPACE}/log"
    yield "live on a date", "/live?at=2999-01-01"
    yield "retention", f"/spaces/{SPACE}/retention"
    yield "changes of a week", "/changes"
    yield "/metrics", "/metrics"
    yield "/v1/tasks?limit=1000", "/v1/tasks?limit=1000"


def _measure(place: Path, path: str, rounds: int) -> tuple[float, float, int]:
    """Return seconds of the first request and of a later one, and bytes of the answer."""
    spent, size = [], 0
    with looking_at(place) as client:
        for _ in range(rounds + 1):
            begin = time.process_time()
            answer = client.get(path)
            spent.append(time.process_time() - begin)
            assert answer.status_code == 200, answer.text
            size = len(answer.content)
    return spent[0], sorted(spent[1:])[rounds // 2], size


def _grow(root: Path, tasks: int, versions: int) -> Path:
    names = [f"task-{number:06}" for number in range(tasks)]
    chance = Random(0)
    with sr.Registry.open(root / "registry") as registry:
        space = registry.create_space(SPACE)
        space.commit(write_adapter(root / "in", seed=1), task="seed", allow_base_mismatch=True)
        for version in range(1, versions + 1):
            for batch in _batches(names):
                commit_copies(
                    registry,
                    f"{SPACE}/seed@v1",
                    batch,
                    version=version,
                    labels={name: {"team": chance.choice(TEAMS)} for name in batch},
                    metrics={name: {"acc": round(chance.random(), 4)} for name in batch},
                )
        for name in names[:ALIASES]:
            space.set_alias(name, "prod")
    return root / "registry"


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), AT_ONCE):
        yield names[start : start + AT_ONCE]


if __name__ == "__main__":
    main()
