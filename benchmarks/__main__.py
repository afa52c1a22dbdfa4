"""`make bench`: print every table that needs only this repository and its development extras."""

import argparse
import subprocess
import sys

PARTS = (
    ("Real adapters, one after another at the default budget", "collection", ()),
    ("Committing", "committing", ()),
    ("Importing", "importing", ()),
    ("Versions from a training", "stepping", ()),
    ("Where sharing pays", "sharing", ()),
    ("Bits per parameter", "bits", ()),
    ("Every bit kept, beside zipnn and pcodec", "lossless", ()),
    ("Beside the peers", "peers", ("--layers", "1")),
    ("A new basis", "refit", ()),
    ("The paper's protocol beside a full SVD, and the default policy's promises", "protocol", ()),
    ("Materializing", "materializing", ()),
    ("Adding one adapter, and keeping those that are there", "growth", ()),
    ("The catalog of a long log", "catalog", ()),
    ("Looking after a long log", "removing", ()),
    ("A directory for servers", "syncing", ()),
    ("Downloads over HTTP", "downloading", ()),
    ("Pages of a space of many tasks", "pages", ()),
    ("One task out of many from a new process", "cold", ()),
    ("A store in a bucket", "buckets", ()),
    ("The threads of the environment", "threads", ()),
    ("Start-up", "starting", ()),
)


def main() -> None:
    """Run each benchmark in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="cuda: only what has a device path"
    )
    options = parser.parse_args()
    if options.device == "cuda":
        raise SystemExit(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.device", "--write"], check=False
            ).returncode
        )
    for title, name, arguments in PARTS:
        print(f"\n## {title}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=True)


if __name__ == "__main__":
    main()
