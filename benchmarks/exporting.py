"""One large adapter as a PEFT directory: time and peak memory of an export, in a process of its own.

    python -m benchmarks.exporting [--rank R] [--layers L] [--width W] [--rounds N]

Timed with the registry open; what the export imports is part of its time and memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.adapters import write_independent
from benchmarks.memory import peak_mb


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("REGISTRY", "ROOT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_measure(*map(Path, options.one))))
        return
    import share_registry as sr

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sizes = {"rank": options.rank, "layers": options.layers, "width": options.width}
        (adapter,) = write_independent(place / "adapters", count=1, **sizes)
        with sr.Registry.open(place / "registry") as opened:
            opened.commit(adapter, task="large")
        size = sum(path.stat().st_size for path in adapter.iterdir())
        print(f"an adapter of {size / 1e6:.0f} MB\n")
        print(
            "| s | of the processor, s | memory before, MB | peak, MB |\n| --- | --- | --- | --- |"
        )
        for number in range(options.rounds):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.exporting", "--one"]
            done = subprocess.run(
                [*command, str(place / "registry"), str(place / f"out{number}")],
                check=True,
                capture_output=True,
                text=True,
            )
            wall, work, before, peak = json.loads(done.stdout.splitlines()[-1])
            print(f"| {wall:.2f} | {work:.2f} | {before:.0f} | {peak:.0f} |")


def _measure(registry: Path, root: Path) -> tuple[float, float, float, float]:
    import share_registry as sr

    with sr.Registry.open(registry, mode="r") as opened:
        ref = opened.tasks()[0].ref
        before = peak_mb()
        started = time.perf_counter(), time.process_time()
        opened.export(ref, root)
        return (
            time.perf_counter() - started[0],
            time.process_time() - started[1],
            before,
            peak_mb(),
        )


if __name__ == "__main__":
    main()
