"""What looking after a long log takes: gc, rebuild and verify, with the memory of each.

    python -m benchmarks.removing [--commits N] [--orphans N]

A store of so many commits of one small adapter, each with an adapter object and a note of its own,
and of so many objects that no record needs. Each verb in a process of its own, SQLite. Beside them
the floor: reading and hashing every file.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import share_registry as sr
from share_registry.format import adapter_object
from share_registry.format.canonical import sha256
from share_registry.format.notes import Note
from share_registry.format.records import RECORD, parse_record
from share_registry.materialize.decoder import Reader
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.scenarios import NoFlush

_CHILD: Final = """
import json, re, sys, time
import share_registry as sr
root, verb = sys.argv[1:]
start = time.perf_counter()
with sr.Registry.open(root, mode="w") as registry:
    text = {
        "gc, dry run": lambda: registry.gc(grace_days=0).sheet().title,
        "gc": lambda: registry.gc(grace_days=0, dry_run=False).sheet().title,
        "rebuild": lambda: f"{registry.rebuild()} commits",
        "verify quick": lambda: registry.verify("quick").sheet().title,
        "verify data": lambda: registry.verify("data").sheet().title,
    }[verb]()
peak = int(re.findall(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[0]) * 1024 / 1e6
print(json.dumps([time.perf_counter() - start, time.process_time(), peak, text]))
"""
_VERBS: Final = ("rebuild", "verify quick", "verify data", "gc, dry run", "gc")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, default=20_000)
    parser.add_argument("--orphans", type=int, default=60_000)
    options = parser.parse_args()
    print("| what | wall s | processor s | peak MB | result |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "registry"
        _fill(root, Path(directory) / "adapter", options.commits, options.orphans)
        start = time.perf_counter()
        count = sum(
            bool(hashlib.sha256(path.read_bytes())) for path in root.rglob("*") if path.is_file()
        )
        seconds = time.perf_counter() - start
        print(f"| reading and hashing | {seconds:.1f} | | | {count} files |", flush=True)
        for verb in _VERBS:
            output = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", _CHILD, str(root), verb],
                check=True,
                capture_output=True,
            ).stdout
            wall, cpu, peak, text = json.loads(output.splitlines()[-1])
            print(f"| {verb} | {wall:.1f} | {cpu:.1f} | {peak:.0f} | {text} |", flush=True)


def _fill(root: Path, adapter: Path, commits: int, orphans: int) -> None:
    """Make a registry of one commit, and lay the others into its store."""
    with sr.Registry.open(root) as registry:
        commit = registry.commit(write_adapter(adapter, seed=0), task="task")
    outside = Outside(system=NoFlush())
    store = LocalStore(root, outside)
    content = store.record(SpaceName(SPACE), CommitNumber(commit.number)) or b""
    record = parse_record(content)
    assert record.kind == "absorb"
    opened = Reader(store).open(Digest(record.tasks[0].adapter))
    parent = sha256(content)
    for number in range(commit.number + 1, commit.number + commits):
        version = number - commit.number + 1
        # recorded errors are of 8 bits: three of them count up to two million objects
        modules = [
            module and replace(module, error=(1 + (version >> 7 * place) % 128 / 128) / 64)
            for place, module in enumerate(opened.stored.modules)
        ]
        objects = [
            adapter_object.encode(replace(opened.stored, modules=tuple(modules)), opened.layout),
            Note(message=f"version {version}").to_bytes(),
        ]
        for item in objects:
            store.put(item, sha256(item))
        task = record.tasks[0].model_copy(
            update={"version": version, "adapter": sha256(objects[0])}
        )
        update = {"number": number, "parent": parent, "key": f"key-{number}", "tasks": [task]}
        following = RECORD.validate_python(
            record.model_copy(update=update | {"note": sha256(objects[1])}).model_dump(
                mode="json", exclude_none=True
            )
        )
        store.publish(SpaceName(SPACE), CommitNumber(number), following.to_bytes())
        parent = following.id
    for number in range(orphans):
        content = b"orphan %d" % number + bytes(3_000)
        store.put(content, sha256(content))


if __name__ == "__main__":
    main()
