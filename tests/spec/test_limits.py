"""Limits: both readers refuse what is just beyond each limit of chapter 11, not what is within.

They refuse before they take memory for it. The bad vectors of the limits that are small enough to
be files are among those of the tests of vectors.
"""

import json
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.format.canonical import load
from share_registry.names import Digest
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from spec import recipes
from spec.writing import sha256
from tests.spec import readers
from tests.spec.readers import VECTORS, kind_of, reference

WITHIN = json.loads((VECTORS / "good" / "recipes.json").read_text(encoding="utf-8"))
BEYOND = json.loads((VECTORS / "bad" / "recipes.json").read_text(encoding="utf-8"))
STORES = sorted(name for name in BEYOND if name.endswith(".store"))
FILES = sorted(BEYOND.keys() - {*STORES})
MAX_SECONDS = 3.0
"""Longer than for other vectors: before it is known that there are too many they are counted."""

pytestmark = pytest.mark.usefixtures("warm")


@pytest.mark.parametrize("name", FILES)
def test_the_library_refuses_what_is_one_beyond_a_limit(name: str) -> None:
    content = recipes.content(BEYOND[name])
    with readers.bounded(MAX_SECONDS), pytest.raises(sr.IntegrityError):
        readers.read_by_library(content, name.partition(".")[2])


@pytest.mark.parametrize("name", FILES)
def test_the_reference_reader_refuses_what_is_one_beyond_a_limit_for_its_clause(name: str) -> None:
    content = recipes.content(BEYOND[name])
    with (
        readers.bounded(MAX_SECONDS),
        pytest.raises(reference.DamagedError, match=f"^{name[:6]}: "),
    ):
        readers.read_by_reference(content, name.partition(".")[2])


@pytest.mark.parametrize("name", STORES)
def test_both_readers_refuse_a_store_with_a_file_beyond_a_limit(name: str, tmp_path: Path) -> None:
    """It is not even read (spec STO-08)."""
    for path, recipe in BEYOND[name].items():
        target = tmp_path / "store" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        recipes.write(recipe, target)
    with readers.bounded(MAX_SECONDS), pytest.raises(sr.IntegrityError):
        readers.read_all(tmp_path / "store", tmp_path / "out")
    with (
        readers.bounded(MAX_SECONDS),
        pytest.raises(reference.DamagedError, match=f"^{name[:6]}: "),
    ):
        list(readers.export_by_reference(tmp_path / "store"))


@pytest.mark.parametrize("name", sorted(WITHIN))
def test_no_reader_is_stricter_than_a_limit(name: str) -> None:
    content = recipes.content(WITHIN[name])
    readers.read_by_library(content, name.partition(".")[2])
    readers.read_by_reference(content, name.partition(".")[2])


def test_json_within_its_limits_is_read_by_both() -> None:
    content = b'{"a":' + b"[" * 15 + b'"' + b"x" * 65_536 + b'",9007199254740991' + b"]" * 15 + b"}"
    assert load(content, subject="vector")
    assert reference.canonical(load(content, subject="vector")).encode() == content


def test_a_link_is_no_object(tmp_path: Path) -> None:
    """What is behind a link is not looked at (spec STO-02, STO-08)."""
    root = readers.unpack(VECTORS / "good" / "history", tmp_path / "store")
    content = b"somewhere else"
    digest = Digest(sha256(content))
    (tmp_path / "outside").write_bytes(content)
    path = root / "objects" / digest[:2] / digest[2:]
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(sr.IntegrityError):
        LocalStore(root, Outside()).get(digest)
    with pytest.raises(reference.DamagedError, match=r"^STO-08: "):
        reference.Store(root).get(digest)


def test_bad_vectors_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (VECTORS / "bad").iterdir()}
    assert [name for name, size in sizes.items() if size > 256 << 10] == []
    assert {kind_of(path) for path in (VECTORS / "bad").iterdir()} >= {
        "json",
        "record.json",
        "layout.json",
        "adapter.safetensors",
        "store.zip",
    }
