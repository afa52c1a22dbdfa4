"""gc removes what no record needs, and nothing else (spec MNT-01 to MNT-08)."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from share_registry.names import Digest
from share_registry.registry.maintenance import reach
from share_registry.values.garbage import GarbageReport
from tests.registry.conftest import DEMO, Open
from tests.registry.planted import write_planted

WEEK_S = 7 * 86_400.0


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return write_planted(tmp_path / "adapters", 6, modules=2, width=96)


def _objects(registry: sr.Registry) -> dict[Digest, int]:
    return dict(registry.context.store.objects())


def _collect(registry: sr.Registry, *, grace_days: float = 0.0) -> GarbageReport:
    return registry.gc(grace_days=grace_days, dry_run=False)


def _age(store: Path, days: float, *digests: Digest) -> None:
    """Let objects of a directory have been put some days ago."""
    for digest in digests:
        path = store / "objects" / digest[:2] / digest[2:]
        then = path.stat().st_mtime - days * 86_400
        os.utime(path, (then, then))


def _everything(registry: sr.Registry, folders: dict[str, Path], tmp_path: Path) -> None:
    """Fill a registry with every kind of reference that objects have to others."""
    names = sorted(folders)
    for name in names[:4]:
        registry.commit(folders[name], task=name, keep_original=name == names[0])
    registry.refit(max_rank=8, force=True)
    for name in names[:3]:
        registry.commit(_continued(folders[name], tmp_path), task=name)
    registry.commit(_with_head(folders[names[4]], tmp_path), task=names[4])
    registry.merge({f"{names[0]}@v1": 0.5, f"{names[1]}@v1": 0.5}, task="merged")
    registry.restore(f"{names[1]}@v1")
    registry.drop(names[2])
    registry.rename(names[3], "renamed")
    # the same adapter in a second space
    registry.create_space("second", base_model="acme/other")
    registry.commit(folders[names[0]], task="twin", space="second", allow_base_mismatch=True)
    registry.commit_many({"a": folders[names[4]], "b": folders[names[5]]}, space="tiny")


def _continued(folder: Path, tmp_path: Path) -> Path:
    target = shutil.copytree(folder, tmp_path / f"continued-{folder.name}")
    tensors = load_file(folder / "adapter_model.safetensors")
    noise = np.random.default_rng(1)
    save_file(
        {
            key: value + 0.01 * noise.normal(size=value.shape).astype(value.dtype)
            for key, value in tensors.items()
        },
        target / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    (target / "notes.txt").write_text("an attachment")
    return target


def _with_head(folder: Path, tmp_path: Path) -> Path:
    """Add a tensor that is large enough to be an object of its own."""
    target = shutil.copytree(folder, tmp_path / f"head-{folder.name}")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["base_model.model.score.weight"] = np.ones((300, 300), np.float32)
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "adapter_config.json").read_text())
    config["modules_to_save"] = ["score"]
    (target / "adapter_config.json").write_text(json.dumps(config))
    return target


def test_every_object_that_anything_refers_to_stays(
    registry: sr.Registry, folders: dict[str, Path], tmp_path: Path
) -> None:
    _everything(registry, folders, tmp_path)
    before = _objects(registry)
    report = _collect(registry)
    assert report.garbage == ()
    assert _objects(registry) == before
    assert (report.objects, report.bytes) == (len(before), sum(before.values()))
    assert registry.verify("deep").ok


@pytest.mark.parametrize(
    "role", ["layout", "adapter", "rows", "tensor", "config", "attachment", "original"]
)
def test_a_kind_of_reference_that_is_overlooked_is_seen(
    registry: sr.Registry,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
) -> None:
    """What the test above would show if the walk did not follow one kind of reference.

    Layouts and adapters are named by records too, unless their version is a refit's or restored
    one: the walk below knows nothing else.
    """
    _everything(registry, folders, tmp_path)
    named, referred = reach.Reach._reach, reach.references

    def without(items: Iterable[tuple[Digest, str]]) -> list[tuple[Digest, str]]:
        return [item for item in items if item[1] != role]

    monkeypatch.setattr(reach, "references", lambda uses, place: without(referred(uses, place)))
    if role in ("config", "attachment", "original"):
        monkeypatch.setattr(reach.Reach, "_reach", lambda self, items: named(self, without(items)))
    garbage = registry.gc(grace_days=0).garbage
    assert bool(garbage) == (role not in ("layout", "adapter", "rows"))


def test_nothing_is_removed_by_itself(registry: sr.Registry, folders: dict[str, Path]) -> None:
    registry.create_space("tiny", base_model="acme/tiny")
    registry.prepare(folders["t00"], task="t00")
    before = _objects(registry)
    report = registry.gc(grace_days=0)
    assert report.dry_run
    assert (report.objects, len(report.garbage)) == (0, len(before))
    assert report.bytes + report.freed_bytes == sum(before.values())
    assert _objects(registry) == before
    assert "would remove" in str(report)
    assert "dry_run=False" in str(report)


def test_what_was_prepared_stays_for_the_days_of_grace_and_is_coded_again_afterwards(
    open_registry: Open, folders: dict[str, Path], tmp_path: Path
) -> None:
    registry = open_registry()
    registry.commit(folders["t00"], task="t00")
    needed = _objects(registry)
    prepared = registry.prepare(folders["t01"], task="t01")
    orphans = _objects(registry).keys() - needed
    young = _collect(registry, grace_days=7)
    assert (young.garbage, young.young) == ((), len(orphans))
    _age(tmp_path / "store", 7.5, *orphans)
    # putting counts as use: what is prepared again is young again
    registry.prepare(folders["t01"], task="t01")
    assert _collect(registry, grace_days=7).garbage == ()
    _age(tmp_path / "store", 7.5, *orphans)
    removed = _collect(registry, grace_days=7)
    assert {item.digest for item in removed.garbage} == orphans
    assert all(7.4 < item.age_days < 7.6 for item in removed.garbage)
    assert _objects(registry) == needed
    commit = registry.publish(prepared)
    assert commit.created
    assert registry.verify("deep").ok


def test_what_dead_writers_left_in_tmp_is_removed(registry: sr.Registry, tmp_path: Path) -> None:
    registry.create_space("tiny", base_model="acme/tiny")
    old, young = (tmp_path / "registry" / "tmp" / name for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, old.stat().st_mtime - WEEK_S - 60))
    report = _collect(registry, grace_days=7)
    assert [(item.name, item.size) for item in report.litter] == [("old", 4)]
    assert (old.exists(), young.exists()) == (False, True)


def _damage_record(store: Path) -> None:
    (store / "spaces" / "tiny" / "log" / f"{2:020d}.json").write_bytes(b"{}")


def _lose_record(store: Path) -> None:
    (store / "spaces" / "tiny" / "log" / f"{2:020d}.json").unlink()


def _lose_all_records(store: Path) -> None:
    shutil.rmtree(store / "spaces" / "tiny")


def _lose(role: str) -> Callable[[Path], None]:
    def lose(store: Path) -> None:
        with sr.Registry.open(store, mode="r") as registry, registry.context.reading() as session:
            row = version_lookups.all_versions(session)[0]
        digest = str(getattr(row, f"{role}_digest"))
        (store / "objects" / digest[:2] / digest[2:]).unlink()

    return lose


@pytest.mark.parametrize(
    "damage",
    [
        _damage_record,
        _lose_record,
        _lose_all_records,
        _lose("note"),
        _lose("adapter"),
        _lose("layout"),
        _lose("config"),
    ],
    ids=["record", "hole", "log", "note", "adapter", "layout", "config"],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_nothing_is_removed_where_something_cannot_be_read(
    registry: sr.Registry,
    folders: dict[str, Path],
    tmp_path: Path,
    damage: Callable[[Path], None],
    dry_run: bool,
) -> None:
    for task in ("t00", "t01"):
        registry.commit(folders[task], task=task)
    registry.prepare(folders["t02"], task="t02")
    registry.close()
    store = tmp_path / "registry"
    damage(store)
    before = set(store.rglob("objects/*/*"))
    with (
        pytest.raises((sr.RefusedError, sr.IntegrityError)) as refused,
        sr.Registry.open(store, mode="r" if dry_run else "w") as again,
    ):
        again.gc(grace_days=0, dry_run=dry_run)
    assert refused.value.hint
    assert set(store.rglob("objects/*/*")) == before


def test_nothing_is_removed_where_no_record_says_what_is_needed(
    registry: sr.Registry, folders: dict[str, Path]
) -> None:
    registry.prepare(folders["t00"], task="t00")
    with pytest.raises(sr.RefusedError, match="no record") as refused:
        _collect(registry)
    assert "create a space" in refused.value.hint


def test_nothing_is_removed_from_a_store_of_a_later_release(
    registry: sr.Registry, folders: dict[str, Path], tmp_path: Path
) -> None:
    registry.create_space("tiny", base_model="acme/tiny")
    registry.prepare(folders["t00"], task="t00")
    registry.close()
    file = tmp_path / "registry" / "FORMAT"
    os.chmod(file, 0o644)
    file.write_bytes(file.read_bytes().replace(b'"gc":[]', b'"gc":["later"]'))
    with (
        sr.Registry.open(tmp_path / "registry", mode="w") as again,
        pytest.raises(sr.FormatError, match="unknown features later"),
    ):
        again.gc(grace_days=0, dry_run=False)


def test_a_reader_is_told_what_would_be_removed_and_removes_nothing(
    registry: sr.Registry, folders: dict[str, Path], tmp_path: Path
) -> None:
    registry.create_space("tiny", base_model="acme/tiny")
    registry.prepare(folders["t00"], task="t00")
    registry.close()
    with sr.Registry.open(tmp_path / "registry", mode="r") as reader:
        assert reader.gc(grace_days=0).garbage
        with pytest.raises(sr.RefusedError, match="reading only"):
            reader.gc(grace_days=0, dry_run=False)


def test_a_registry_in_memory_is_collected_too(folders: dict[str, Path]) -> None:
    with sr.Registry.open("memory://") as registry:
        registry.commit(folders["t00"], task="t00")
        needed = _objects(registry)
        registry.prepare(folders["t01"], task="t01")
        assert _collect(registry).freed_bytes > 0
        assert _objects(registry) == needed


def test_the_demo_adapters_are_all_needed(registry: sr.Registry) -> None:
    torch.set_num_threads(1)
    for version in sorted((DEMO / "wn-pos-gloss").iterdir()):
        registry.commit(version, task="pos")
    assert _collect(registry).freed_bytes == 0


@pytest.mark.parametrize("days", [-1.0, float("nan"), float("inf"), 1e9])
def test_days_of_grace_are_a_number(registry: sr.Registry, days: float) -> None:
    with pytest.raises(sr.InvalidInputError, match="grace_days"):
        registry.gc(grace_days=days)


def test_an_adapter_object_whose_bytes_were_committed_as_a_file_too_stays_whole(
    registry: sr.Registry, folders: dict[str, Path], tmp_path: Path
) -> None:
    """The space that is followed first names it as an attachment, which refers to nothing."""
    registry.create_space("victim", base_model="acme/victim")
    folder = _with_head(folders["t00"], tmp_path)
    registry.commit(folder, task="v", space="victim", allow_base_mismatch=True)
    with registry.context.reading() as session:
        (row,) = version_lookups.all_versions(session)
    (folders["t01"] / "notes.txt").write_bytes(registry.context.store.get(row.adapter_digest))
    registry.create_space("aaa", base_model="acme/tiny")
    registry.commit(folders["t01"], task="a", space="aaa")
    before = _objects(registry)
    assert _collect(registry).garbage == ()
    assert _objects(registry) == before


def test_nothing_is_removed_where_a_log_is_gone_of_which_the_end_was_noted(
    registry: sr.Registry, folders: dict[str, Path], tmp_path: Path
) -> None:
    registry.commit(folders["t00"], task="t00")
    registry.create_space("second", base_model="acme/other")
    registry.close()
    store = tmp_path / "registry"
    shutil.rmtree(store / "spaces" / "tiny")
    (store / "catalog.sqlite").unlink()
    with (
        sr.Registry.open(store, mode="w") as again,
        pytest.raises(sr.ShareRegistryError, match="tiny"),
    ):
        _collect(again)


def test_what_a_living_writer_has_in_tmp_stays_whatever_the_grace(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space("tiny", base_model="acme/tiny")
    path = tmp_path / "registry" / "tmp" / "unfinished"
    path.write_bytes(b"half")
    assert _collect(registry).litter == ()
    assert path.exists()
