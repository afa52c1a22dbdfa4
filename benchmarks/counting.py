"""What a commit puts into the store.

Everything, apart from what is somebody else's (config, attachments), which is counted beside it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import share_registry as sr

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Bytes of one commit.

    Attributes:
        counted: Adapter object, layout, basis, note and record, whatever of them is new; passengers
            inside the adapter object too.
        beside: Config and attachments, kept as they are.
        error: As recorded.
    """

    counted: int
    beside: int
    error: float


def measure_bytes(
    root: Path, folders: Sequence[Path], *, policy: sr.Policy, names: Sequence[str] | None = None
) -> list[Spent]:
    """Commit adapters one after another to a new registry.

    Return what each took, bases made on the way included.
    """
    with sr.Registry.open(root) as registry:
        space = registry.create_space("s", policy=policy)
        return [
            _commit(root, space, folder, name)
            for folder, name in zip(folders, names or task_names(folders), strict=True)
        ]


def measure_bytes_together(root: Path, folders: Sequence[Path], *, policy: sr.Policy) -> Spent:
    """Commit adapters in one commit to a new registry; return what they took."""
    with sr.Registry.open(root) as registry:
        registry.create_space("s", policy=policy)
        before = stored_files(root)
        registry.commit_many(
            dict(zip(task_names(folders), map(str, folders), strict=True)),
            space="s",
            allow_base_mismatch=True,
        )
        return _split(before, stored_files(root), folders, 0.0)


def task_names(folders: Sequence[Path]) -> list[str]:
    """Return a task name for every adapter directory."""
    return [f"{folder.parent.name}-{folder.name}".lower() for folder in folders]


def stored_files(root: Path) -> dict[str, int]:
    """Return the bytes of every object and record of a registry, by path."""
    files = (
        path
        for part in ("objects", "spaces")
        for path in (root / part).rglob("*")
        if path.is_file()
    )
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in files}


def _commit(root: Path, space: Any, folder: Path, name: str) -> Spent:
    before = stored_files(root)
    report = space.commit(folder, task=name, allow_base_mismatch=True).report
    return _split(before, stored_files(root), [folder], report.error)


def _split(
    before: dict[str, int], after: dict[str, int], folders: Iterable[Path], error: float
) -> Spent:
    others = {
        _object(path) for folder in folders for path in folder.iterdir() if path.name != WEIGHTS
    }
    new = {path: size for path, size in after.items() if path not in before}
    beside = sum(size for path, size in new.items() if path in others)
    return Spent(counted=sum(new.values()) - beside, beside=beside, error=error)


def _object(path: Path) -> str:
    digest = sha256(path.read_bytes()).hexdigest()
    return f"objects/{digest[:2]}/{digest[2:]}"
