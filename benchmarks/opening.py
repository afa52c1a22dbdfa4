"""How long a reader takes to open a registry whose catalog has everything, lacks a little, or all.

SQLite and PostgreSQL, with mode "r": nothing is written.

    python -m benchmarks.opening [--commits N] [--rounds N] [--behind N ...]

The store holds the records, notes and layouts of a long log, as they are; its catalogs are filled
from the same log, up to so many records before its end. What is measured is an opening with one
question (the first page of the log), by a process that has asked before, and the memory that it
takes. PostgreSQL is asked by a role that may only read.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from sqlalchemy import URL, create_engine, make_url, text

import share_registry as sr
from benchmarks.catalog import copy_to, open_postgresql
from share_registry.catalog.catalog import Catalog
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, SpaceName
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from tests.catalog.growing import SPACE, STEP, Growing
from tests.catalog.logs import Log, Logged
from tests.reliability.processes import fork, wait_for
from tests.reliability.scenarios import IDENTITY, NoFlush

_PAGE: Final = 50
_BATCH: Final = 1000
_ROLE: Final = "reader"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--behind", type=int, nargs="*", default=[0, 1, 16])
    options = parser.parse_args()
    print("| catalog | lacks | ms, median | MiB more |\n| --- | --- | --- | --- |")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(open_postgresql(root))
        grow(root, options.commits, options.behind)
        _make_role(server)
        for behind in options.behind:
            url = _sqlite(root, behind)
            _print("SQLite", str(behind), root / "store", url, options.rounds)
            with _reading(copy_to(url, server, f"behind_{behind}")) as url:
                _print("PostgreSQL", str(behind), root / "store", url, options.rounds)
        _print("none", "all", root / "store", None, 1)


def grow(root: Path, commits: int, behind: Sequence[int]) -> None:
    """Make a store of so many commits, and SQLite catalogs that lack the last ones."""
    store = LocalStore.create(root / "store", Outside(system=NoFlush()), IDENTITY)
    growing = Growing(commits=commits, tasks=commits // 2)
    growing.log = Log(space=SPACE, step=STEP, parent=sha256(store.format_bytes()))
    lengths = sorted({*(commits - lacking for lacking in behind), commits})
    path = root / "growing.sqlite"
    with Catalog.open(f"sqlite:///{path}", store_id=IDENTITY) as catalog:
        for length in lengths:
            while growing.log.length < length:
                for _ in range(min(_BATCH, length - growing.log.length)):
                    growing.step()
                for entry in growing.log.entries:
                    _keep(store, entry)
                with catalog.begin(write=True) as session:
                    growing.log.apply(session)
                growing.log.forget()
            shutil.copyfile(path, root / f"behind-{commits - length}.sqlite")


def ask(store: Path, url: str | None) -> None:
    """Open a registry and ask one question; without a URL, one whose catalog is not there."""
    place = {"location": store} if url is None else {"location": url, "store": store}
    with sr.Registry.open(**place, mode="r") as registry:
        assert len(registry.log(SPACE, limit=_PAGE)) == _PAGE


def _keep(store: LocalStore, entry: Logged) -> None:
    contents = [layout.to_bytes() for layout in entry.layouts.values()]
    contents += [entry.note.to_bytes()] if entry.note is not None else []
    for content in contents:
        if not store.has(sha256(content)):
            store.put(content, sha256(content))
    record = entry.record
    store.publish(SpaceName(record.space), CommitNumber(record.number), record.to_bytes())


def _print(catalog: str, lacking: str, store: Path, url: str | None, rounds: int) -> None:
    """Print what a process needs that has asked before."""
    reading, writing = os.pipe()

    def measure() -> None:
        before = _resident_mib()
        ask(store, url)
        timings = [_time(store, url) for _ in range(rounds)]
        os.write(writing, f"{median(timings):.0f} {_peak_mib() - before:.0f}".encode())

    assert wait_for(fork(measure)) == 0
    milliseconds, peak = os.read(reading, 100).decode().split()
    print(f"| {catalog} | {lacking} | {milliseconds} | {peak} |", flush=True)
    for end in (reading, writing):
        os.close(end)


def _time(store: Path, url: str | None) -> float:
    begin = time.perf_counter()
    ask(store, url)
    return (time.perf_counter() - begin) * 1e3


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def _sqlite(root: Path, behind: int) -> str:
    return f"sqlite:///{root}/behind-{behind}.sqlite"


def _make_role(server: URL) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {_ROLE} LOGIN"))
    engine.dispose()


@contextmanager
def _reading(url: str) -> Iterator[str]:
    """Yield the URL of a database for a role that may only read it."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {_ROLE}"))
    engine.dispose()
    yield make_url(url).set(username=_ROLE).render_as_string(hide_password=False)


if __name__ == "__main__":
    main()
