"""What a commit costs with the threads that the environment gives, beside one thread.

    python -m benchmarks.threads [--large MB]

Four adapters that share nothing are committed in a process of its own, with an environment that
says nothing of threads and with OMP_NUM_THREADS=1, in turns; given are processor seconds of the
fourth commit, threads included, and seconds by the clock. First with nothing else to do, then
beside two processes that are always busy. The least of some rounds counts: what else the machine
does only adds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.adapters import write_independent

BUSY: Final = 2
COMMITS: Final = 4
RANK: Final = 16
WIDTH: Final = 4096
SMALL: Final = {"rank": 4, "width": 896, "layers": 2}
"""115 kB of float32."""
_SAID: Final = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "GOMP_SPINCOUNT")

Seconds = tuple[float, float]
"""Of the processor, threads included, and by the clock."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", type=int, default=23, metavar="MB")
    parser.add_argument("--rounds", type=int, default=5, help="of the small adapter")
    parser.add_argument("--commit", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.commit:
        print(json.dumps(_commit(options.commit)))
        return
    pair_bytes = 2 * 2 * RANK * WIDTH * 4
    large = {"rank": RANK, "width": WIDTH, "layers": round(options.large * 1e6 / pair_bytes)}
    print(
        "| adapter | beside it | default: CPU s | one thread: CPU s | ratio | default: s | one thread: s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for shape, rounds in ((SMALL, options.rounds), (large, 1)):
        with tempfile.TemporaryDirectory() as place:
            folders = write_independent(Path(place), count=COMMITS, **shape)
            megabytes = sum(file.stat().st_size for file in folders[0].iterdir()) / 1e6
            for busy in (0, BUSY):
                with _busy_processes(busy):
                    default, alone = _compare(Path(place), rounds)
                print(
                    f"| {megabytes:.2f} MB | {busy or 'no'} busy processes | {default[0]:.2f} "
                    f"| {alone[0]:.2f} | {default[0] / alone[0]:.2f} | {default[1]:.2f} "
                    f"| {alone[1]:.2f} |",
                    flush=True,
                )


def _compare(place: Path, rounds: int) -> tuple[Seconds, Seconds]:
    """Return the least seconds with the default environment, and with one thread."""
    default = {name: value for name, value in os.environ.items() if name not in _SAID}
    measured = [
        [_run(place, environment) for environment in (default, default | {"OMP_NUM_THREADS": "1"})]
        for _ in range(rounds)
    ]
    least = [
        (min(cpu for cpu, _ in seconds), min(clock for _, clock in seconds))
        for seconds in zip(*measured, strict=True)
    ]
    return least[0], least[1]


def _run(place: Path, environment: dict[str, str]) -> Seconds:
    command = [sys.executable, "-m", "benchmarks.threads", "--commit", str(place)]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    cpu, clock = json.loads(output)
    return cpu, clock


def _commit(place: Path) -> Seconds:
    """Commit the adapters of a directory, and return the seconds of the last commit."""
    import share_registry as sr

    with sr.Registry.open("memory://") as registry:
        registry.create_space("s", base_model="synthetic")
        *earlier, last = sorted(place.iterdir())
        for folder in earlier:
            registry.commit(folder, task=folder.name, space="s")
        cpu, clock = time.process_time(), time.perf_counter()
        registry.commit(last, task=last.name, space="s")
        return time.process_time() - cpu, time.perf_counter() - clock


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
