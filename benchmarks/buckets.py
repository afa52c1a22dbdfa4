"""What a store in a bucket costs: requests, counted by a proxy, and time where each takes a while.

    python -m benchmarks.buckets [--tasks N] [--delay-ms D]

The server is moto, in this process. The proxy counts and lets every request take D ms longer, as a
service in the same region does. Adapters: one of 4 modules, 32 wide, r = 4, so that what is measured
is the way and not the maths.
"""

import argparse
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import share_registry as sr
from tests.cli.tiny import write_adapter
from tests.store.faulty_proxy import Proxy, proxy_to
from tests.store.object_servers import BUCKET, moto, variables

_COSTLY: Final = ("PUT", "POST", "LIST")
"""Requests that a service charges ten times as much for as for the others."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, moto() as url, proxy_to(url) as proxy:
        os.environ |= variables(proxy.url)
        _on_machine(Path(folder) / "writer")
        place = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        _fill(place, Path(folder), options.tasks)
        proxy.delay_s = options.delay_ms / 1000
        print(f"{options.tasks} tasks, {options.delay_ms:g} ms a request\n")
        print("| what | requests | of them writes and listings | s |\n| --- | --- | --- | --- |")
        _measure(place, Path(folder), proxy)


def _fill(place: str, folder: Path, tasks: int) -> None:
    for number in range(tasks):
        write_adapter(folder / "in" / f"t{number}", seed=number)
    with sr.Registry.open(place) as registry:
        registry.import_many(folder / "in")
        # a space with a long log too
        for number in range(20):
            registry.commit(write_adapter(folder / f"w{number}", seed=20_000 + number), task="warm")


def _measure(place: str, folder: Path, proxy: Proxy) -> None:
    def line(what: str, run: Callable[[], object]) -> None:
        proxy.requests.clear()
        begun_s = time.perf_counter()
        run()
        taken_s = time.perf_counter() - begun_s
        kinds = Counter("LIST" if "list-type" in path else verb for verb, path in proxy.requests)
        costly = sum(kinds[kind] for kind in _COSTLY)
        print(f"| {what} | {len(proxy.requests)} | {costly} | {taken_s:.2f} |", flush=True)

    with sr.Registry.open(place, mode="w") as writer:
        for name in ("first", "second"):
            adapter = write_adapter(folder / name, seed=10_000 + len(name))
            line(f"commit, the {name} of a process", lambda: writer.commit(adapter, task="new"))  # noqa: B023
    line("open for writing", lambda: sr.Registry.open(place, mode="w").close())
    _on_machine(folder / "writer", copies=False)
    line("open for reading", lambda: sr.Registry.open(place, mode="r").close())
    with sr.Registry.open(place, mode="r") as reader:
        reader.resolve("t1")
        line("check out one task, its catalog there", lambda: reader.checkout("t7"))
        line("the same once more", lambda: reader.checkout("t7"))
        line("another task of the space", lambda: reader.checkout("t8"))
        line("export one task", lambda: reader.export("t9", folder / "served"))
        line("resolve a reference", lambda: reader.resolve("t1"))
        line("list the tasks", lambda: reader.tasks(limit=10_000))
    _on_machine(folder / "reader")
    with sr.Registry.open(place, mode="r") as reader:
        line(
            "first use on a new machine: make the catalog of the log", lambda: reader.resolve("t1")
        )
    with sr.Registry.open(place, mode="r") as reader:
        reader.checkout("t7")
    with sr.Registry.open(place, mode="r") as reader:
        line("check out, copies of the objects here", lambda: reader.checkout("t7"))


def _on_machine(folder: Path, *, copies: bool = True) -> None:
    """Go on as on a machine of its own."""
    os.environ["SHARE_REGISTRY_CACHE"] = str(folder)
    os.environ["SHARE_REGISTRY_CACHE_BYTES"] = str(1 << 30 if copies else 0)


if __name__ == "__main__":
    main()
