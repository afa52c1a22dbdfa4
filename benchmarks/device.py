"""Materializing on a GPU beside what the GPU can do.

Share of its copy bandwidth or of its rate, one task by a graph, the exact path beside the CPU's
bytes; commits and refits.

    python -m benchmarks.device [--shape SHAPE] [--tasks N ...] [--device DEVICE] [--write]

`make gpu` runs it with `--write`, which puts figures and table into benchmarks/gpu.json and
benchmarks/gpu.md. Where there is no CUDA device it says so and succeeds. The floor is the larger of
rows and coefficients read once plus results written over the measured copy bandwidth (bytes read
plus bytes written over time), and operations over the measured rate of a square product in the same
element type. Times are medians, without resolving references and with rows resident. Commits and
refits are those of `benchmarks.growth`, on the device and on the CPU, coding and writing included.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

import share_registry as sr
from benchmarks.adapters import write_planted
from benchmarks.spaces import SHAPES, Kind, build, flops

ROUNDS: Final = 15
PLACE: Final = Path(__file__).parent
KIND: Final = Kind(rank=16, k=64, own=False)
CHAIN: Final = Kind(rank=16, k=16, own=True, before=2)
DTYPES: Final = (torch.bfloat16, torch.float16, torch.float32)
ABSORBED: Final = 10
"""Adapters of 32 shared columns that are committed.

The last commit and the refit after it are timed.
"""
COPIED_BYTES: Final = 1 << 30
SQUARE: Final = 8192


def main() -> None:
    """Measure, print the table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=list(SHAPES), default="mistral-qv")
    parser.add_argument("--tasks", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--device", default="cuda", help="cpu: only to see that it runs")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no CUDA device here: nothing to measure.", file=sys.stderr)
        return
    figures = measure(torch.device(options.device), options.shape, options.tasks)
    page = table(figures)
    print(page)
    if options.write:
        (PLACE / "gpu.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        (PLACE / "gpu.md").write_text(f"{page}\n", encoding="utf-8")


def measure(device: torch.device, shape: str, counts: Sequence[int]) -> dict[str, Any]:
    """Return every figure."""
    with tempfile.TemporaryDirectory() as place:
        refs = build(Path(place) / "shared", SHAPES[shape], KIND, max(counts))
        late = build(Path(place) / "chain", SHAPES["minilm"], CHAIN, 4)
        with (
            sr.Registry.open(Path(place) / "shared", mode="r") as registry,
            sr.Registry.open(Path(place) / "chain", mode="r") as chains,
        ):
            passes = [
                _pass(registry, device, dtype, shape, refs[:count])
                for dtype in DTYPES
                for count in counts
            ]
            same = _same_bytes(registry, device, refs[:2]) and _same_bytes(
                chains, device, [*late, *(f"{ref}@v2" for ref in late)]
            )
        folders = write_planted(
            Path(place) / "adapters",
            count=ABSORBED,
            rank=16,
            width=1024,
            shared=32,
            noise=0.05,
            layers=24,
        )
        algebra = {
            where: _algebra(Path(place) / f"algebra-{number}", folders, where)
            for number, where in enumerate((str(device), "cpu"))
        }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    about = {
        "device": name,
        "torch": torch.__version__,
        "shape": shape,
        "rank": KIND.rank,
        "k": KIND.k,
    }
    return about | {"exact_bytes_are_the_cpus": same, "passes": passes, "algebra": algebra}


def table(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        (
            f"{figures['device']}, torch {figures['torch']}: {figures['shape']}, r = "
            f"{figures['rank']}, basis k = {figures['k']}"
        ),
        "",
        (
            "| element type | tasks | pass us | graph us | bound by | floor us | graph / floor | "
            "share of copy bandwidth | share of rate |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in figures["passes"]:
        floor = max(row["by_bytes"], row["by_flops"])
        by = "rate" if row["by_flops"] > row["by_bytes"] else "bandwidth"
        shares = " | ".join(
            f"{100 * row[name] / row['graph']:.0f} %" for name in ("by_bytes", "by_flops")
        )
        micro = [f"{1e6 * seconds:.0f}" for seconds in (row["seconds"], row["graph"], floor)]
        lines.append(
            f"| {row['dtype']} | {row['tasks']} | {micro[0]} | {micro[1]} | {by} | {micro[2]} | "
            f"{row['graph'] / floor:.2f} | {shares} |"
        )
    lines += [
        "",
        (
            "The exact path gives the CPU's bytes: "
            f"{'yes' if figures['exact_bytes_are_the_cpus'] else 'NO'}."
        ),
        "",
    ]
    lines += [
        "48 modules, 1024 wide, r = 16, 32 shared columns:",
        "",
        "| computed on | commit ms | refit ms |",
        "| --- | --- | --- |",
    ]
    return "\n".join(
        [
            *lines,
            *(
                f"| {where} | {1e3 * row['commit']:.0f} | {1e3 * row['refit']:.0f} |"
                for where, row in figures["algebra"].items()
            ),
        ]
    )


def _pass(
    registry: sr.Registry, device: torch.device, dtype: torch.dtype, shape: str, refs: Sequence[str]
) -> dict[str, Any]:
    with sr.Materializer(registry, device=device, dtype=dtype) as materializer:
        memory = materializer.buffers()
        seconds = _median(partial(materializer.materialize, refs, out=memory), device)
        graph = _median(materializer.prepare(refs).run, device)
        moved = materializer.resident_bytes + memory.size_bytes
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "tasks": len(refs),
        "seconds": seconds,
        "graph": graph,
        "by_bytes": moved / _bytes_per_s(device),
        "by_flops": flops(SHAPES[shape], KIND) * len(refs) / _flops_per_s(device, dtype),
    }


def _algebra(root: Path, folders: Sequence[Path], device: str) -> dict[str, float]:
    """Return the seconds of the last of some commits, and of a refit after it."""
    with sr.Registry.open(root, device=device) as registry:
        registry.create_space("all", policy=sr.Policy(refit=False))
        for folder in folders[:-1]:
            registry.commit(folder, space="all", allow_base_mismatch=True)
        registry.space("all").refit()
        begin = time.perf_counter()
        registry.commit(folders[-1], space="all", allow_base_mismatch=True)
        committed = time.perf_counter()
        registry.space("all").refit()
    return {"commit": committed - begin, "refit": time.perf_counter() - committed}


def _same_bytes(registry: sr.Registry, device: torch.device, refs: Sequence[str]) -> bool:
    with sr.Materializer(registry, device=device, exact=True) as materializer:
        adapters = materializer.materialize(refs)
    return all(
        tensor.equal(adapters[ref].tensors[key].cpu())
        for ref in refs
        for key, tensor in registry.checkout(ref).tensors.items()
    )


def _bytes_per_s(device: torch.device) -> float:
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * COPIED_BYTES / _median(lambda: target.copy_(source), device)


def _flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    side = SQUARE if device.type == "cuda" else 512
    square = [torch.ones(side, side, dtype=dtype, device=device) for _ in range(3)]
    return 2.0 * side**3 / _median(lambda: torch.mm(square[0], square[1], out=square[2]), device)


def _median(call: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a call until the device has done it; it was called twice before."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    for number in range(ROUNDS + 2):
        wait()
        begin = time.perf_counter()
        call()
        wait()
        if number > 1:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    main()
