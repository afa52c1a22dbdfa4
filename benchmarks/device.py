"""Checkout on a GPU beside the CPU: identical bytes, and the ratio of the times.

    python -m benchmarks.device

Where there is no CUDA device it says so and succeeds.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import share_registry as sr
from benchmarks.adapters import independent

ROUNDS = 7


def main() -> None:
    """Measure and print one table."""
    import torch

    if not torch.cuda.is_available():
        print("There is no CUDA device here: nothing to measure.", file=sys.stderr)
        return
    print(f"{torch.cuda.get_device_name(0)}\n\n| adapter | same bytes | CPU ms | GPU ms | CPU / GPU |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        folders = independent(Path(place) / "adapters", count=2, rank=16, width=4096, layers=8)
        with sr.Registry.open(Path(place) / "registry") as registry:
            for folder in folders:
                ref = registry.commit(folder).ref
                on_cpu, on_gpu = registry.checkout(ref), registry.checkout(ref, device="cuda")
                same = all(torch.equal(tensor, on_gpu.tensors[key].cpu()) for key, tensor in on_cpu.tensors.items())
                cpu, gpu = _time(registry, ref, "cpu", lambda: None), _time(registry, ref, "cuda", torch.cuda.synchronize)
                print(f"| 8 layers q, v, 4096 wide, r = 16 | {same} | {cpu * 1e3:.1f} | {gpu * 1e3:.1f} | {cpu / gpu:.1f} |")


def _time(registry: sr.Registry, ref: str, device: str, wait: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        registry.home.reader().forget_decoded()
        begin = time.perf_counter()
        registry.checkout(ref, device=device)
        wait()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    main()
