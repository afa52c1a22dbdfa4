"""Exports that the log tells of: what was written is recorded, and nothing else is."""

import errno
import json
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import share_registry as sr
from share_registry.format.canonical import dump, sha256
from share_registry.format.records import parse_record
from share_registry.outside.files import Outside
from share_registry.outside.system import System
from share_registry.registry.opening import open_context
from tests.catalog.rows import dump as rows_of
from tests.cli.tiny import SPACE, write_adapter
from tests.registry.conftest import Open
from tests.reliability.faults import Failing
from tests.reliability.processes import fork, wait_for_all
from tests.reliability.scenarios import NoFlush

HOST = "web-1"


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: HOST)


@pytest.fixture
def registry(open_registry: Open, tmp_path: Path) -> sr.Registry:
    registry = open_registry()
    for seed in (1, 2):
        registry.commit(
            write_adapter(tmp_path / "adapters" / f"cola{seed}", seed=seed), task="cola"
        )
    return registry


def _last_record(tmp_path: Path) -> Any:
    return json.loads(max((tmp_path / "store/spaces" / SPACE / "log").iterdir()).read_bytes())


@pytest.mark.parametrize("profile", ["native", "portable"])
def test_an_export_is_recorded_with_who_when_where_and_the_digests(
    registry: sr.Registry, tmp_path: Path, profile: str
) -> None:
    export = registry.export(
        *("cola@v1", tmp_path / "serve"),
        profile=profile,
        record=True,
        reason="CAB-77",
        author="ada",
    )
    commit = registry.log()[0]
    assert export.recorded == f"{SPACE}/@c4"
    assert (commit.kind, commit.author, commit.message) == ("export", "ada", "CAB-77")
    assert commit.detail == f"cola@v1 ({profile}, {export.digest[:8]}) to {HOST}:{export.path}"
    record = _last_record(tmp_path)
    assert {name: record[name] for name in ("task", "version", "profile", "requires")} == {
        "task": "cola",
        "version": 1,
        "profile": profile,
        "requires": ["exports"],
    }
    assert record["digest"] == export.digest
    weights = (export.path / "adapter_model.safetensors").read_bytes()
    assert record["tensors"] == export.tensors == sha256(weights)
    # the place is personal data, and so in the note alone
    assert str(export.path) not in json.dumps(record)
    assert [entry.number for entry in registry.log(task="cola", kind="export")] == [4]
    assert [entry.detail for entry in registry.audit(action="export").commits] == [commit.detail]
    # it changes nothing of the version
    assert registry.resolve("cola").version == 2
    assert not {"host", "path"} & registry.show("cola@v1").labels.keys()
    assert registry.verify("deep").ok


def test_an_export_is_not_recorded_unasked(registry: sr.Registry, tmp_path: Path) -> None:
    assert registry.export("cola", tmp_path / "serve").recorded is None
    assert len(registry.log()) == 3
    for said in ({"reason": "why"}, {"author": "ada"}, {"author": ""}):
        with pytest.raises(sr.InvalidInputError, match="not recorded"):
            registry.export("cola", tmp_path / "other", **said)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_every_export_is_an_event_of_its_own(registry: sr.Registry, tmp_path: Path) -> None:
    first, again = (registry.export("cola", tmp_path / "serve", record=True) for _ in range(2))
    assert (first.path, first.digest) == (again.path, again.digest)
    assert [entry.number for entry in registry.log(kind="export")] == [5, 4]


