"""Real media: a full one, a read-only one, and a tree that another user owns (P4, P22)."""

import ctypes
import os
import tempfile
from pathlib import Path

import pytest

from share_registry.errors import RefusedError, StoreError
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from tests.reliability.media import mounted
from tests.reliability.processes import fork, wait_for
from tests.reliability.scenarios import IDENTITY, SHARED
from tests.reliability.writer import Writer, keys_of

NOBODY = 65534


@pytest.mark.parametrize("size_kib", [64, 100, 160, 256])
def test_a_full_medium_refuses_a_commit_and_keeps_the_others(mount: Path, size_kib: int) -> None:
    mounted("-t", "tmpfs", "-o", f"size={size_kib}k", "none", str(mount))
    store = LocalStore.create(mount / "registry", Outside(), IDENTITY)
    acknowledged: list[str] = []
    with pytest.raises(StoreError, match="Free some space"):
        _fill(store, acknowledged)
    assert keys_of(store) == acknowledged
    assert list((mount / "registry" / "tmp").iterdir()) == []
    mounted("-o", "remount,size=8m", str(mount))
    Writer().commit(store, "after", [SHARED, os.urandom(9000)])
    assert keys_of(store) == [*acknowledged, "after"]


def _fill(store: LocalStore, acknowledged: list[str]) -> None:
    for number in range(100):
        Writer().commit(store, f"{number}", [SHARED, os.urandom(9000)])
        acknowledged.append(f"{number}")


def test_a_read_only_medium_can_be_read_and_nothing_else(mount: Path, tmp_path: Path) -> None:
    store = LocalStore.create(tmp_path / "registry", Outside(), IDENTITY)
    Writer().commit(store, "one", [SHARED])
    mounted("--bind", str(tmp_path / "registry"), str(mount))
    mounted("-o", "remount,ro,bind", str(mount))
    reader = LocalStore(mount, Outside(), read_only=True)
    assert keys_of(reader) == ["one"]
    assert list(reader.strays()) == []
    with pytest.raises(RefusedError):
        Writer().commit(reader, "two", [SHARED])
    with pytest.raises(StoreError, match="mode 'r'"):
        Writer().commit(LocalStore(mount, Outside()), "two", [b"new"])


def test_a_tree_of_another_user_can_be_read_and_not_written() -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    with tempfile.TemporaryDirectory() as top:
        root = Path(top) / "registry"
        Writer().commit(LocalStore.create(root, Outside(), IDENTITY), "one", [SHARED])
        for path in [Path(top), root, *root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)

        def as_nobody() -> None:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            assert keys_of(LocalStore(root, Outside(), read_only=True)) == ["one"]
            with pytest.raises(StoreError, match="permissions"):
                Writer().commit(LocalStore(root, Outside()), "two", [b"new"])
            with pytest.raises(StoreError):
                LocalStore.create(root / "other", Outside(), IDENTITY)

        assert wait_for(fork(as_nobody)) == 0
        assert keys_of(LocalStore(root, Outside())) == ["one"]


def test_exclusive_renaming_works_on_this_system(tmp_path: Path) -> None:
    from share_registry.outside.system import System

    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("this system has no renameat2")
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        System().rename_new(str(tmp_path / "a"), str(tmp_path / "b"))
    System().rename_new(str(tmp_path / "a"), str(tmp_path / "c"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
