"""The file system through the one door.

What each operation promises, and what it says when the system refuses.
"""

import errno
import hashlib
import os
import stat
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
)
from share_registry.format.canonical import sha256
from share_registry.outside.files import Kind, Outside
from share_registry.outside.system import PIECE, System, nothing_done


class Refusing(System):
    """A system of which one call fails."""

    def __init__(self, verb: str, code: int) -> None:
        def refuse(*_: object, **__: object) -> Any:
            raise OSError(code, os.strerror(code))

        setattr(self, verb, refuse)


class Noting(System):
    """A system that notes its flushes."""

    def __init__(self) -> None:
        self.flushed: list[str] = []

    def fsync(self, handle: int) -> None:
        super().fsync(handle)
        self.flushed.append(os.readlink(f"/proc/self/fd/{handle}"))


@pytest.fixture
def outside() -> Outside:
    return Outside()


def test_clock_and_randomness_come_from_here(outside: Outside) -> None:
    assert outside.now().tzinfo is UTC
    assert outside.monotonic() <= outside.monotonic()
    assert len({outside.token() for _ in range(100)}) == 100
    outside.wait(0.0)


def test_an_environment_variable_is_read_at_the_moment_of_asking(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARE_REGISTRY_TEST", "1")
    assert outside.environment("SHARE_REGISTRY_TEST") == "1"
    monkeypatch.delenv("SHARE_REGISTRY_TEST")
    assert outside.environment("SHARE_REGISTRY_TEST") is None


def test_the_points_of_a_write_are_passed_in_order(tmp_path: Path) -> None:
    passed: list[str] = []
    Outside(passed.append).write_new(tmp_path / "f", b"content", point="x")
    assert passed == ["x.open", "x.half", "x.prefsync", "x.postfsync"]


@pytest.mark.parametrize("parts", [[b"c", b"ont", b"ent!"], [b"", b"cont", b"ent!"], [b"content!"]])
def test_a_file_that_comes_in_parts_is_written_up_to_its_middle_and_whole(
    parts: list[bytes], tmp_path: Path
) -> None:
    class Parts(list[bytes]):
        def __len__(self) -> int:
            return len(bytes(self))

        def __bytes__(self) -> bytes:
            return b"".join(self)

        digest = sha256(b"content!")

    path, sizes = tmp_path / "f", dict[str, int]()

    def note(point: str) -> None:
        sizes[point] = path.stat().st_size

    Outside(note).write_new(path, Parts(parts), point="x")
    assert path.read_bytes() == b"content!"
    assert sizes == {"x.open": 0, "x.half": 4, "x.prefsync": 8, "x.postfsync": 8}


@pytest.mark.parametrize("size", [0, 1, 2, (1 << 20) - 1, (1 << 20) + 1, 5 << 20])
def test_what_is_written_is_read(outside: Outside, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    outside.write_new(tmp_path / "f", content)
    assert outside.read(tmp_path / "f", limit=size) == content
    assert outside.size(tmp_path / "f") == size


def test_a_stamp_differs_after_a_write_that_hides_itself(outside: Outside, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"before")
    status, before = file.stat(), outside.stamp(file)
    assert outside.stamp(file) == before
    # clocks of file systems are coarse
    time.sleep(0.02)
    file.write_bytes(b"after.")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert outside.stamp(file) != before
    assert [outside.stamp(path) for path in (tmp_path, tmp_path / "none")] == [None, None]


def test_a_file_that_exists_is_never_written_to(outside: Outside, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "new")
    for name in ("f", "link"):
        with pytest.raises(StoreError, match="exists"):
            outside.write_new(tmp_path / name, b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("verb", ["write", "fsync", "freeze", "close"])
def test_a_write_that_fails_leaves_no_file(tmp_path: Path, verb: str) -> None:
    with pytest.raises(StoreError, match="No space left"):
        Outside(system=Refusing(verb, errno.ENOSPC)).write_new(
            tmp_path / "f", b"content", frozen=True
        )
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_in_a_write_leaves_no_file(tmp_path: Path) -> None:
    def hook(point: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Outside(hook).write_new(tmp_path / "f", b"content")
    assert list(tmp_path.iterdir()) == []


def test_reading_has_a_limit_that_is_checked_before_anything_is_read(
    tmp_path: Path, outside: Outside
) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(IntegrityError, match="limit"):
        outside.read(tmp_path / "f", limit=1 << 20)
    (tmp_path / "f").write_bytes(b"12345")
    assert outside.read(tmp_path / "f", limit=5) == b"12345"
    with pytest.raises(IntegrityError, match="limit"):
        outside.read(tmp_path / "f", limit=4)


def test_a_file_that_grows_while_it_is_read_keeps_to_the_limit(tmp_path: Path) -> None:
    class Growing(System):
        def read(self, handle: int, size: int) -> bytes:
            with (tmp_path / "f").open("ab") as file:
                file.write(b"more")
            return super().read(handle, size)

    (tmp_path / "f").write_bytes(b"12345")
    with pytest.raises(IntegrityError, match="grew"):
        Outside(system=Growing()).read(tmp_path / "f", limit=6)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_what_is_seen_is_what_is_read_in_order(tmp_path: Path, outside: Outside, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "f").write_bytes(content)
    hasher = hashlib.sha256()
    assert outside.read(tmp_path / "f", limit=size, seen=hasher.update) == content
    assert hasher.hexdigest() == hashlib.sha256(content).hexdigest()


def test_what_a_file_grew_by_is_seen_too_and_what_it_lost_is_not(tmp_path: Path) -> None:
    class Changing(System):
        def status(self, handle: int) -> os.stat_result:
            status = super().status(handle)
            os.truncate(tmp_path / "f", self.size)
            return status

        def __init__(self, size: int) -> None:
            self.size = size

    for size in (0, 7, 12):
        (tmp_path / "f").write_bytes(b"0123456789")
        seen: list[bytes] = []
        content = Outside(system=Changing(size)).read(
            tmp_path / "f",
            limit=12,
            seen=lambda piece: seen.append(bytes(piece)),  # noqa: B023
        )
        assert content == b"".join(seen) == (b"0123456789" + bytes(2))[:size]


def test_a_large_file_is_in_memory_once(tmp_path: Path, outside: Outside) -> None:
    size = 20 * PIECE
    (tmp_path / "f").write_bytes(bytes(size))
    tracemalloc.start()
    try:
        content = outside.read(tmp_path / "f", limit=size, seen=hashlib.sha256().update)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * size
    finally:
        tracemalloc.stop()
    assert len(content) == size


def test_memory_that_does_not_suffice_is_an_error_of_the_store(tmp_path: Path) -> None:
    class Full(System):
        def read_into(self, handle: int, place: memoryview) -> int:
            raise MemoryError

    (tmp_path / "f").write_bytes(b"12345")
    with pytest.raises(StoreError, match="memory"):
        Outside(system=Full()).read(tmp_path / "f", limit=5)


def _make(path: Path, kind: Kind | None) -> None:
    makers: dict[Kind | None, Callable[[], object]] = {
        Kind.FILE: lambda: path.write_bytes(b""),
        Kind.DIRECTORY: path.mkdir,
        Kind.LINK: lambda: path.symlink_to("/etc/hostname"),
        Kind.SPECIAL: lambda: os.mkfifo(path),
        None: lambda: None,
    }
    makers[kind]()


@pytest.mark.parametrize("kind", [*Kind, None])
def test_a_path_is_what_it_is_itself(outside: Outside, tmp_path: Path, kind: Kind | None) -> None:
    _make(tmp_path / "x", kind)
    assert outside.kind(tmp_path / "x") == kind
    assert outside.exists(tmp_path / "x") == (kind is not None)
    assert outside.size(tmp_path / "x") == (0 if kind is Kind.FILE else None)
    assert outside.kind(tmp_path / "x" / "below") is None


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Kind.DIRECTORY, IntegrityError),
        (Kind.LINK, IntegrityError),
        (Kind.SPECIAL, IntegrityError),
        (None, NotFoundError),
    ],
)
def test_only_a_plain_file_is_read(
    outside: Outside, tmp_path: Path, kind: Kind | None, error: type[ShareRegistryError]
) -> None:
    _make(tmp_path / "x", kind)
    with pytest.raises(error, match="x"):
        outside.read(tmp_path / "x", limit=100)


def test_a_new_name_is_given_once(outside: Outside, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    assert outside.link_new(tmp_path / "a", tmp_path / "c")
    assert not outside.link_new(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"a"


def test_a_failed_naming_tells_whether_it_may_have_happened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for code, surely_not in [
        (errno.ENOSPC, True),
        (errno.EROFS, True),
        (errno.EIO, False),
        (errno.ETIMEDOUT, False),
    ]:
        with pytest.raises(StoreError) as raised:
            Outside(system=Refusing("link", code)).link_new(tmp_path / "a", tmp_path / "b")
        assert nothing_done(raised.value) == surely_not


def test_a_directory_moves_to_a_free_name_or_an_empty_directory_only(
    outside: Outside, tmp_path: Path
) -> None:
    for name in ("one", "two", "three", "full", "empty"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(name.encode()) if name != "empty" else None
    assert outside.rename_directory(tmp_path / "one", tmp_path / "free")
    assert outside.rename_directory(tmp_path / "two", tmp_path / "empty")
    assert not outside.rename_directory(tmp_path / "three", tmp_path / "full")
    (tmp_path / "file").write_bytes(b"")
    assert not outside.rename_directory(tmp_path / "three", tmp_path / "file")
    assert [
        (tmp_path / name / "f").read_bytes() for name in ("free", "empty", "three", "full")
    ] == [b"one", b"two", b"three", b"full"]
    with pytest.raises(StoreError):
        outside.rename_directory(tmp_path / "missing", tmp_path / "anywhere")


def test_directories_are_made_with_their_parents_and_every_new_name_is_flushed(
    tmp_path: Path,
) -> None:
    system = Noting()
    Outside(system=system).make_directory(tmp_path / "a" / "b" / "c")
    assert system.flushed == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    Outside(system=system).make_directory(tmp_path / "a" / "b" / "c")
    assert len(system.flushed) == 3


def test_a_file_in_the_way_of_a_directory_is_named(outside: Outside, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    for path in (tmp_path / "f", tmp_path / "f" / "below"):
        with pytest.raises(RefusedError, match="expected a directory"):
            outside.make_directory(path)


def test_a_file_system_that_cannot_flush_directories_is_forgiven_and_a_broken_one_is_not(
    tmp_path: Path,
) -> None:
    Outside(system=Refusing("fsync", errno.EINVAL)).sync_directory(tmp_path)
    with pytest.raises(StoreError):
        Outside(system=Refusing("fsync", errno.EIO)).sync_directory(tmp_path)


def test_removing_what_is_not_there_is_fine(outside: Outside, tmp_path: Path) -> None:
    outside.remove(tmp_path / "missing")
    outside.remove_tree(tmp_path / "missing")
    outside.touch(tmp_path / "missing")
    assert outside.names(tmp_path / "missing") == []
    with pytest.raises(StoreError):
        outside.remove(tmp_path)


def test_a_tree_is_removed_without_following_its_links(outside: Outside, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "f").write_bytes(b"kept")
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "f").write_bytes(b"gone")
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    outside.remove_tree(tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "f").read_bytes() == b"kept"


def test_files_are_listed_in_order_and_links_not_followed(outside: Outside, tmp_path: Path) -> None:
    for name in ("b/z", "b/a", "c", "a/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in outside.files_below(tmp_path)] == [
        "c",
        "loop",
        "a/y",
        "b/a",
        "b/z",
    ]


def test_a_confined_view_stays_below_its_root(outside: Outside, tmp_path: Path) -> None:
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    inside = outside.confined(tmp_path / "root")
    inside.write_new(tmp_path / "root" / "inner" / "f", b"content")
    assert inside.read(tmp_path / "root" / "inner" / "f", limit=10) == b"content"
    for path in (
        tmp_path / "secret",
        tmp_path / "root" / ".." / "secret",
        tmp_path / "root" / "inner" / ".." / ".." / "secret",
    ):
        with pytest.raises(InvalidInputError):
            inside.read(path, limit=10)
    with pytest.raises(IntegrityError, match="link"):
        inside.read(tmp_path / "root" / "link" / "secret", limit=10)
    with pytest.raises(IntegrityError, match="link"):
        inside.write_new(tmp_path / "root" / "link" / "new", b"")
    with pytest.raises(IntegrityError, match="link"):
        inside.make_directory(tmp_path / "root" / "link" / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "secret"]


def test_no_descriptor_stays_open_whatever_happens(outside: Outside, tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    inside = outside.confined(tmp_path)
    inside.make_directory(tmp_path / "a" / "b")
    inside.write_new(tmp_path / "a" / "b" / "f", b"content")
    for action in (
        lambda: inside.read(tmp_path / "a" / "missing" / "f", limit=1),
        lambda: inside.read(tmp_path / "a" / "b" / "f", limit=1),
        lambda: inside.write_new(tmp_path / "a" / "b" / "f", b""),
        lambda: Outside(system=Refusing("fsync", errno.EIO)).sync_directory(tmp_path),
        lambda: (
            Outside(system=Refusing("write", errno.EIO))
            .confined(tmp_path)
            .write_new(tmp_path / "a" / "g", b"x")
        ),
    ):
        with pytest.raises(ShareRegistryError):
            action()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_relative_path_is_fixed_when_it_is_made_absolute(
    outside: Outside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"")
    assert outside.absolute(Path("link")) == tmp_path / "link"
    assert outside.resolved(Path("link")) == (tmp_path / "f").resolve()


def test_temporary_directories_are_ours_alone(outside: Outside) -> None:
    path = outside.temporary_directory("share-registry-")
    try:
        assert path.stat().st_mode & 0o077 == 0
        assert outside.free_bytes(path) > 0
    finally:
        outside.remove_tree(path)
    assert not path.exists()


class _Denied(System):
    """Denies to open any file."""

    def open(self, name: str, flags: int, *, mode: int = 0o666, folder: int | None = None) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", name)


def test_only_where_a_registry_is_denied_is_it_said_how_to_share_one(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "registry" / "spaces").mkdir(parents=True)
    (tmp_path / "registry" / "FORMAT").touch()
    for place, is_shared in (("adapter/x", False), ("registry/spaces/x", True)):
        with pytest.raises(StoreError) as caught:
            Outside(system=_Denied()).read(tmp_path / place, limit=9)
        assert ("chgrp" in caught.value.hint) is is_shared


def test_a_private_directory_is_its_users_alone(tmp_path: Path) -> None:
    Outside().make_directory(tmp_path / "cache" / "ab", private=True)
    Outside().make_directory(tmp_path / "shared" / "ab")
    rights = {
        name: stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o077
        for name in ("cache", "cache/ab", "shared", "shared/ab")
    }
    assert rights["cache"] == rights["cache/ab"] == 0
    assert rights["shared"] == rights["shared/ab"] != 0


def test_a_directory_with_something_in_it_is_not_taken_for_empty(
    tmp_path: Path, outside: Outside
) -> None:
    made = outside.make_directory(tmp_path / "a" / "b")
    assert made == [tmp_path / "a" / "b", tmp_path / "a"]
    with pytest.raises(StoreError):
        outside.remove_empty(tmp_path / "a")
    for directory in made:
        outside.remove_empty(directory)
    assert not [*tmp_path.iterdir()]
    outside.remove_empty(tmp_path / "a")
    assert outside.make_directory(tmp_path) == []
