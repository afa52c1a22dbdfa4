"""A registry of twenty tasks, of which some are purged, and what is seen of the others."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import share_registry as sr
from share_registry.catalog.queries import version_lookups

SECRET = "Rosebud-7412"
"""Stands in everything that is kept of the first task and may be taken away."""


def secret_of(folder: Path) -> Path:
    """Return a copy of an adapter that has the secret in its path and in its files."""
    target = folder.parent / f"{SECRET}-{folder.name}"
    if target.exists():
        return target
    shutil.copytree(folder, target)
    config = json.loads((target / "adapter_config.json").read_text())
    config["extra"] = SECRET
    (target / "adapter_config.json").write_text(json.dumps(config))
    (target / "notes.txt").write_text(f"trained on the letters of {SECRET}")
    return target


def continued(folder: Path, step: int) -> Path:
    """Return the next checkpoint of an adapter."""
    target = folder.parent / f"{folder.name}-{step}"
    if target.exists():
        return target
    shutil.copytree(folder, target)
    tensors = load_file(folder / "adapter_model.safetensors")
    noise = np.random.default_rng(step)
    later = {
        key: value + 0.02 * value.std() * noise.normal(size=value.shape).astype(value.dtype)
        for key, value in tensors.items()
    }
    save_file(later, target / "adapter_model.safetensors", metadata={"format": "pt"})
    return target


def fill(registry: sr.Registry, folders: dict[str, Path]) -> None:
    """Commit twenty tasks, some of which have to do with the first one."""
    registry.create_space("tiny", base_model="acme/tiny")
    first = secret_of(folders["t00"])
    registry.commit(
        first,
        task="first",
        message=f"of {SECRET}",
        labels={"owner": SECRET},
        metrics={"acc": 0.5},
        keep_original=True,
    )
    for number in range(1, 18):
        registry.commit(folders[f"t{number:02d}"], task=f"t{number:02d}", labels={"n": str(number)})
    # continued from the first task, declared or not, and built upon it
    registry.commit(continued(first, 1), task="first", message=f"again {SECRET}")
    child = continued(folders["t00"], 2)
    registry.commit(child, task="child", derived_from=["first@v2"])
    registry.commit(continued(child, 3), task="child", message="the child, again")
    registry.merge({"first@v1": 0.5, "t01@v1": 0.5}, task="merged", message="a merge")
    registry.restore("first@v1", reason=f"because of {SECRET}")
    registry.annotate("first@v1", labels={"seen": SECRET})
    registry.set_alias("first@v2", "prod", reason=SECRET)
    registry.tag("release", "@c15")
    # one note of several tasks
    registry.commit_many(
        {"first": secret_of(folders["t18"]), "t19": folders["t19"]}, message="two at once"
    )
    registry.rename("t02", "called-otherwise")
    registry.commit(continued(folders["t02"], 4), task="called-otherwise")


def small(registry: sr.Registry, folders: dict[str, Path]) -> None:
    """Commit three tasks, and one that is continued from the first."""
    registry.create_space("tiny", base_model="acme/tiny")
    for name in ("t00", "t01", "t02"):
        registry.commit(folders[name], task=name)
    registry.commit(continued(folders["t00"], 7), task="child", derived_from=["t00@v1"])


def versions(registry: sr.Registry) -> list[str]:
    """Return the versions that were not removed."""
    with registry.context.reading() as session:
        return [row.ref for row in version_lookups.all_versions(session) if row.removed is None]


def exports_of(registry: sr.Registry, root: Path, *, without: str) -> dict[str, str]:
    """Return the digests of the exports of all other tasks' versions."""
    return {
        ref: registry.export(ref, root, name=ref.replace("/", "_").replace("@", "_")).digest
        for ref in versions(registry)
        if f"/{without}@" not in ref
    }


def said_of(registry: sr.Registry, *, without: str) -> dict[str, object]:
    """Return what is said of the other tasks."""
    return {
        task.ref: (dict(task.labels), dict(task.metrics), dict(task.aliases))
        for task in registry.tasks(all_versions=True)
        if task.name != without
    }


def holding(root: Path, *needles: bytes) -> list[str]:
    """Return the files below a folder that have some bytes in them."""
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    )
