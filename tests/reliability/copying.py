"""A registry to be copied, and what is looked at of its copies."""

import os
from pathlib import Path
from typing import Final

from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from share_registry.values.transfers import TransferReport
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.registries import opened
from tests.reliability.scenarios import NoFlush

LOG: Final = f"spaces/{SPACE}/log"
ELSEWHERE: Final = "elsewhere"


def store_of(root: Path) -> LocalStore:
    return LocalStore(root, Outside(system=NoFlush()))


def files_of(root: Path) -> dict[str, bytes]:
    """Return the files of a store, without its catalog and what writers left unfinished."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("catalog") and path.parent.name != "tmp"
    }


def push(root: Path, target: Path, *, dry_run: bool = False) -> TransferReport:
    with opened(root, mode="r") as registry:
        return registry.push(target, dry_run=dry_run)


def commit_to(root: Path, task: str, seed: int) -> None:
    with opened(root, mode="w") as registry:
        folder = root.parent / f"{root.name}-{task}-{seed}"
        registry.commit(write_adapter(folder, seed=seed), task=task, space=SPACE)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    overwrite(path, bytes(content))


def overwrite(path: Path, content: bytes) -> None:
    """Put other bytes into a file that nobody may write."""
    os.chmod(path, 0o644)
    path.write_bytes(content)


def object_path(root: Path, digest: str) -> Path:
    return root / "objects" / digest[:2] / digest[2:]


def adapter_of(root: Path, ref: str) -> str:
    """Return the digest of the adapter object of a version."""
    with opened(root, mode="r") as registry:
        commit = registry.show(ref)
    content = (root / LOG / f"{commit.number:020d}.json").read_text()
    return content.partition('"adapter":"')[2][:64]
