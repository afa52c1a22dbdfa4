"""The directory store keeps the protocol, and the disk has what the specification says."""

import errno
import hashlib
import os
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from share_registry.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StoreError,
)
from share_registry.format.canonical import sha256
from share_registry.format.format_file import format_bytes, parse_format
from share_registry.names import CommitNumber, SpaceName
from share_registry.outside.files import Outside
from share_registry.outside.system import System
from share_registry.store.local import LocalStore
from share_registry.store.protocol import PublishStateUnknownError
from share_registry.testing.stores import FIRST, SPACE, NewStore, StoreConformance, put_bytes
from tests.reliability.scenarios import NoLinks
from tests.store.trees import tree


def new_identity() -> str:
    return str(uuid.uuid4())


class NoExclusiveNames(NoLinks):
    """One that cannot rename without replacing either."""

    def rename_new(
        self,
        source: str,
        target: str,
        *,
        source_folder: int | None = None,
        target_folder: int | None = None,
    ) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), target)


class Overwriting(System):
    """One whose exclusive link replaces."""

    def link(
        self,
        source: str,
        target: str,
        *,
        source_folder: int | None = None,
        target_folder: int | None = None,
    ) -> None:
        self.rename(source, target, source_folder=source_folder, target_folder=target_folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore.create(root, Outside(), new_identity())


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def new_store(self, tmp_path: Path) -> NewStore:
        numbers = count()
        return lambda: LocalStore.create(
            tmp_path / f"registry-{next(numbers)}", Outside(), new_identity()
        )


class TestLocalStoreWithoutHardLinks(StoreConformance):
    @pytest.fixture
    def new_store(self, tmp_path: Path) -> NewStore:
        numbers = count()
        return lambda: LocalStore.create(
            tmp_path / f"registry-{next(numbers)}", Outside(system=NoLinks()), new_identity()
        )


def test_the_layout_on_disk_is_the_specified_one(store: LocalStore, root: Path) -> None:
    digest = put_bytes(store, b"weights")
    store.publish(SPACE, FIRST, b"record")
    files = {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    assert files == {
        "FORMAT": format_bytes(store.identity),
        f"objects/{digest[:2]}/{digest[2:]}": b"weights",
        "spaces/base/log/00000000000000000001.json": b"record",
    }
    assert hashlib.sha256(b"weights").hexdigest() == digest
    assert sorted(path.name for path in root.iterdir()) == ["FORMAT", "objects", "spaces", "tmp"]


@pytest.mark.parametrize(
    ("umask", "file_mode", "folder_mode"),
    [(0o022, 0o444, 0o755), (0o027, 0o440, 0o750), (0o002, 0o444, 0o775), (0o777, 0o400, None)],
)
def test_nobody_may_write_to_a_kept_file_and_the_umask_decides_who_may_read(
    tmp_path: Path, umask: int, file_mode: int, folder_mode: int | None
) -> None:
    store = (
        LocalStore.create(tmp_path / "registry", Outside(), new_identity())
        if folder_mode is None
        else None
    )
    before = os.umask(umask)
    try:
        store = store or LocalStore.create(tmp_path / "registry", Outside(), new_identity())
        (tmp_path / "registry/objects/cd").mkdir(mode=0o755)
        digest = put_bytes(store, b"weights")
    finally:
        os.umask(before)
    path = tmp_path / "registry" / "objects" / digest[:2] / digest[2:]
    assert stat.S_IMODE(path.stat().st_mode) == file_mode
    if folder_mode is not None:
        assert stat.S_IMODE(path.parent.stat().st_mode) == folder_mode


def test_a_rotten_object_is_replaced_by_the_next_put(store: LocalStore, root: Path) -> None:
    digest = put_bytes(store, b"weights")
    path = root / "objects" / digest[:2] / digest[2:]
    for wrong in (b"weightz", b"", b"weights and more"):
        path.chmod(0o644)
        path.write_bytes(wrong)
        with pytest.raises(IntegrityError):
            store.get(digest)
        assert not store.put(b"weights", digest)
        assert store.get(digest) == b"weights"
        assert stat.S_IMODE(path.stat().st_mode) & 0o222 == 0
    assert list((root / "tmp").iterdir()) == []


def test_an_object_put_again_counts_as_used_now(store: LocalStore, root: Path) -> None:
    digest = put_bytes(store, b"weights")
    path = root / "objects" / digest[:2] / digest[2:]
    os.utime(path, (1, 1))
    put_bytes(store, b"weights")
    assert path.stat().st_mtime > 1_000_000_000


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(min_size=1, max_size=300),
    damage=st.sampled_from(["flip", "cut", "extend", "swap"]),
    position=st.integers(0, 1 << 16),
)
def test_every_damage_to_an_object_is_noticed_when_it_is_read(
    tmp_path: Path, content: bytes, damage: str, position: int
) -> None:
    root = tmp_path / uuid.uuid4().hex
    store = LocalStore.create(root, Outside(), new_identity())
    digest = put_bytes(store, content)
    path = root / "objects" / digest[:2] / digest[2:]
    path.chmod(0o644)
    bad = bytearray(content)
    if damage == "flip":
        bad[position % len(bad)] ^= 1 << position % 8
    elif damage == "cut":
        del bad[position % len(bad) :]
    elif damage == "extend":
        bad += b"\0" * (position % 600 + 1)
    else:
        bad[:] = b"another object" + content
    path.write_bytes(bad)
    with pytest.raises(IntegrityError):
        store.get(digest)


def _link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def _pipe(path: Path, target: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path, target: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [_link, _pipe, _folder])
def test_what_is_no_plain_file_is_no_object_and_no_record(
    store: LocalStore, root: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "elsewhere").write_bytes(b"weights")
    digest = put_bytes(store, b"weights")
    store.publish(SPACE, FIRST, b"weights")
    for path in (
        root / "objects" / digest[:2] / digest[2:],
        root / "spaces/base/log/00000000000000000001.json",
    ):
        path.unlink()
        make(path, tmp_path / "elsewhere")
    with pytest.raises(IntegrityError):
        store.get(digest)
    with pytest.raises(IntegrityError):
        store.record(SPACE, FIRST)
    with pytest.raises((IntegrityError, PublishStateUnknownError)):
        store.publish(SPACE, FIRST, b"mine")
    assert store.size(digest) is None
    assert len(list(store.strays())) == (2 if make is not _folder else 0)


def test_putting_over_a_link_replaces_the_link_and_not_what_it_leads_to(
    store: LocalStore, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_bytes(b"canary")
    digest = put_bytes(store, b"weights")
    path = root / "objects" / digest[:2] / digest[2:]
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    store.put(b"weights", digest)
    assert store.get(digest) == b"weights"
    assert not path.is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"canary"


@pytest.mark.parametrize(
    "folder", ["objects", "spaces", "tmp", "objects/ab", "spaces/base", "spaces/base/log"]
)
def test_no_link_on_the_way_is_followed(
    store: LocalStore, root: Path, tmp_path: Path, folder: str
) -> None:
    content = next(b"%d" % n for n in count() if sha256(b"%d" % n).startswith("ab"))
    neighbour = next(b"%d" % n for n in count(100_000) if sha256(b"%d" % n).startswith("ab"))
    digest = put_bytes(store, content)
    store.publish(SPACE, FIRST, b"record")
    moved = tmp_path / "moved"
    (root / folder).rename(moved)
    (root / folder).symlink_to(moved)
    before = tree(moved)
    reopened = LocalStore(root, Outside())
    with pytest.raises(IntegrityError):
        reopened.put(neighbour, sha256(neighbour)) if folder.startswith(
            ("objects", "tmp")
        ) else reopened.publish(SPACE, CommitNumber(2), b"record 2")
    if folder.startswith("objects"):
        with pytest.raises(IntegrityError):
            reopened.get(digest)
    if folder.startswith("spaces"):
        with pytest.raises(IntegrityError):
            reopened.record(SPACE, FIRST)
    assert tree(moved) == before
    assert folder in list(reopened.strays())


def test_a_swapped_directory_never_leads_a_write_outside(
    store: LocalStore, root: Path, tmp_path: Path
) -> None:
    outside_tree = tmp_path / "outside"
    (outside_tree / "base" / "log").mkdir(parents=True)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "spaces").rename(root / "spaces.kept")
            (root / "spaces").symlink_to(outside_tree)
            (root / "spaces").unlink()
            (root / "spaces.kept").rename(root / "spaces")

    store.publish(SPACE, FIRST, b"1")
    swapper = threading.Thread(target=swap)
    swapper.start()
    refused = 0
    deadline = time.monotonic() + 60
    try:
        for number in count(2):
            try:
                store.publish(SPACE, CommitNumber(number), b"%d" % number)
            except (StoreError, IntegrityError):
                refused += 1
            if (refused >= 50 and number > 400) or time.monotonic() > deadline:
                break
    finally:
        stop.set()
        swapper.join(timeout=60)
    assert refused >= 50
    assert tree(outside_tree) == {
        "base": (stat.S_IFDIR | 0o755, None),
        "base/log": (stat.S_IFDIR | 0o755, None),
    }


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(root: Path) -> None:
    root.mkdir()
    (root / "thesis.docx").write_bytes(b"mine")
    before = tree(root)
    with pytest.raises(RefusedError, match=r"thesis\.docx"):
        LocalStore.create(root, Outside(), new_identity())
    assert tree(root) == before


def test_a_file_in_place_of_the_directory_is_refused(root: Path) -> None:
    root.write_bytes(b"mine")
    with pytest.raises(RefusedError, match="expected a directory"):
        LocalStore.create(root, Outside(), new_identity())


def test_a_registry_without_its_format_file_is_not_taken_for_an_empty_one(
    store: LocalStore, root: Path
) -> None:
    put_bytes(store, b"weights")
    (root / "FORMAT").unlink()
    with pytest.raises(RefusedError, match="FORMAT"):
        LocalStore.create(root, Outside(), new_identity())


def test_a_catalog_and_the_remains_of_a_dead_creator_are_no_obstacle(root: Path) -> None:
    for folder in ("objects", "spaces", "tmp"):
        (root / folder).mkdir(parents=True)
    (root / "tmp" / "litter").write_bytes(b"")
    for name in ("catalog.sqlite", "catalog.sqlite-journal"):
        (root / name).write_bytes(b"")
    identity = new_identity()
    assert LocalStore.create(root, Outside(), identity).identity == identity


def test_creating_twice_opens_the_first(store: LocalStore, root: Path) -> None:
    assert LocalStore.create(root, Outside(), new_identity()).identity == store.identity


@pytest.mark.parametrize("read_only", [True, False])
def test_opening_what_is_not_there_creates_nothing(tmp_path: Path, read_only: bool) -> None:
    with pytest.raises(NotFoundError, match="no registry"):
        LocalStore(tmp_path / "registry", Outside(), read_only=read_only)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: text.replace('"version":1', '"version":0'), FormatError),
        (lambda text: text.replace('"read":[]', '"read":["columns"]'), FormatError),
        (lambda text: text.replace("share_registry", "other"), FormatError),
        (lambda text: text[:-1], IntegrityError),
        (lambda text: text + "\n", IntegrityError),
        (lambda text: "", IntegrityError),
        (lambda text: text.replace("-", "_"), IntegrityError),
    ],
)
def test_a_format_file_that_this_release_cannot_read_is_named(
    store: LocalStore, root: Path, change: Callable[[str], str], error: type[Exception]
) -> None:
    (root / "FORMAT").chmod(0o644)
    (root / "FORMAT").write_text(change((root / "FORMAT").read_text()))
    with pytest.raises(error):
        LocalStore(root, Outside())


