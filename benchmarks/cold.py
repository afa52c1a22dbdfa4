"""One task out of many from a new process.

Checkout beside the raw file, export, and what a commit costs apart from its maths.

    python -m benchmarks.cold [--layers L] [--tasks N] [--rounds R]

An adapter of Mistral-7B's q (4096 x 4096) and v (1024 x 4096) projections, r = 16, fp32, lies in a
registry among N tasks. Every line is a process of its own, timed after its imports. Cold: the pages
of the files concerned are dropped first (posix_fadvise DONTNEED after a sync; the disk below may
have a cache of its own). The peer `safetensors.torch.load_file` maps the file; the line below it
also touches every page, as a checkout does, since it decodes and verifies what it hands out. The
floor of a checkout is what it cannot do without: reading and hashing the objects, and writing the
tensors' bytes to fresh memory, each measured in the same run.

Commit overhead: adapters of one module 8 wide, r = 1; what algebra, coding and fsync take even so
is measured inside and taken off.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from benchmarks.adapters import write_decaying, write_planted
from benchmarks.many import mix

SHAPES: Final = {"q_proj": (4096, 4096), "v_proj": (1024, 4096)}
RANK: Final = 16
Seconds = tuple[float, float]
"""By the clock, and of the processor, threads included."""
SMALL: Final = 20
"""Commits whose overhead is taken, the later half of them: the first ones compile statements."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "PLACE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_measure_line(options.one[0], Path(options.one[1]))))
        return
    with tempfile.TemporaryDirectory() as place:
        _build(Path(place), options)
        _print(Path(place), options)


def _build(place: Path, options: argparse.Namespace) -> None:
    import share_registry as sr

    profile = [10 ** (-index / RANK) for index in range(RANK)]
    folder = write_decaying(
        place / "adapter", shapes=SHAPES, profile=profile, spread=0.5, layers=options.layers
    )
    small = write_planted(place / "small", count=2, rank=4, width=64, shared=8, noise=0.05)
    with sr.Registry.open(place / "registry") as registry:
        registry.create_space("large", base_model="synthetic")
        registry.commit(folder, task="wanted", space="large")
        registry.create_space("small", base_model="synthetic-small")
        for adapter in small:
            registry.commit(adapter, task=adapter.name, space="small", allow_base_mismatch=True)
        mix(registry, "small", count=options.tasks - 3)