def test_a_version_is_exported_after_its_task_was_renamed_or_dropped(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.rename("cola", "corpus")
    registry.export("cola@v1", tmp_path / "old", record=True)
    registry.drop("corpus")
    registry.export("corpus@v2", tmp_path / "dropped", record=True)
    assert [entry.detail.split(" ")[0] for entry in registry.log(kind="export")] == [
        "corpus@v2",
        "corpus@v1",
    ]
    assert HOST in registry.log(kind="export")[1].detail


def test_a_reader_refuses_before_anything_is_written(
    registry: sr.Registry, open_registry: Open, tmp_path: Path
) -> None:
    del registry
    with open_registry(mode="r") as reader, pytest.raises(sr.RefusedError, match="reading"):
        reader.export("cola", tmp_path / "serve", record=True)
    assert not (tmp_path / "serve").exists()


FAILING: dict[str, Callable[[sr.Registry, Path], object]] = {
    "no such version": lambda registry, root: registry.export("cola@v9", root, record=True),
    "occupied": lambda registry, root: registry.export("cola", root, name="live", record=True),
    "unknown profile": lambda registry, root: registry.export(
        "cola", root, profile="other", record=True
    ),
    "no key": lambda registry, root: registry.export("cola", root, sign=root / "no", record=True),
    "reason": lambda registry, root: registry.export(
        "cola", root, reason="x" * 16_385, record=True
    ),
}


@pytest.mark.parametrize("how", FAILING)
def test_an_export_that_fails_is_not_recorded(
    registry: sr.Registry, tmp_path: Path, how: str
) -> None:
    (tmp_path / "serve" / "live").mkdir(parents=True)
    (tmp_path / "serve" / "live" / "theirs").write_text("x")
    with pytest.raises(sr.ShareRegistryError):
        FAILING[how](registry, tmp_path / "serve")
    assert len(registry.log()) == 3
    assert os.listdir(tmp_path / "serve") == ["live"]


def _hooked(
    place: str, store: Path, hook: Callable[[str], None], system: System | None = None
) -> sr.Registry:
    outside = Outside(hook, system=system or NoFlush())
    return sr.Registry(open_context(place, store=store, space=None, mode="w", outside=outside)[0])


def test_an_export_that_could_not_be_recorded_is_said_to_be_there(
    tmp_path: Path, catalog_url: str
) -> None:
    with sr.Registry.open(catalog_url, store=tmp_path / "store") as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), task="cola")

    def fail(point: str) -> None:
        if point == "record.prefsync":
            raise OSError(28, "No space left on device")

    with (
        _hooked(catalog_url, tmp_path / "store", fail) as registry,
        pytest.raises(sr.StoreError, match=r"live was exported, but that is not recorded: "),
    ):
        registry.export("cola", tmp_path / "serve", name="live", record=True)
    assert (tmp_path / "serve" / "live" / "adapter_config.json").exists()
    with sr.Registry.open(catalog_url, store=tmp_path / "store") as registry:
        assert [commit.kind for commit in registry.log()] == ["absorb", "create"]
        # the next step is to say so again: the files are there already
        assert registry.export("cola", tmp_path / "serve", name="live", record=True).recorded


def test_where_it_is_not_known_whether_an_export_was_recorded_that_is_said(
    tmp_path: Path, catalog_url: str
) -> None:
    with sr.Registry.open(catalog_url, store=tmp_path / "store") as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), task="cola")

    passed: list[str] = []
    system = Failing(
        lambda _: errno.EIO if passed and system.calls[-1] == "fsync" and passed.pop() else None
    )

    def note(point: str) -> None:
        if point == "record.linked":
            passed.append(point)

    with (
        _hooked(catalog_url, tmp_path / "store", note, system) as registry,
        pytest.raises(sr.CommitStateUnknownError, match=r"live was exported; whether") as caught,
    ):
        registry.export("cola", tmp_path / "serve", name="live", record=True)
    # there is no key that it could be asked for again with
    assert "log(kind='export')" in caught.value.hint
    with sr.Registry.open(catalog_url, store=tmp_path / "store") as registry:
        assert len(registry.log(kind="export")) == 1


def test_exports_beside_other_writers_are_all_recorded(tmp_path: Path, catalog_url: str) -> None:
    store = tmp_path / "store"
    with sr.Registry.open(catalog_url, store=store) as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), task="cola")

    def export(number: int) -> None:
        with _hooked(catalog_url, store, lambda _: None) as registry:
            for turn in range(3):
                name = f"p{number}-{turn}"
                assert registry.export("cola", tmp_path / "serve", name=name, record=True).recorded
                registry.set_alias("cola@v1", name)

    wait_for_all([fork(partial(export, number)) for number in range(3)])
    with sr.Registry.open(catalog_url, store=store) as registry:
        details = [entry.detail for entry in registry.log(kind="export")]
        assert sorted(detail.rpartition("/")[2] for detail in details) == [
            f"p{number}-{turn}" for number in range(3) for turn in range(3)
        ]
        assert registry.verify().ok