def test_the_short_way_to_the_identity_gives_what_the_model_gives(store: LocalStore) -> None:
    assert parse_format(store.format_bytes()).store == store.identity


def test_a_file_system_without_exclusive_names_is_refused_at_creation(root: Path) -> None:
    for system in (NoExclusiveNames(), Overwriting()):
        with pytest.raises(RefusedError, match="overwrite each other"):
            LocalStore.create(root, Outside(system=system), new_identity())
    assert not (root / "FORMAT").exists()
    assert list((root / "tmp").iterdir()) == []


def test_a_copy_that_lost_its_empty_directories_goes_on(store: LocalStore, root: Path) -> None:
    for folder in ("objects", "spaces", "tmp"):
        (root / folder).rmdir()
    copy = LocalStore(root, Outside())
    assert list(copy.objects()) == []
    assert copy.spaces() == []
    assert copy.publish(SPACE, FIRST, copy.get(put_bytes(copy, b"weights")))


def test_foreign_things_in_the_directory_are_listed(store: LocalStore, root: Path) -> None:
    digest = put_bytes(store, b"weights")
    store.publish(SPACE, FIRST, b"record")
    (root / "notes.txt").write_bytes(b"")
    (root / "catalog.sqlite").write_bytes(b"")
    (root / "tmp" / "0123").write_bytes(b"")
    (root / "objects" / "zz").write_bytes(b"")
    (root / "objects" / digest[:2] / "short").write_bytes(b"")
    (root / "spaces" / "base" / "log" / "1.json").write_bytes(b"")
    (root / "spaces" / "Base").write_bytes(b"")
    assert sorted(store.strays()) == [
        "notes.txt",
        f"objects/{digest[:2]}/short",
        "objects/zz",
        "spaces/Base",
        "spaces/base/log/1.json",
    ]
    assert [name for name, _ in store.objects()] == [digest]
    assert store.spaces() == ["base"]
    assert store.numbers(SPACE) == [1]


def test_a_store_opened_by_a_relative_path_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore.create(Path("registry"), Outside(), new_identity())
    monkeypatch.chdir("/")
    assert store.get(put_bytes(store, b"weights")) == b"weights"


def test_the_directory_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "registry").symlink_to(tmp_path / "big-disk")
    store = LocalStore.create(tmp_path / "registry", Outside(), new_identity())
    assert store.publish(SpaceName("base"), FIRST, store.get(put_bytes(store, b"weights")))


def _verbs(store: LocalStore) -> Iterator[Callable[[], object]]:
    yield lambda: store.put(b"x", sha256(b"x"))
    yield lambda: store.publish(SPACE, FIRST, b"x")
    yield lambda: store.sync_log(SPACE)


def test_a_store_open_for_reading_refuses_every_write(store: LocalStore, root: Path) -> None:
    reader = LocalStore(root, Outside(), read_only=True)
    assert reader.read_only
    assert not store.read_only
    before = tree(root)
    for verb in _verbs(reader):
        with pytest.raises(RefusedError, match="reading only"):
            verb()
    assert tree(root) == before
