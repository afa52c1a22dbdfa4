"""What an import takes beside a loop of commits: wall time, processor time, memory.

    python -m benchmarks.importing [N] [--workers N]

N adapters of MiniLM's shape, of one base model, whose A factors began at one place; one has a NaN,
one is cut off. In turns: a loop of `commit`, `import_many` in this process alone, and with workers;
then an import that is killed half way, and run again. Each is a process of its own; of workers the
largest is shown. The contents of all registries are compared: what workers prepare must not depend
on their number.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

import share_registry as sr
from share_registry.catalog.queries import version_lookups

_LAYERS: Final = 6
_WIDTH: Final = 384
_RANK: Final = 8
# A loop that goes on past what cannot be used, as its user would write it
_LOOP: Final = """
import sys
from pathlib import Path
import share_registry as sr
with sr.Registry.open(sys.argv[1]) as registry:
    for folder in sorted(Path(sys.argv[2]).iterdir()):
        try:
            registry.commit(folder)
        except sr.ShareRegistryError as error:
            print(folder.name, error)
"""
_IMPORT: Final = """
import sys
import share_registry as sr
with sr.Registry.open(sys.argv[1]) as registry:
    print(registry.import_many(sys.argv[2], workers=int(sys.argv[3])))
"""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", nargs="?", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    workers = options.workers
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write(root / "adapters", options.count)
        print(
            f"| {options.count} adapters, 2 of them bad | wall s | adapters/s | processor s |"
            " peak MB, of a worker | tasks | bytes |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        contents = {}
        for name, script, number in (
            ("loop of commits", _LOOP, 1),
            ("import, 1 worker", _IMPORT, 1),
            (f"import, {workers} workers", _IMPORT, workers),
        ):
            place = root / name.replace(" ", "-")
            _run(name, script, place, root / "adapters", number)
            contents[name] = _contents(place)
        place = root / "killed"
        _kill_half_way(place, root / "adapters", workers, options.count)
        left = len(_contents(place))
        _run(f"killed at {left}, then again", _IMPORT, place, root / "adapters", workers)
        contents["killed"] = _contents(place)
        alone, together = contents["import, 1 worker"], contents[f"import, {workers} workers"]
        print(
            f"\nthe same refs and objects for 1 and {workers} workers: {alone == together};"
            f" the same tasks after the kill: {contents['killed'].keys() == together.keys()}"
        )


def write(root: Path, count: int) -> None:
    """Write the adapters."""
    generator = torch.Generator().manual_seed(7)
    modules = [
        f"base_model.model.encoder.layer.{layer}.attention.self.{name}"
        for layer in range(_LAYERS)
        for name in ("query", "value")
    ]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    first = {module: normal(_RANK, _WIDTH) / 20 for module in modules}
    for number in range(count):
        tensors = {}
        for module in modules:
            moved = first[module] + normal(_RANK, _WIDTH) / 60
            tensors[f"{module}.lora_A.weight"] = moved
            tensors[f"{module}.lora_B.weight"] = normal(_WIDTH, _RANK) / 50
        if number == count // 3:
            tensors[f"{modules[0]}.lora_A.weight"][0, 0] = torch.nan
        _write_one(root / f"task-{number:05d}", tensors)
    path = root / f"task-{count // 2:05d}" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _write_one(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": "synthetic/minilm",
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "target_modules": ["query", "value"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


@contextmanager
def _started(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _run(name: str, script: str, place: Path, adapters: Path, workers: int) -> None:
    """Run one of them to its end, and print what it took."""
    begun, peaks = time.perf_counter(), dict[int, int]()
    before = os.times()
    with _started(script, place, adapters, workers) as process:
        while process.poll() is None:
            for pid in (process.pid, *_children(process.pid)):
                peaks[pid] = max(peaks.get(pid, 0), _peak_kb(pid))
            time.sleep(0.2)
        after = os.times()
        wall = time.perf_counter() - begun
        own = peaks.pop(process.pid, 0) / 1e3
    # a process that was not waited for, such as a worker, is not counted by the system
    processor = sum(after[2:4]) - sum(before[2:4])
    worker = max(peaks.values(), default=0) / 1e3
    with sr.Registry.open(place, mode="r") as registry:
        tasks = registry.tasks(limit=None)
        stored = sum(commit.bytes_added for commit in registry.spaces())
    print(
        f"| {name} | {wall:.1f} | {len(tasks) / wall:.2f} | {processor:.1f} |"
        f" {own:.0f}, {worker:.0f} | {len(tasks)} | {stored / 1e6:.2f} MB |",
        flush=True,
    )


def _kill_half_way(place: Path, adapters: Path, workers: int, count: int) -> None:
    with _started(_IMPORT, place, adapters, workers) as process:
        while process.poll() is None and len(_contents(place)) < count // 2 - 2:
            time.sleep(0.5)
        process.send_signal(signal.SIGKILL)


def _contents(place: Path) -> dict[str, str]:
    if not (place / "FORMAT").exists():
        return {}
    with sr.Registry.open(place, mode="r") as registry, registry.context.reading() as session:
        return {row.ref: row.adapter_digest for row in version_lookups.all_versions(session)}


def _children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def _peak_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main()
