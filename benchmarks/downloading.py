"""Downloads from `share-registry serve`, beside reading the same file from the disk.

    python -m benchmarks.downloading [--layers L] [--rounds R]

One adapter of L layers with two modules 2048 wide, r = 64, fp32, in the cache of a server that is a
process of its own. Each round takes every line once: the file read and hashed here, the same file
downloaded through a socket and hashed, downloaded alone, and small requests. The last line has 32
clients that download at once, by the file.
"""

import argparse
import hashlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from benchmarks.adapters import write_independent

WIDTH: Final = 2048
RANK: Final = 64
CLIENTS: Final = 32
PIECE: Final = 1 << 20
MODEL: Final = "adapter_model.safetensors"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _fill(place, options.layers)
        with _serving(place / "registry", place / "cache") as port:
            _print(place / "cache", port, options.rounds)


def _fill(place: Path, layers: int) -> None:
    import share_registry as sr

    write_independent(place / "adapters", count=1, rank=RANK, width=WIDTH, layers=layers)
    with sr.Registry.open(place / "registry") as opened:
        opened.import_many([place / "adapters"])
        opened.set_alias(opened.tasks()[0].ref, "prod")


@contextmanager
def _serving(registry: Path, cache: Path) -> Iterator[int]:
    command = [
        *(sys.executable, "-W", "ignore", "-m", "share_registry.cli.main", "-R", str(registry)),
        *("serve", "--port", "0", "--cache", str(cache)),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = re.search(r":(\d+);", process.stderr.readline())
        assert address is not None
        try:
            yield int(address[1])
        finally:
            process.terminate()


def _print(cache: Path, port: int, rounds: int) -> None:
    ref = json.loads(_get(port, "/v1/models"))["data"][0]["id"]
    started = time.perf_counter()
    document = json.loads(_get(port, f"/v1/resolve/{ref}"))
    cold = time.perf_counter() - started
    (file,) = [each for each in document["files"] if each["path"] == MODEL]
    path, url, size = cache / document["name"] / MODEL, file["url"], file["size"]
    lines: dict[str, Callable[[], object]] = {
        "the file read and hashed": lambda: _read(path),
        "downloaded and hashed": lambda: _get(port, url, hashing=True),
        "downloaded": lambda: _get(port, url),
        "resolve": lambda: _get(port, f"/v1/resolve/{ref}"),
        "the client has it already": lambda: _get(port, url, tag=file["sha256"]),
        f"{CLIENTS} clients at once, by the file": lambda: _at_once(port, url),
    }
    seconds: dict[str, list[float]] = {line: [] for line in lines}
    for number in range(rounds + 1):
        for line, act in lines.items():
            started = time.perf_counter()
            act()
            # the first round makes everything warm
            if number:
                each = CLIENTS if line.startswith(str(CLIENTS)) else 1
                seconds[line].append((time.perf_counter() - started) / each)
    floor = statistics.median(seconds["the file read and hashed"])
    print(f"{size / 1e6:.0f} MB, median of {rounds} rounds; first resolve: {cold:.2f} s\n")
    print("| what | ms | over the floor |\n| --- | --- | --- |")
    for line, values in seconds.items():
        median = statistics.median(values)
        print(f"| {line} | {1000 * median:.1f} | {median / floor:.3f} |")


def _read(path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)


def _get(port: int, path: str, *, hashing: bool = False, tag: str = "") -> bytes:
    """Return what is sent; of a file that is hashed, nothing."""
    headers = {"If-None-Match": f'"{tag}"'} if tag else {}
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        assert answer.status == (304 if tag else 200), answer.read()
        if not path.endswith(MODEL):
            return answer.read()
        digest = hashlib.sha256()
        while piece := answer.read(PIECE):
            if hashing:
                digest.update(piece)
        return b""


def _at_once(port: int, url: str) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda _: _get(port, url), range(CLIENTS)))


if __name__ == "__main__":
    main()