def test_a_rebuilt_catalog_says_the_same(registry: sr.Registry, tmp_path: Path) -> None:
    registry.export("cola", tmp_path / "serve", record=True, author="ada")
    registry.set_alias("cola@v1", "prod")
    with registry.context.reading() as session:
        before = rows_of(session)
    registry.rebuild()
    with registry.context.reading() as session:
        assert rows_of(session) == before


def test_where_the_note_is_gone_it_is_not_known_where_to(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), task="cola")
        registry.export("cola", tmp_path / "serve", record=True)
    record = parse_record(
        max((tmp_path / "registry/spaces" / SPACE / "log").iterdir()).read_bytes()
    )
    note = str(record.note)
    (tmp_path / "registry" / "objects" / note[:2] / note[2:]).unlink()
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.rebuild()
        detail = registry.log()[0].detail
        assert detail.startswith("cola@v1 (native, ")
        assert detail.endswith("); its note is not in the store")
        # of the version nothing became unknown
        assert registry.export("cola", tmp_path / "again").path.exists()
        with pytest.raises(sr.IntegrityError, match="NOT-06"):
            registry.verify()


def test_a_directory_that_is_no_text_is_recorded_all_the_same(
    registry: sr.Registry, tmp_path: Path
) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    assert registry.export("cola", root, record=True).recorded
    assert r"caf\xe9/" in registry.log()[0].detail


def test_a_release_without_the_feature_stops_there_and_says_so(
    registry: sr.Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_catalog_url: Callable[[str], str],
) -> None:
    """As the one before this did: it knows the other features alone (spec REC-14, EVO-05)."""
    registry.export("cola", tmp_path / "serve", record=True)
    monkeypatch.setattr("share_registry.format.records.FEATURES", ("float-heads", "module-shapes"))
    with sr.Registry.open(new_catalog_url("old"), store=tmp_path / "store") as old:
        assert old.checkout("cola@v1").state_dict()
        with pytest.raises(sr.FormatError, match="exports"):
            old.resolve("cola")
        assert [finding.code for finding in old.verify(raise_on_damage=False).findings] == [
            "EVO-05"
        ]
        with pytest.raises(sr.FormatError, match="exports"):
            old.set_alias("cola@v1", "prod")


@pytest.mark.parametrize(
    "change",
    [{"requires": []}, {"profile": "other"}, {"digest": "0"}, {"tensors": None}, {"place": "x"}],
)
def test_a_record_of_another_form_is_refused(change: dict[str, Any]) -> None:
    record: dict[str, Any] = {
        "format": 1,
        "kind": "export",
        "space": SPACE,
        "number": 2,
        "parent": "0" * 64,
        "time": "2026-01-01T00:00:00.000000Z",
        "key": "k",
        "requires": ["exports"],
        "task": "cola",
        "version": 1,
        "profile": "native",
        "digest": "0" * 64,
        "tensors": "0" * 64,
    }
    assert parse_record(dump(record)).kind == "export"
    changed = {name: value for name, value in (record | change).items() if value is not None}
    with pytest.raises(sr.IntegrityError):
        parse_record(dump(changed))


def test_a_catalog_that_says_another_place_is_found_out(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), task="cola")
        registry.export("cola", tmp_path / "serve", record=True)
    with sqlite3.connect(tmp_path / "registry" / "catalog.sqlite") as connection:
        connection.execute("UPDATE sr_commits SET detail = 'elsewhere' WHERE kind = 'export'")
    connection.close()
    with sr.Registry.open(tmp_path / "registry", mode="r") as registry:
        assert not registry.verify(raise_on_damage=False).ok
        assert HOST in registry.audit(action="export").commits[0].detail
