"""`make bench`: every table that needs nothing but this repository, one after another."""

import argparse
import subprocess
import sys

PARTS = (("Real adapters, one after another at the default budget", "collection"), ("Where sharing pays", "sharing"), ("Bits per parameter", "bits"))


def main() -> None:
    """Run each benchmark in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cuda: only what has a device path")
    options = parser.parse_args()
    if options.device == "cuda":
        raise SystemExit(subprocess.run([sys.executable, "-m", "benchmarks.device"], check=False).returncode)
    for title, name in PARTS:
        print(f"\n## {title}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
