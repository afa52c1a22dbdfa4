"""repair brings back from a copy what is damaged or missing, and touches nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import share_registry as sr
from share_registry.registry.maintenance import repair as maintenance
from share_registry.values.repairs import RepairReport
from tests.cli.tiny import SPACE
from tests.reliability.copying import overwrite
from tests.reliability.registries import adapters

LOG = f"spaces/{SPACE}/log"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A registry with a note, attachments, derived versions and aliases, and a copy of it."""
    root, copy = tmp_path / "registry", tmp_path / "copy"
    folders = adapters(tmp_path / "adapters", 4)
    with sr.Registry.open(root) as registry:
        for number, folder in enumerate(folders):
            (folder / "notes.txt").write_text(f"attachment {number}")
            registry.commit(folder, task=f"t{number}", message="why", keep_original=number == 0)
        registry.commit(folders[1], task="t0", budget=0.2)
        registry.set_alias("t0@v1", "prod")
    shutil.copytree(root, copy)
    return root, copy


def _files(root: Path) -> dict[str, bytes]:
    """Return the files of a store, without its catalog."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("catalog") and "quarantine" not in path.parts
    }


def _record(root: Path, number: int) -> Path:
    return root / LOG / f"{number:020d}.json"


def _repair(root: Path, copy: Path, *, dry_run: bool = False) -> RepairReport:
    with sr.Registry.open(root, mode="r" if dry_run else "w") as registry:
        return registry.repair(copy, dry_run=dry_run)


def _flip(root: Path, name: str) -> None:
    content = bytearray((root / name).read_bytes())
    content[len(content) // 2] ^= 1
    overwrite(root / name, bytes(content))


def _remove(root: Path, name: str) -> None:
    (root / name).unlink()


@pytest.mark.parametrize("damage", [_flip, _remove])
@pytest.mark.parametrize("every", [2, 3, 20])
@pytest.mark.parametrize("catalog", ["kept", "lost"])
def test_a_store_is_as_before(
    places: tuple[Path, Path], damage: Callable[[Path, str], None], every: int, catalog: str
) -> None:
    root, copy = places
    before = _files(root)
    damaged = [name for name in before if name != "FORMAT"][::every]
    for name in damaged:
        damage(root, name)
    if catalog == "lost":
        (root / "catalog.sqlite").unlink()
    preview = _repair(root, copy, dry_run=True)
    assert _files(root) != before
    report = _repair(root, copy)
    # a last record is lost without a trace where nothing else knows it
    is_last = damage is _remove and catalog == "lost" and _record(root, 7).name in str(damaged)
    assert report.ok
    if not is_last:
        assert _files(root) == before
    assert {file.name for file in preview.files} <= {file.name for file in report.files}
    with sr.Registry.open(root, mode="w") as registry:
        assert registry.verify("deep").ok
    assert _repair(root, copy).files == ()


def test_nothing_is_written_where_nothing_is_damaged(places: tuple[Path, Path]) -> None:
    root, copy = places
    before = _files(root)
    report = _repair(root, copy)
    assert (report.ok, report.files) == (True, ())
    assert _files(root) == before
    assert "nothing is damaged" in str(report)


def test_what_the_copy_has_not_in_a_sound_state_is_named_with_what_depends_on_it(
    places: tuple[Path, Path],
) -> None:
    root, copy = places
    name = next(name for name in _files(root) if name.startswith("objects/"))
    for place in places:
        _flip(place, name)
    report = _repair(root, copy)
    (file,) = report.files
    assert not report.ok
    assert file.name == "object " + name.removeprefix("objects/").replace("/", "")
    assert file.refused
    assert file.refs


def test_objects_come_from_any_registry(places: tuple[Path, Path], tmp_path: Path) -> None:
    root, _ = places
    other = tmp_path / "other"
    with sr.Registry.open(other) as registry:
        registry.commit(tmp_path / "adapters" / "t0", task="elsewhere", keep_original=True)
    before = _files(root)
    shared = [name for name in before if name in _files(other) and name.startswith("objects/")]
    assert shared
    for name in shared:
        _remove(root, name)
    assert _repair(root, other).ok
    assert _files(root) == before
    # its records are of another registry
    _remove(root, f"{LOG}/{2:020d}.json")
    report = _repair(root, other)
    assert not report.ok
    assert f"{SPACE}/@c2" in {file.name for file in report.files}


def test_a_damaged_record_is_kept_in_quarantine(places: tuple[Path, Path]) -> None:
    root, copy = places
    overwrite(_record(root, 3), b"rotten")
    assert _repair(root, copy).ok
    assert [path.read_bytes() for path in root.glob("quarantine/*/spaces/*/log/*")] == [b"rotten"]


def test_logs_that_have_diverged_are_left_alone(places: tuple[Path, Path]) -> None:
    """Whoever committed to both has two registries of one name: neither is damaged."""
    root, copy = places
    for place, task in ((root, "t2"), (copy, "t3")):
        with sr.Registry.open(place) as registry:
            registry.set_alias(f"{task}@v1", "prod")
    _remove(root, f"{LOG}/{2:020d}.json")
    before = _files(root)
    report = _repair(root, copy)
    by_name = {file.name: file.refused for file in report.files}
    assert by_name[f"{SPACE}/@c2"] == ""
    assert "diverged" in by_name[f"{SPACE}/@c8"]
    assert _files(root) == before | {f"{LOG}/{2:020d}.json": _record(copy, 2).read_bytes()}


def test_of_logs_that_diverged_long_ago_nothing_behind_that_is_touched(
    places: tuple[Path, Path],
) -> None:
    """A record that rotted where the two have nothing in common any more is of no copy."""
    root, copy = places
    for place, task in ((root, "t2"), (copy, "t3")):
        with sr.Registry.open(place) as registry:
            for alias in ("one", "two", "three"):
                registry.set_alias(f"{task}@v1", alias)
    for catalog in root.glob("catalog.sqlite*"):
        catalog.unlink()
    overwrite(_record(root, 8), b"rotten")
    before = _files(root)
    report = _repair(root, copy)
    assert "diverged" in {file.name: file.refused for file in report.files}[f"{SPACE}/@c8"]
    assert _files(root) == before


def test_a_record_that_changed_since_it_was_looked_at_is_left(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, copy = places
    overwrite(_record(root, 3), b"rotten")
    sound = _record(copy, 3).read_bytes()
    real = maintenance._publish

    def late(*arguments: Any) -> None:
        # somebody else was faster
        overwrite(_record(root, 3), sound)
        real(*arguments)

    monkeypatch.setattr(maintenance, "_publish", late)
    with pytest.raises(sr.ConflictError, match="changed meanwhile"):
        _repair(root, copy)
    assert _record(root, 3).read_bytes() == sound
    assert not (root / "quarantine").exists()


def test_a_hole_of_millions_of_records_is_told_at_once(places: tuple[Path, Path]) -> None:
    root, copy = places
    (root / LOG / f"{10**12:020d}.json").write_bytes(b"{}")
    with sr.Registry.open(root, mode="r") as registry:
        report = registry.verify("quick", raise_on_damage=False)
    assert not report.ok
    assert len(report.findings) < 200
    assert not _repair(root, copy, dry_run=True).ok


def test_records_that_are_only_newer_in_the_copy_stay_there(places: tuple[Path, Path]) -> None:
    root, copy = places
    with sr.Registry.open(copy) as registry:
        registry.set_alias("t2@v1", "prod")
    _flip(root, next(name for name in _files(root) if name.startswith("objects/")))
    assert _repair(root, copy).ok
    assert not _record(root, 8).exists()


def test_a_last_record_that_rotted_is_brought_back_where_the_catalog_knows_it(
    places: tuple[Path, Path],
) -> None:
    """It is well-formed and follows: only its digest tells."""
    root, copy = places
    right = _record(root, 7).read_bytes()
    overwrite(_record(root, 7), right.replace(b'"prod"', b'"prxd"'))
    assert _repair(root, copy).ok
    assert _record(root, 7).read_bytes() == right


def test_a_place_without_a_store_is_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(sr.NotFoundError, match="no store at"):
        _repair(places[0], tmp_path / "nowhere")


def test_a_copy_that_is_not_whole_is_told_to_its_first_writer(
    places: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Objects that were copied before the records may lack some."""
    _, copy = places
    for catalog in copy.glob("catalog.sqlite*"):
        catalog.unlink()
    with sr.Registry.open(copy, mode="w"):
        pass
    assert "not whole" not in caplog.text
    _remove(copy, next(name for name in _files(copy) if name.startswith("objects/")))
    for catalog in copy.glob("catalog.sqlite*"):
        catalog.unlink()
    with sr.Registry.open(copy, mode="w") as registry:
        registry.spaces()
    assert "1 object that records name is not in the store" in caplog.text
    assert "repair --from" in caplog.text
    caplog.clear()
    with sr.Registry.open(copy, mode="w") as registry:
        registry.spaces()
    assert "not whole" not in caplog.text


def test_what_stands_in_the_place_of_an_object_is_kept_in_quarantine(
    places: tuple[Path, Path],
) -> None:
    root, copy = places
    before = _files(root)
    first, second = [name for name in before if name.startswith("objects/")][:2]
    _flip(root, first)
    _remove(root, second)
    (root / second).mkdir()
    rotten = (root / first).read_bytes()
    assert _repair(root, copy).ok
    assert _files(root) == before
    assert [path.read_bytes() for path in root.glob(f"quarantine/*/{first}")] == [rotten]
    assert [path.is_dir() for path in root.glob(f"quarantine/*/{second}")] == [True]


def test_a_store_is_no_copy_of_itself(places: tuple[Path, Path]) -> None:
    with pytest.raises(sr.InvalidInputError, match="no copy of itself"):
        _repair(places[0], places[0])
