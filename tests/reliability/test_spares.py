"""Layouts and configs that versions share are in the store twice."""

from collections.abc import Callable
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from share_registry.format.canonical import sha256
from share_registry.names import Digest
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from share_registry.store.protocol import object_name
from tests.registry.planted import write_planted
from tests.registry.purging import exports_of, holding
from tests.reliability.copying import overwrite

SPARE = "catalog.sqlite.spare-"
LOST = (
    lambda path: path.unlink(),
    lambda path: overwrite(path, path.read_bytes()[:-1]),
    lambda path: overwrite(path, b"?" + path.read_bytes()[1:]),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two tasks of one shape and one config."""
    root = tmp_path / "registry"
    with sr.Registry.open(root) as registry:
        for name, folder in write_planted(tmp_path / "adapters", 2, modules=2, width=64).items():
            registry.commit(folder, task=name)
    return root


def _shared(root: Path) -> dict[str, Digest]:
    with sr.Registry.open(root, mode="r") as registry, registry.context.reading() as session:
        layouts = {row.layout_digest for row in version_lookups.all_versions(session)}
        configs = {row.config_digest for row in version_lookups.all_versions(session)}
    (layout,), (config,) = layouts, configs
    assert config is not None
    return {"layout": layout, "config": config}


def _spares(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob(f"{SPARE}*"))


def test_only_what_versions_share_is_kept_twice(root: Path) -> None:
    assert _spares(root) == sorted(f"{SPARE}{digest}" for digest in _shared(root).values())


@pytest.mark.parametrize("role", ["config", "layout"])
@pytest.mark.parametrize("lose", LOST, ids=["gone", "cut", "changed"])
def test_versions_are_read_without_their_layout_or_config(
    root: Path, tmp_path: Path, role: str, lose: Callable[[Path], None]
) -> None:
    digest = _shared(root)[role]
    with sr.Registry.open(root) as registry:
        exports = exports_of(registry, tmp_path / "before", without="none")
    lose(root / object_name(digest))
    with sr.Registry.open(root, mode="r") as registry:
        assert exports_of(registry, tmp_path / "after", without="none") == exports
        findings = registry.verify("deep", raise_on_damage=False).findings
    assert [finding.what for finding in findings] == [f"object {digest}"]
    assert "second copy is sound" in findings[0].message
    assert "t00" in findings[0].refs[0]


@pytest.mark.parametrize("role", ["config", "layout"])
@pytest.mark.parametrize("lose", LOST, ids=["gone", "cut", "changed"])
def test_repair_needs_no_copy_of_the_store_for_them(
    root: Path, role: str, lose: Callable[[Path], None]
) -> None:
    path = root / object_name(_shared(root)[role])
    content = path.read_bytes()
    lose(path)
    with sr.Registry.open(root) as registry:
        assert registry.repair(dry_run=True).repaired == 1
        assert registry.repair().ok
        assert registry.verify("deep").ok
    assert path.read_bytes() == content


def test_what_is_lost_with_its_second_copy_is_named(root: Path) -> None:
    digest = _shared(root)["layout"]
    (root / object_name(digest)).unlink()
    overwrite(root / f"{SPARE}{digest}", b"{}")
    with sr.Registry.open(root) as registry:
        report = registry.repair()
        left = {file.name for file in report.files if file.refused}
        assert left >= {f"object {digest}", f"{SPARE}{digest}"}
        with pytest.raises(sr.IntegrityError, match=digest):
            registry.checkout("t00@v1")


def test_a_spoilt_second_copy_is_reported_and_written_anew(root: Path, tmp_path: Path) -> None:
    digest = _shared(root)["layout"]
    overwrite(root / f"{SPARE}{digest}", b"{}")
    with sr.Registry.open(root) as registry:
        assert [finding.what for finding in registry.verify(raise_on_damage=False).findings] == [
            f"{SPARE}{digest}"
        ]
        further = write_planted(tmp_path / "further", 3, modules=2, width=64)["t02"]
        registry.commit(further, task="t02")
        assert registry.verify().ok
    assert sha256((root / f"{SPARE}{digest}").read_bytes()) == digest


def test_a_second_copy_goes_with_its_object(root: Path) -> None:
    """Also where the object itself was gone before."""
    config = _shared(root)["config"]
    needle = (root / object_name(config)).read_bytes()
    (root / object_name(config)).unlink()
    with sr.Registry.open(root) as registry:
        registry.purge("t00", dry_run=False)
        assert holding(root, needle) == [f"{SPARE}{config}"]
        registry.purge("t01", dry_run=False)
        assert holding(root, needle) == []
        assert _spares(root) == []
        assert registry.verify("deep").ok


def test_garbage_collection_sweeps_second_copies_that_nothing_needs(root: Path) -> None:
    content = b"of an object that was moved away and is needed no more"
    store = LocalStore(root, Outside())
    store.keep_spare(content, sha256(content))
    spares = _spares(root)
    with sr.Registry.open(root) as registry:
        registry.gc(grace_days=0)
        assert _spares(root) == spares
        registry.gc(grace_days=0, dry_run=False)
    assert _spares(root) == [name for name in spares if sha256(content) not in name]
