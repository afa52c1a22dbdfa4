"""A store that an earlier version wrote is read for ever.

The same versions, the same bytes, by both readers, and it takes new commits.
"""

import json
from contextlib import suppress
from pathlib import Path

import pytest

import share_registry as sr
from tests.landed.keep import KEPT, digests
from tests.spec import adapters, readers

STORES = sorted(KEPT.glob("*.zip"))


def _name(path: Path) -> str:
    return path.stem


def test_a_store_is_kept_of_what_has_landed() -> None:
    assert STORES
    assert all(path.with_suffix(".json").exists() for path in STORES)


@pytest.mark.parametrize("path", STORES, ids=_name)
def test_every_version_of_a_kept_store_exports_to_the_bytes_it_did(
    path: Path, tmp_path: Path
) -> None:
    root = readers.unpack(path, tmp_path / "store")
    with sr.Registry.open(root, mode="r") as registry:
        assert registry.verify("deep").unexportable == ()
        assert digests(registry, tmp_path / "out") == json.loads(
            path.with_suffix(".json").read_text()
        )


@pytest.mark.parametrize("path", STORES, ids=_name)
def test_the_reference_reader_gives_the_same_files_of_a_kept_store(
    path: Path, tmp_path: Path
) -> None:
    root = readers.unpack(path, tmp_path / "store")
    with sr.Registry.open(root, mode="r") as registry:
        exports = dict(readers.export_by_reference(root))
        assert len(exports) >= len(json.loads(path.with_suffix(".json").read_text()))
        for ref, files in exports.items():
            exported = readers.export_by_library(registry, ref, tmp_path / "out")
            assert {name: exported[name] for name in files} == files


@pytest.mark.parametrize("path", STORES, ids=_name)
def test_every_version_of_a_kept_store_is_shown_compared_and_made_portable(
    path: Path, tmp_path: Path
) -> None:
    """Also those of configs that no commit takes any more."""
    root = readers.unpack(path, tmp_path / "store")
    with sr.Registry.open(root, space="base") as registry:
        for task in registry.tasks():
            registry.show(task.ref)
            registry.checkout(task.ref).factor_pairs()
            # DoRA has no portable form
            with suppress(sr.RefusedError):
                registry.export(task.ref, tmp_path / "out" / task.name, profile="portable")
        assert len(registry.similar("plain")) > 1
        registry.refit(max_rank=4, dry_run=True)


@pytest.mark.parametrize("path", STORES, ids=_name)
def test_a_kept_store_takes_new_commits(path: Path, tmp_path: Path) -> None:
    root = readers.unpack(path, tmp_path / "store")
    with sr.Registry.open(root, mode="w") as registry:
        commit = registry.commit(
            adapters.write(tmp_path / "new", adapters.near(adapters.pairs(1), 99, 0.02)),
            task="plain",
            space="base",
        )
        assert commit.created
        registry.verify("deep")
