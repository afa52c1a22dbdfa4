"""Vectors: both readers read what is good alike and refuse what is bad.

The reference reader refuses it for the reason in the name.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import rfc8785

import share_registry as sr
from share_registry.format.canonical import dump
from spec.make_vectors import vectors
from spec.tiny import Tiny, linear, pair
from tests.house.clauses import defined_ids
from tests.spec import readers
from tests.spec.readers import VECTORS, kind_of, reference

TABLES = ("canonical.json", "recipes.json", "references.json", "states.json")
GOOD_STORES = sorted(path for path in (VECTORS / "good").iterdir() if path.is_dir())
GOOD_FILES = sorted(
    path for path in (VECTORS / "good").iterdir() if path.is_file() and path.name not in TABLES
)
BAD_STORES = sorted((VECTORS / "bad").glob("*.store.zip"))
BAD_FILES = sorted(
    path
    for path in (VECTORS / "bad").iterdir()
    if path not in BAD_STORES and path.name not in TABLES
)
CANONICAL = json.loads((VECTORS / "good" / "canonical.json").read_text(encoding="utf-8"))


pytestmark = pytest.mark.usefixtures("warm")


def _names(path: Path) -> str:
    return path.name


def test_the_vectors_are_those_that_their_generator_makes() -> None:
    stored = {
        str(path.relative_to(VECTORS)).replace(os.sep, "/"): path.read_bytes()
        for path in VECTORS.rglob("*")
        if path.is_file()
    }
    generated = vectors()
    assert sorted(stored) == sorted(generated)
    assert [name for name in stored if stored[name] != generated[name]] == []


def test_every_bad_vector_is_named_by_a_clause() -> None:
    assert sorted({path.name[:6] for path in [*BAD_FILES, *BAD_STORES]} - defined_ids()) == []


@pytest.mark.parametrize(("loose", "canonical"), CANONICAL)
def test_a_value_has_one_canonical_text(loose: str, canonical: str) -> None:
    value = json.loads(loose)
    assert (
        dump(value)
        == reference.canonical(value).encode()
        == rfc8785.dumps(value)
        == canonical.encode()
    )


@pytest.mark.parametrize("path", GOOD_FILES, ids=_names)
def test_both_readers_read_a_good_file(path: Path) -> None:
    readers.read_by_library(path.read_bytes(), kind_of(path))
    readers.read_by_reference(path.read_bytes(), kind_of(path))


@pytest.mark.parametrize("path", BAD_FILES, ids=_names)
def test_the_library_refuses_a_bad_file(path: Path) -> None:
    with readers.bounded(), pytest.raises(readers.refusal_of_library(path.name)):
        readers.read_by_library(path.read_bytes(), kind_of(path))


@pytest.mark.parametrize("path", BAD_FILES, ids=_names)
def test_the_reference_reader_refuses_a_bad_file_for_its_clause(path: Path) -> None:
    with readers.bounded(), pytest.raises(readers.refusal(path.name), match=f"^{path.name[:6]}: "):
        readers.read_by_reference(path.read_bytes(), kind_of(path))


@pytest.mark.parametrize("path", GOOD_STORES, ids=_names)
def test_both_readers_give_the_same_files_of_every_version(path: Path, tmp_path: Path) -> None:
    root = readers.unpack(path, tmp_path / "store")
    with sr.Registry.open(root, mode="r") as registry:
        report = registry.verify("deep")
        count = 0
        for ref, files in readers.export_by_reference(root):
            exported = readers.export_by_library(registry, ref, tmp_path / "out")
            assert exported == files
            digest = reference.digest_of(files)
            assert registry.export(ref, tmp_path / "named").digest == digest
            count += 1
    assert count >= report.versions > 0


@pytest.mark.parametrize("name", ["removals", "transitions-of-removals"])
def test_both_readers_refuse_a_removed_version_and_say_which_record_removed_it(
    name: str, tmp_path: Path
) -> None:
    """Spec REC-22."""
    root = readers.unpack(VECTORS / "good" / name, tmp_path / "store")
    store = reference.Store(root)
    versions = {
        ref: version
        for ref, version in readers.versions_by_reference(store)
        if "removed" in version
    }
    assert versions
    with sr.Registry.open(root, mode="r") as registry:
        for ref, version in versions.items():
            said = f"c{version['removed']}"
            with pytest.raises(reference.RemovedError, match=f"^REC-22: .* removed by {said}$"):
                reference.export(store, version)
            with pytest.raises(sr.NotFoundError, match=rf"{said} (expired|purged) it"):
                registry.export(ref, tmp_path / "out")


def test_what_is_read_in_place_of_objects_is_all_that_is_left_of_them(tmp_path: Path) -> None:
    """Spec REC-23 and MNT-01: the good store lacks what is not needed, and has no more."""
    root = readers.unpack(VECTORS / "good" / "removals", tmp_path / "store")
    with sr.Registry.open(root) as registry:
        assert registry.gc(grace_days=0, dry_run=True).garbage == ()
        assert registry.verify("deep").findings == ()


@pytest.mark.parametrize("path", BAD_STORES, ids=_names)
def test_the_library_refuses_a_bad_store(path: Path, tmp_path: Path) -> None:
    root = readers.unpack(path, tmp_path / "store")
    with readers.bounded(), pytest.raises(readers.refusal_of_library(path.name)):
        readers.read_all(root, tmp_path / "out")


@pytest.mark.parametrize("path", BAD_STORES, ids=_names)
def test_the_reference_reader_refuses_a_bad_store_for_its_clause(
    path: Path, tmp_path: Path
) -> None:
    root = readers.unpack(path, tmp_path / "store")
    with readers.bounded(), pytest.raises(readers.refusal(path.name), match=f"^{path.name[:6]}: "):
        list(readers.export_by_reference(root))


STATES = json.loads((VECTORS / "good" / "states.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(STATES))
def test_the_library_follows_a_log_to_the_state_that_is_expected(name: str, tmp_path: Path) -> None:
    """Spec REC-20."""
    expected = STATES[name]
    root = readers.unpack(VECTORS / "good" / name, tmp_path / "store")
    with sr.Registry.open(root, mode="r") as registry:
        assert registry.resolve("tiny/@latest").number == expected["head"]
        assert {tag.name: tag.number for tag in registry.tags()} == expected["tags"]
        live = {task: said for task, said in expected["tasks"].items() if said["live"]}
        assert {task.name: task.version for task in registry.tasks()} == {
            task: len(said["versions"]) for task, said in live.items()
        }
        for task, said in expected["tasks"].items():
            versions = [registry.resolve(f"{task}@v{n + 1}") for n in range(len(said["versions"]))]
            assert [version.number for version in versions] == [
                version["number"] for version in said["versions"]
            ]
            for alias, version in said["aliases"].items():
                assert registry.resolve(f"{task}@{alias}").version == version


REFERENCES = {"good": "names", "bad": "REC-14-after-names.store.zip"}
REFUSALS = {
    "REF-01": sr.InvalidInputError,
    "REF-08": sr.InvalidInputError,
    "EVO-05": sr.FormatError,
}


@pytest.mark.parametrize("vectors", REFERENCES)
def test_both_readers_give_a_reference_its_meaning(vectors: str, tmp_path: Path) -> None:
    """Spec REF-01 to REF-09; and what is still known before a later format (spec EVO-05)."""
    root = readers.unpack(VECTORS / vectors / REFERENCES[vectors], tmp_path / "store")
    table = json.loads((VECTORS / vectors / "references.json").read_text(encoding="utf-8"))
    store = reference.Store(root)
    with sr.Registry.open(root, mode="r") as registry:
        for text, meaning in table:
            assert _meaning(store, text) == meaning, text
            refusal = REFUSALS.get(meaning, sr.NotFoundError)
            if meaning[3] == "-":
                with pytest.raises(refusal):
                    registry.resolve(text)
            else:
                assert registry.resolve(text).ref == meaning, text


def test_a_task_that_only_one_space_has_is_found_without_it(tmp_path: Path) -> None:
    """Spec REF-02."""
    for space, tasks in {"one": ("both", "first"), "two": ("both", "second")}.items():
        tiny = Tiny(space=space)
        for task in tasks:
            tiny.absorb(tiny.adapter(task, 1, linear(), [pair(task)]))
        tiny.record("rename", task=tasks[1], name=f"{tasks[1]}-now")
        for path, content in tiny.files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)
    store = reference.Store(tmp_path)
    with sr.Registry.open(tmp_path, mode="r") as registry:
        for text in ("first", "first-now@v1"):
            assert _meaning(store, text) == registry.resolve(text).ref == "one/first-now@v1"
        for text in ("both", "third", "@c1"):
            assert _meaning(store, text) == "REF-02"
            with pytest.raises((sr.NotFoundError, sr.RefusedError)):
                registry.resolve(text)


def _meaning(store: Any, text: str) -> str:
    """Return what a reference means to the reference reader, or the clause that it breaks."""
    try:
        return str(store.resolve(text))
    except (reference.DamagedError, reference.NewerError) as refused:
        return str(refused)[:6]