def _print(place: Path, options: argparse.Namespace) -> None:
    seconds: dict[str, list[Seconds]] = {}
    for _ in range(options.rounds):
        for line in LINES:
            seconds.setdefault(line, []).append(_child(line, place))
    least = {
        line: (min(wall for wall, _ in values) * 1e3, min(work for _, work in values) * 1e3)
        for line, values in seconds.items()
    }
    print(
        f"{options.tasks} tasks, {options.layers} layers, q and v of Mistral-7B, r = {RANK}; "
        f"least of {options.rounds} processes each\n"
    )
    print(
        "| what | ms | of the processor, ms | over load_file, cold | over the floor |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for line, (wall, work) in least.items():
        print(
            f"| {LINES[line][0]} | {wall:.1f} | {work:.1f} | {wall / least['load'][0]:.2f} | "
            f"{wall / least['floor'][0]:.2f} |",
            flush=True,
        )
    commits = {part: value * 1e3 for part, value in _child("commits", place).items()}
    print("\n| commit of next to nothing | of the processor, ms |\n| --- | --- |")
    print(
        f"| in all | {commits['all']:.1f} |\n"
        f"| algebra, coding and decoding | {commits['algebra']:.1f} |\n"
        f"| fsync | {commits['fsync']:.1f} |"
    )
    print(f"| the rest: overhead | {commits['all'] - commits['algebra'] - commits['fsync']:.1f} |")


def _child(line: str, place: Path) -> Any:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.cold", "--one", line, str(place)]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def _measure_line(line: str, place: Path) -> Seconds | dict[str, float]:
    """Return the seconds of one line, after its imports."""
    _imports()
    return LINES[line][1](place) if line in LINES else _commits()


def _imports() -> None:
    import share_registry as sr
    import share_registry.registry.checkout.checkout
    import share_registry.registry.commands.commit

    with (
        tempfile.TemporaryDirectory() as empty,
        sr.Registry.open(Path(empty) / "registry") as registry,
    ):
        registry.create_space("imports")


def _drop_cache(place: Path) -> None:
    """Ask the system to forget the pages of everything below a directory."""
    os.sync()
    for path in place.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def _time(run: Callable[[], Any]) -> Seconds:
    begin, start = time.process_time(), time.perf_counter()
    kept = run()
    seconds = time.perf_counter() - start, time.process_time() - begin
    del kept
    return seconds


def _load(place: Path, *, cold: bool = True, touch: bool = False) -> Seconds:
    from safetensors.torch import load_file

    def run() -> Any:
        tensors = load_file(place / "adapter" / "adapter_model.safetensors")
        return [tensor.clone() for tensor in tensors.values()] if touch else tensors

    (_drop_cache if cold else _warm_up)(place / "adapter")
    return _time(run)


def _warm_up(place: Path) -> None:
    for path in place.rglob("*"):
        if path.is_file():
            path.read_bytes()


def _floor(place: Path) -> Seconds:
    """Read and hash the largest object, and write as many bytes as the tensors have."""
    import torch

    size = (place / "adapter" / "adapter_model.safetensors").stat().st_size
    objects = [path for path in (place / "registry" / "objects").rglob("*") if path.is_file()]
    largest = max(objects, key=lambda path: path.stat().st_size)
    _drop_cache(place / "registry")
    return _time(
        lambda: (sha256(largest.read_bytes()).digest(), torch.ones(size, dtype=torch.uint8))
    )


def _checkout(place: Path, *, cold: bool = True) -> Seconds:
    import share_registry as sr

    def run() -> Any:
        with sr.Registry.open(place / "registry") as registry:
            return registry.space("large").checkout("wanted")

    (_drop_cache if cold else _warm_up)(place / "registry")
    return _time(run)


def _again(place: Path) -> Seconds:
    """Check out in a registry that is open and has decoded the task before."""
    import share_registry as sr

    with sr.Registry.open(place / "registry") as registry:
        registry.space("large").checkout("wanted")
        return _time(lambda: registry.space("large").checkout("wanted"))


def _export(place: Path) -> Seconds:
    import share_registry as sr

    with tempfile.TemporaryDirectory() as out, sr.Registry.open(place / "registry") as registry:
        return _time(lambda: registry.space("large").export("wanted", out))


def _commits() -> dict[str, float]:
    """Return medians of small commits.

    Processor seconds in all, in algebra and coding, and in fsync.
    """
    import share_registry as sr
    from share_registry.outside.system import System
    from share_registry.registry.commands import encode

    spent = {"algebra": 0.0, "fsync": 0.0}

    def counted(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[part] += time.process_time() - start

        return call

    for name in ("absorb", "decode", "pooled_error", "module_errors"):
        setattr(encode, name, counted(getattr(encode, name), "algebra"))
    System.fsync = counted(System.fsync, "fsync")  # type: ignore[method-assign]
    samples: dict[str, list[float]] = {"all": [], "algebra": [], "fsync": []}
    with (
        tempfile.TemporaryDirectory() as root,
        sr.Registry.open(Path(root) / "registry") as registry,
    ):
        registry.create_space("small", base_model="synthetic", policy=sr.Policy(refit=False))
        for folder in write_planted(
            Path(root) / "adapters", count=SMALL, rank=1, width=8, shared=1, noise=0.05
        ):
            spent.update(algebra=0.0, fsync=0.0)
            samples["all"].append(
                _time(partial(registry.commit, folder, task=folder.name, space="small"))[1]
            )
            samples["algebra"].append(spent["algebra"])
            samples["fsync"].append(spent["fsync"])
    return {part: statistics.median(values[SMALL // 2 :]) for part, values in samples.items()}


LINES: Final[dict[str, tuple[str, Callable[[Path], Seconds]]]] = {
    "floor": ("floor: read and hash the object, write the tensors' bytes", _floor),
    "load": ("safetensors load_file, cold", _load),
    "touch": (
        "safetensors load_file, cold, every value copied",
        lambda place: _load(place, touch=True),
    ),
    "checkout": ("checkout, cold: open, resolve, read, verify, decode", _checkout),
    "warm load": ("safetensors load_file, pages in memory", lambda place: _load(place, cold=False)),
    "warm": ("checkout, pages in memory", lambda place: _checkout(place, cold=False)),
    "again": ("checkout once more in the same process", _again),
    "export": ("export: decode, hash, write, flush, place", _export),
}


if __name__ == "__main__":
    main()
