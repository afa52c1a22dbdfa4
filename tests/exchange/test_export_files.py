"""Placing an export.

Complete or not at all, the same again is success, and nothing of somebody else's is touched.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from share_registry.errors import InvalidInputError, RefusedError, ShareRegistryError
from share_registry.exchange.attachments import CARD_MARK
from share_registry.exchange.directory_digest import directory_digest
from share_registry.exchange.export_files import (
    CardFacts,
    card_text,
    files_of,
    place,
)
from share_registry.exchange.importers.formats import read_place
from share_registry.format.canonical import sha256
from share_registry.outside.files import Outside
from tests.registry import plain
from tests.reliability.processes import fork, wait_for_all

RACERS, EXPORTS = 6, 250
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x", "README.md": b"card"}


def put(
    root: Path, name: str = "v1", files: dict[str, bytes] | None = None, *, overwrite: bool = False
) -> tuple[Path, bool]:
    return place(
        FILES if files is None else files, root, name, overwrite=overwrite, outside=Outside()
    )


def test_a_directory_is_placed_under_its_name(tmp_path: Path) -> None:
    path, created = put(tmp_path / "serve")
    assert path == tmp_path / "serve" / "v1"
    assert created
    assert plain.files(tmp_path) == {f"serve/v1/{name}": content for name, content in FILES.items()}


def test_the_same_files_again_are_success(tmp_path: Path) -> None:
    put(tmp_path)
    before = (tmp_path / "v1").stat()
    assert put(tmp_path) == (tmp_path / "v1", False)
    assert (tmp_path / "v1").stat().st_mtime_ns == before.st_mtime_ns


def test_an_empty_name_writes_into_the_root_itself(tmp_path: Path) -> None:
    for root in (tmp_path / "new", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert put(root, "") == (root, True)
        assert put(root, "") == (root, False)
        assert set(os.listdir(root)) == set(FILES)


@pytest.mark.parametrize(
    "change", [{"README.md": b"CARD"}, {"extra": b""}, {"README.md": b"longer card"}]
)
def test_something_else_there_is_refused_and_left_alone(
    change: dict[str, bytes], tmp_path: Path
) -> None:
    put(tmp_path, files=FILES | change)
    before = plain.files(tmp_path)
    with pytest.raises(RefusedError, match="holds other files than this export"):
        put(tmp_path)
    assert plain.files(tmp_path) == before


def test_overwrite_replaces_the_whole_directory(tmp_path: Path) -> None:
    put(tmp_path, files=FILES | {"old": b"x"})
    assert put(tmp_path, overwrite=True) == (tmp_path / "v1", True)
    assert plain.files(tmp_path) == {f"v1/{name}": content for name, content in FILES.items()}


def test_overwrite_never_replaces_what_is_no_adapter_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years")
    (tmp_path / "deep" / "inner").mkdir(parents=True)
    (tmp_path / "deep" / "adapter_config.json").write_text("{}")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    before = plain.files(tmp_path)
    for name in ("thesis", "deep", "file", "link"):
        with pytest.raises(RefusedError, match=r"not overwritten|expected a directory"):
            put(tmp_path, name, overwrite=True)
    assert plain.files(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc", ".", "..", ".hidden", "a..b", "x.", "a b", "\u00e4", "x" * 201]
)
def test_an_evil_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is not allowed"):
        put(tmp_path / "serve", name)
    assert not plain.files(tmp_path)


POINTS = ["export.open", "export.half", "export.prefsync", "export.postfsync", "export.swap"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("point", POINTS)
def test_a_failure_leaves_what_was_there_and_nothing_else(
    point: str, overwrite: bool, tmp_path: Path
) -> None:
    if overwrite:
        put(tmp_path, files=FILES | {"old": b"x"})
    before = plain.files(tmp_path)

    def fail(passed: str) -> None:
        if passed == point:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place(FILES, tmp_path, "v1", overwrite=overwrite, outside=Outside(fail))
    assert plain.files(tmp_path) == before
    assert os.listdir(tmp_path) == (["v1"] if overwrite else [])


def test_a_race_with_another_export_is_refused_without_a_trace(tmp_path: Path) -> None:
    def race(point: str) -> None:
        if point == "export.swap":
            (tmp_path / "v1").mkdir()
            (tmp_path / "v1" / "theirs").write_text("x")

    with pytest.raises(RefusedError, match="was written by somebody else meanwhile"):
        place(FILES, tmp_path, "v1", overwrite=False, outside=Outside(race))
    assert plain.files(tmp_path) == {"v1/theirs": b"x"}
    assert os.listdir(tmp_path) == ["v1"]


def test_the_digest_is_of_names_and_contents() -> None:
    digests = {name: sha256(content) for name, content in FILES.items()}
    assert directory_digest(digests) == directory_digest(dict(reversed(digests.items())))
    others = [digests, digests | {"a": sha256(b"")}, digests | {"README.md": sha256(b"Card")}]
    assert len({directory_digest(each) for each in others}) == 3


def test_the_card_names_base_version_commit_and_error() -> None:
    card = CardFacts(
        base_model='org/"base"\n- x',
        ref="base/cola@v3",
        commit_number=7,
        commit_id="ab" * 32,
        error=0.0493,
        budget=0.05,
        time="2026-11-16T00:00:00.000000Z",
    )
    text = card_text(card, profile="native").decode()
    front = text.split("---")[1]
    assert "library_name: peft" in front
    assert 'base_model: "org/\\"base\\"\\n- x"' in front
    for part in (CARD_MARK, "# base/cola@v3", f"c7 `{'ab' * 32}`", "0.0493", "0.05", "2026-11-16"):
        assert part in text


def test_a_readme_of_the_source_makes_room_for_the_card_and_comes_back(
    tmp_path: Path, copied: Callable[[str], Path]
) -> None:
    source = copied("plain")
    (source / "README.md").write_text("theirs")
    adapter = read_place(source, outside=Outside())
    files, _ = files_of(adapter, profile="native", card=CardFacts.of(adapter))
    assert files["README.source.md"] == b"theirs"
    assert CARD_MARK.encode() in files["README.md"]
    place(files, tmp_path, "out", overwrite=False, outside=Outside())
    assert read_place(tmp_path / "out", outside=Outside()).attachments == adapter.attachments


def test_readmes_that_would_collide_with_the_card_are_all_kept(
    copied: Callable[[str], Path],
) -> None:
    source = copied("plain")
    (source / "README.md").rename(source / "readme.MD")
    (source / "README.source.md").write_text("second")
    adapter = read_place(source, outside=Outside())
    files, _ = files_of(adapter, profile="native", card=CardFacts.of(adapter))
    assert set(files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "README.source.md",
        "README.source.2.md",
    }
    assert files["README.source.md"] == b"second"


def test_save_writes_a_directory_that_reads_as_the_same_adapter(
    tmp_path: Path, copied: Callable[[str], Path]
) -> None:
    adapter = read_place(copied("plain"), outside=Outside())
    path = adapter.save(tmp_path / "saved")
    assert read_place(path, outside=Outside()).source_digest == adapter.source_digest
    assert adapter.save(path) == path
    (path / "mine").write_text("x")
    with pytest.raises(RefusedError):
        adapter.save(path)
    adapter.save(path, overwrite=True)
    assert not (path / "mine").exists()


def test_an_unknown_profile_is_refused(copied: Callable[[str], Path]) -> None:
    adapter = read_place(copied("plain"), outside=Outside())
    with pytest.raises(ShareRegistryError, match="profile 'wide' is not one of native, portable"):
        files_of(adapter, profile="wide", card=CardFacts.of(adapter))  # type: ignore[arg-type]


def test_an_export_that_loses_a_race_to_overwrite_takes_all_of_its_own_away(
    tmp_path: Path,
) -> None:
    put(tmp_path)

    def hook(point: str) -> None:
        if point == "export.swap":
            put(tmp_path, files=FILES | {"README.md": b"winner"}, overwrite=True)

    with pytest.raises(RefusedError, match="somebody else"):
        place(
            FILES | {"README.md": b"loser"}, tmp_path, "v1", overwrite=True, outside=Outside(hook)
        )
    assert plain.files(tmp_path) == {
        f"v1/{name}": content for name, content in (FILES | {"README.md": b"winner"}).items()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_an_export_goes_on_where_another_has_moved_the_old_one_away(tmp_path: Path) -> None:
    put(tmp_path)

    def hook(point: str) -> None:
        if point == "export.postfsync" and (tmp_path / "v1").exists():
            (tmp_path / "v1").rename(tmp_path / "away")

    files = FILES | {"README.md": b"new"}
    assert place(files, tmp_path, "v1", overwrite=True, outside=Outside(hook))[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["away", "v1"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_exports_that_race_leave_one_of_them_whole_and_nothing_else(
    tmp_path: Path, overwrite: bool
) -> None:
    variants = [FILES | {"README.md": b"card %d" % number} for number in range(RACERS)]

    def export(variant: dict[str, bytes]) -> None:
        for _ in range(EXPORTS):
            with suppress(RefusedError):
                put(tmp_path, files=variant, overwrite=overwrite)

    children = [fork(partial(export, variant)) for variant in variants]
    assert wait_for_all(children) == [0] * RACERS
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]
    placed = plain.files(tmp_path / "v1")
    assert placed in variants
