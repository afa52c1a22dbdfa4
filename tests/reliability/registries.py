"""Whole registries under test.

Opened over any system calls, with small adapters, and what must hold of them afterwards.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

import share_registry as sr
from share_registry.outside.files import Outside
from share_registry.outside.system import System
from share_registry.registry.opening import open_context
from tests.catalog.rows import dump
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.scenarios import NoFlush

Catalog = Mapping[str, Sequence[tuple[object, ...]]]


def opened(
    place: str | Path,
    *,
    store: Path | None = None,
    mode: str = "c",
    hook: Callable[[str], None] | None = None,
    system: System | None = None,
) -> sr.Registry:
    """Open a registry over other system calls.

    Without any, over the real ones less their flushes.
    """
    torch.set_num_threads(1)  # a fork child has no threads to wait for
    return sr.Registry(
        open_context(
            place,
            store=store,
            space=None,
            mode=mode,
            outside=Outside(hook, system=system or NoFlush()),
        )[0]
    )


def adapters(top: Path, count: int) -> list[Path]:
    """Write small adapters of the tasks t0, t1, ..."""
    return [write_adapter(top / f"t{number}", seed=number) for number in range(count)]


def commit(registry: sr.Registry, adapter: Path, key: str) -> sr.Commit:
    """Commit an adapter as the next version of its task."""
    return registry.commit(
        adapter, task=adapter.name, idempotency_key=key, message=f"by {key}", allow_duplicate=True
    )


def keys(registry: sr.Registry) -> list[str]:
    """Return the keys of all absorb commits, oldest first."""
    if not registry.spaces():
        return []
    return [commit.key for commit in reversed(registry.log(SPACE, kind="absorb", limit=10_000))]


def rows(registry: sr.Registry) -> Catalog:
    """Return all that the catalog says."""
    with registry.context.reading() as session:
        return dump(session)


def require_sound(
    root: Path, *, acknowledged: Sequence[str], attempted: Sequence[str]
) -> list[str]:
    """Check a registry as a reader finds it and return its keys.

    Whole, every acknowledged commit once, and a rebuilt catalog equal.
    """
    with opened(root, mode="r") as reader:
        present = keys(reader)
        assert len(set(present)) == len(present), f"a commit was made twice: {present}"
        assert set(acknowledged) <= set(present) <= set(attempted), (
            acknowledged,
            present,
            attempted,
        )
        report = reader.verify("data", raise_on_damage=False)
        assert report.ok, report.findings
    with opened(root, mode="w") as writer:
        before = rows(writer)
        assert keys(writer) == present
        writer.rebuild()
        assert rows(writer) == before
    return present
