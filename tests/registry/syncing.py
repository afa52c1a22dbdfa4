"""What is in a directory that is synced, and runs beside others."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

import share_registry as sr
from share_registry.catalog.queries.resolution import version_of
from share_registry.outside.files import Outside
from share_registry.registry.delivery.served_directory import is_sound
from share_registry.registry.opening import open_context
from tests.registry.plain import files
from tests.reliability.scenarios import NoFlush

TASKS = ("cola", "mrpc", "sst2")


def index(root: Path) -> Any:
    return json.loads((root / "index.json").read_bytes())


def served(root: Path) -> dict[str, str]:
    """Return the reference of every directory that is served, all of which are whole."""
    adapters = index(root)["adapters"]
    assert all(is_sound(root / each["path"], each["digest"], Outside()) for each in adapters)
    return {each["name"]: each["ref"] for each in adapters}


def directory_of(root: Path, ref: str) -> Path:
    return root / next(name for name, version in served(root).items() if version == ref)


def tree(root: Path) -> dict[str, bytes]:
    """Return all files but those of the index, whose times may differ."""
    return {name: content for name, content in files(root).items() if name != "index.json"}


def aged(root: Path, **by: float) -> None:
    """Make everything that is retired so since long ago."""
    document = index(root)
    for each in document["retired"]:
        each["since_s"] -= int(timedelta(**by).total_seconds())
    (root / "index.json").write_text(json.dumps(document))


def run_elsewhere(place: Path, root: Path, hook: Callable[[str], None] | None = None) -> None:
    torch.set_num_threads(1)
    outside = Outside(hook, system=NoFlush())
    context, _ = open_context(place, store=None, space=None, mode="r", outside=outside)
    sr.Registry(context).sync(root, prune=True)


def damage_adapter(registry: sr.Registry, ref: str, tmp_path: Path) -> None:
    with registry.context.reading() as session:
        digest = version_of(session, ref).adapter_digest
    path = tmp_path / "registry" / "objects" / digest[:2] / digest[2:]
    path.chmod(0o600)
    path.write_bytes(b"rotten")
    registry.context.forget_decoded()
