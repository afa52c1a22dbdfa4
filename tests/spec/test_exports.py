"""The reference reader, from the specification alone, gives the very files the library exports."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import share_registry as sr
from share_registry.format.canonical import dump, sha256
from tests.house.tree import ROOT
from tests.spec import adapters, readers
from tests.spec.readers import VECTORS, reference

EXPECTED = {
    "bf16": 1,
    "coarse": 1,
    "common": 2,
    "conv": 1,
    "dora": 1,
    "exact": 2,
    "experts": 1,
    "fp16": 1,
    "passengers": 1,
    "plain": 6,
    "shared": 2,
}
"""Versions under every name; `shared` is now called `common`."""
STRANGERS = ("share_registry", "torch", "safetensors", "pydantic")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    with sr.Registry.open(folder / "registry") as registry:
        adapters.fill(registry, folder / "adapters")
    return folder / "registry"


@pytest.fixture(scope="module")
def exported(root: Path) -> dict[str, dict[str, bytes]]:
    return dict(readers.export_by_reference(root))


def test_every_version_has_the_same_bytes(
    root: Path, exported: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """Configuration and tensors (spec EXP-01, EXP-02, DEC-12).

    Older names lead to the same task (spec NAM-02).
    """
    versions = [ref.partition("/")[2].split("@v") for ref in exported]
    assert {
        name: max(int(number) for task, number in versions if task == name) for name, _ in versions
    } == EXPECTED
    with sr.Registry.open(root, mode="r") as registry:
        for ref, files in exported.items():
            library_files = readers.export_by_library(registry, ref, tmp_path)
            assert library_files == files
            assert "tokenizer.json" in files


def test_the_registry_has_what_the_reader_must_show(root: Path) -> None:
    """References, chains, tensors kept bit for bit and objects of their own are all there.

    Without them the test above shows nothing.
    """
    store = reference.Store(root)
    (space,) = (root / "spaces").iterdir()
    tasks = store.log(space.name).tasks
    parsed = {
        (name, n): reference.parse_adapter(store.get(v["adapter"]), store.get)
        for name, task in tasks.items()
        for n, v in enumerate(task.versions, 1)
    }
    assert "previous" in parsed["plain", 3].header
    assert any(adapter.header["sources"] for adapter in parsed.values())
    assert set(parsed["exact", 1].modules.values()) == {None}
    assert "previous" in parsed["exact", 2].header
    assert parsed["passengers", 1].external
    assert parsed["dora", 1].kept
    assert None not in [*parsed["experts", 1].modules.values(), *parsed["conv", 1].modules.values()]


def test_a_reader_in_a_process_of_its_own_imports_nothing_of_ours(
    root: Path, exported: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    ref = next(iter(exported))
    script = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv = ["spec.reader", {str(root)!r}, {ref!r}, {str(tmp_path / "out")!r}]
runpy.run_module("spec.reader", run_name="__main__")
assert not {STRANGERS!r} & {{name.partition(".")[0] for name in sys.modules}}
""".replace(repr(STRANGERS), repr(set(STRANGERS)))
    subprocess.run([sys.executable, "-I", "-c", script], check=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == exported[ref]


def test_the_reader_lists_every_version(root: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "spec.reader", root, "--list"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.splitlines()
    present = {name: count for name, count in EXPECTED.items() if name != "shared"}
    assert sorted(line.split()[0] for line in listed) == sorted(
        f"base/{name}@v{number}"
        for name, count in present.items()
        for number in range(1, count + 1)
    )


def test_a_flipped_bit_anywhere_is_found(
    root: Path, exported: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """Not one object of a version can be changed unnoticed (spec OBJ-01)."""
    copy = readers.unpack(root, tmp_path / "copy")
    for path in sorted((copy / "objects").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(reference.DamagedError, match=r"^OBJ-01: "):
        list(readers.export_by_reference(copy))


def test_the_digest_of_an_export_is_of_its_files(root: Path, tmp_path: Path) -> None:
    """And its first digits are in the directory's name (spec EXP-05, EXP-06)."""
    with sr.Registry.open(root, mode="r") as registry:
        export = registry.export("plain@v1", tmp_path)
    listed: list[Any] = [
        {"name": path.name, "sha256": sha256(path.read_bytes())}
        for path in sorted(export.path.iterdir())
    ]
    assert export.digest == sha256(dump(listed))
    assert export.path.name == f"plain-v1-{export.digest[:8]}"


@pytest.mark.parametrize("name", ["README.md", "readme.MD"])
def test_the_readme_of_the_source_makes_room_for_the_card(name: str, tmp_path: Path) -> None:
    """Spec EXP-04."""
    source = adapters.write(tmp_path / "source", adapters.pairs(1))
    (source / name).write_text("ours")
    (source / "README.source.md").write_text("taken")
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.commit(source, task="cola")
        files = readers.export_by_library(registry, "cola@v1", tmp_path / "out")
    assert (files["README.source.md"], files["README.source.2.md"]) == (b"taken", b"ours")
    assert b"library_name: peft" in files["README.md"]


def test_a_card_says_what_was_true_at_its_commit(root: Path, tmp_path: Path) -> None:
    """A task renamed since exports the same card, under its old name (spec EXP-03, NAM-04)."""
    with sr.Registry.open(root, mode="r") as registry:
        cards = [
            readers.export_by_library(registry, f"common@v{number}", tmp_path)["README.md"]
            for number in (1, 2)
        ]
        assert registry.resolve("shared@v1").ref == "base/common@v1"
    assert b"# base/shared@v1" in cards[0]
    assert b"# base/common@v2" in cards[1]


@pytest.mark.parametrize("name", ["con", "nul.x", "a..b", "a.", ".a", "A", "a/b", "", "a" * 65])
def test_a_name_that_could_be_no_path_is_no_name(name: str) -> None:
    """Spec NAM-01."""
    with pytest.raises(sr.InvalidInputError):
        sr.names.task_name(name)


@pytest.mark.parametrize(
    "name", ["v1", "c12", "latest", "head", "deadbeef", "2026-01-01", "2026-01-01x"]
)
def test_an_alias_cannot_be_read_as_something_else(name: str) -> None:
    """Spec NAM-03."""
    with pytest.raises(sr.InvalidInputError):
        sr.names.alias_name(name)


def test_a_later_format_is_called_that_and_not_damage() -> None:
    """A version, a feature and a member of later releases are refused, the first two as Format.

    Spec EVO-01, EVO-02, EVO-03, EVO-04.
    """
    for path in sorted(
        path for path in (VECTORS / "bad").glob("EVO-02-*.*") if path.suffix != ".zip"
    ):
        with pytest.raises(sr.FormatError):
            readers.read_by_library(path.read_bytes(), readers.kind_of(path))
    note = json.loads((VECTORS / "good" / "absorb.note.json").read_text(encoding="utf-8"))
    with pytest.raises(sr.IntegrityError, match="later"):
        readers.read_by_library(dump(note | {"later": 1}), "note.json")
