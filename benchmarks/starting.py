"""How much of the processor it takes to start: whole processes, beside `import sqlalchemy.orm`.

    python -m benchmarks.starting [--rounds N]

The registry has one small adapter. A catalog verb cannot do without SQLAlchemy; `--help` can.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Final

import share_registry as sr
from benchmarks.adapters import write_independent

FLOOR: Final = "python -c 'import sqlalchemy.orm'"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        registry = _fill(Path(folder))
        commands = _commands(registry)
        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for name, command in commands.items():
                seconds[name].append(_cpu_s(command))
    print("| command | of the processor, s | over the floor |\n| --- | --- | --- |")
    for name, values in seconds.items():
        ratios = [value / floor for value, floor in zip(values, seconds[FLOOR], strict=True)]
        print(f"| `{name}` | {median(values):.2f} | {median(ratios):.2f} |")


def _fill(place: Path) -> Path:
    write_independent(place / "adapters", count=1, rank=4, width=32, layers=2)
    with sr.Registry.open(place / "registry") as registry:
        registry.commit(next((place / "adapters").iterdir()), task="cola")
    return place / "registry"


def _commands(registry: Path) -> dict[str, list[str]]:
    verbs = (("log",), ("ls",), ("lineage", "cola@v1"), ("--help",), ("commit", "--help"))
    ours = [sys.executable, "-m", "share_registry.cli.main", "-R", str(registry)]
    return {
        FLOOR: [sys.executable, "-c", "import sqlalchemy.orm"],
        **{" ".join(("share-registry", *verb)): [*ours, *verb] for verb in verbs},
    }


def _cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
