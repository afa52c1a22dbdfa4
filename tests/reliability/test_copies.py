"""A registry is copied whole and in order, again and again, from any store to any other."""

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from typing_extensions import override

import share_registry as sr
from share_registry.cli.main import main
from share_registry.format.canonical import sha256
from share_registry.names import Digest
from share_registry.outside.files import Outside
from share_registry.store.blobs import MemoryStore
from share_registry.store.local import LocalStore
from share_registry.values.transfers import TransferReport
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.copying import (
    ELSEWHERE,
    LOG,
    adapter_of,
    commit_to,
    files_of,
    flip,
    object_path,
    push,
    store_of,
)
from tests.reliability.registries import opened
from tests.reliability.scenarios import NoFlush


def _exports(registry: sr.Registry, folder: Path) -> dict[str, str]:
    refs = [
        f"{task.space}/{task.name}@v{version}"
        for task in registry.tasks()
        for version in range(1, (task.version or 0) + 1)
    ]
    return {ref: registry.export(ref, folder, name=sha256(ref.encode())).digest for ref in refs}


def _pull(root: Path, source: Path) -> TransferReport:
    with opened(root, mode="w") as registry:
        return registry.pull(source)


def test_every_version_of_a_clone_is_the_same(root: Path, tmp_path: Path) -> None:
    report = sr.clone(root, tmp_path / "copy")
    assert report.ok
    assert files_of(tmp_path / "copy") == files_of(root)
    assert report.records == 7
    assert report.objects == len(list((root / "objects").rglob("*/*")))
    with sr.Registry.open(root) as registry, sr.Registry.open(tmp_path / "copy") as copy:
        assert _exports(copy, tmp_path / "b") == _exports(registry, tmp_path / "a")
        assert copy.resolve("t0@prod").version == 1
        assert copy.verify("deep").ok
        # it is a registry like any other
        copy.set_alias("t0@v2", "prod")


def test_a_copy_goes_through_any_store(root: Path, tmp_path: Path) -> None:
    with sr.Registry.open(root) as registry:
        memory = MemoryStore(registry.context.store.identity)
        assert registry.push(memory).records == 7
        assert sr.clone(memory, tmp_path / "copy").records == 7
    assert files_of(tmp_path / "copy") == files_of(root)
    with sr.Registry.open(store=memory) as held:
        assert held.verify("deep").ok


def test_only_what_is_new_travels(root: Path, tmp_path: Path) -> None:
    sr.clone(root, tmp_path / "copy")
    assert push(root, tmp_path / "copy").records == 0
    before = files_of(root)
    commit_to(root, "t2", 7)
    new = files_of(root).keys() - before.keys()
    planned = push(root, tmp_path / "copy", dry_run=True)
    assert files_of(tmp_path / "copy") == before
    report = push(root, tmp_path / "copy")
    assert report.spaces == planned.spaces
    assert report.records == 1
    assert report.objects == len(new) - 1
    assert report.bytes == sum(len(files_of(root)[name]) for name in new)
    assert files_of(tmp_path / "copy") == files_of(root)


def test_a_dry_run_of_a_clone_makes_nothing(root: Path, tmp_path: Path) -> None:
    planned = sr.clone(root, tmp_path / "copy", dry_run=True)
    assert not (tmp_path / "copy").exists()
    assert planned.spaces == sr.clone(root, tmp_path / "copy").spaces


def test_commits_of_a_copy_are_pulled_back(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    sr.clone(root, copy)
    commit_to(copy, "t2", 7)
    assert push(root, copy).spaces[1].ahead == 1
    with opened(root, mode="w") as registry:
        report = registry.pull(copy)
        assert (report.ok, report.records) == (True, 1)
        assert registry.resolve("t2").version == 1
        assert registry.verify("deep").ok


class ReadCounting(LocalStore):
    """A store that notes which objects are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, Outside(system=NoFlush()))
        self.read: list[Digest] = []
        self.listed = 0

    @override
    def get(self, digest: Digest, *, limit: int = 1 << 32) -> bytes:
        self.read.append(digest)
        return super().get(digest, limit=limit)

    @override
    def objects(self) -> Iterator[tuple[Digest, int]]:
        self.listed += 1
        return super().objects()


def test_of_what_the_target_has_nothing_is_read(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    sr.clone(root, copy)
    before = {name for name in files_of(root) if name.startswith("objects/")}
    with opened(root, mode="w") as registry:
        near = write_adapter(tmp_path / "near", seed=9, near=0)
        assert registry.commit(near, task="t0").created
    new = {name for name in files_of(root) if name.startswith("objects/")} - before
    assert new
    source = ReadCounting(root)
    with opened(copy, mode="w") as registry:
        assert registry.pull(source).records == 1
    read = {object_path(Path(), digest).as_posix() for digest in source.read}
    assert read == new
    assert source.listed == 0


def test_logs_that_have_diverged_are_left_alone_and_others_go_on(
    root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    sr.clone(root, copy)
    commit_to(root, "t2", 7)
    commit_to(copy, "t3", 8)
    with opened(root, mode="w") as registry:
        registry.set_policy(sr.Policy(budget=0.1), space=ELSEWHERE)
        heads = [registry.log(SPACE, limit=1)[0].id[:8]]
    with opened(copy, mode="r") as registry:
        heads.append(registry.log(SPACE, limit=1)[0].id[:8])
    before = files_of(copy)
    for report in (push(root, copy, dry_run=True), push(root, copy)):
        other, diverged = report.spaces
        assert not report.ok
        assert diverged.has_diverged
        assert all(head in diverged.refused for head in heads)
        assert "c6 is the last that both have" in diverged.refused
        assert (other.records, other.refused) == (1, "")
    after = files_of(copy)
    assert {name for name in after if after[name] != before.get(name)} == {
        f"spaces/{ELSEWHERE}/log/{2:020d}.json"
    }
    assert _pull(root, copy).spaces[1].has_diverged


@pytest.mark.parametrize("side", ["registry", "copy"])
def test_a_record_that_rotted_has_not_diverged(root: Path, tmp_path: Path, side: str) -> None:
    copy = tmp_path / "copy"
    sr.clone(root, copy)
    commit_to(root, "t2", 7)
    path = tmp_path / side / LOG / f"{6:020d}.json"
    os.chmod(path, 0o644)
    path.write_bytes(path.read_bytes().replace(b"prod", b"prxd"))
    space = push(root, copy).spaces[1]
    assert (space.records, space.has_diverged) == (0, False)
    assert "c6" in space.refused
    with opened(tmp_path / side, mode="w") as registry:
        assert registry.repair(root if side == "copy" else copy).ok
    assert push(root, copy).ok


def test_rot_in_a_copy_that_is_ahead_is_no_divergence(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    sr.clone(root, copy)
    commit_to(copy, "t2", 7)
    path = copy / LOG / f"{6:020d}.json"
    os.chmod(path, 0o644)
    path.write_bytes(path.read_bytes().replace(b"prod", b"prxd"))
    space = push(root, copy).spaces[1]
    assert not space.has_diverged
    assert "in the target, record c7" in space.refused


def test_a_record_that_was_changed_is_not_copied(root: Path, tmp_path: Path) -> None:
    path = root / LOG / f"{3:020d}.json"
    os.chmod(path, 0o644)
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b'"time":"2', b'"time":"3'))
    space = sr.clone(root, tmp_path / "copy").spaces[1]
    # by c4 it is seen that one of the two was
    assert (space.number, "c4" in space.refused) == (2, True)
    path.write_bytes(sound)
    assert push(root, tmp_path / "copy").ok
    assert files_of(tmp_path / "copy") == files_of(root)


def test_another_registry_is_refused(root: Path, tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "other") as other:
        identity = other.context.store.identity
    for call in (sr.clone, push, _pull):
        with pytest.raises(sr.RefusedError, match=identity):
            call(root, tmp_path / "other")
    with pytest.raises(sr.NotFoundError, match="no registry at"):
        push(root, tmp_path / "nowhere")
    with pytest.raises(sr.InvalidInputError, match="no copy of itself"):
        push(root, root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(sr.RefusedError):
        sr.clone(root, tmp_path / "full")
    with pytest.raises(sr.InvalidInputError, match="memory://"):
        sr.clone(root, "memory://")


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_a_damaged_object_ends_the_copy_before_its_record(
    root: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    digest = adapter_of(root, "t0@v2")
    content = object_path(root, digest).read_bytes()
    damage(object_path(root, digest))
    space = sr.clone(root, tmp_path / "copy").spaces[1]
    assert (space.number, space.records) == (3, 3)
    assert digest in space.refused
    assert "c4" in space.refused
    with sr.Registry.open(tmp_path / "copy") as copy:
        assert copy.verify("deep").ok
    object_path(root, digest).unlink(missing_ok=True)
    object_path(root, digest).write_bytes(content)
    report = push(root, tmp_path / "copy")
    assert (report.ok, report.records) == (True, 3)
    assert files_of(tmp_path / "copy") == files_of(root)


def test_a_damaged_layout_comes_from_its_second_copy(root: Path, tmp_path: Path) -> None:
    (spare,) = store_of(root).spares()[:1]
    before = files_of(root)
    flip(object_path(root, spare))
    assert sr.clone(root, tmp_path / "copy").ok
    assert files_of(tmp_path / "copy") == before
    assert store_of(tmp_path / "copy").spares() == store_of(root).spares()


def _run(*arguments: object) -> tuple[int, str, str]:
    """Run a command line; return its exit code and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def test_the_command_line_copies_and_says_what_it_did_not(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    code, out, _ = _run("clone", root, copy, "--dry-run")
    assert (code, out.splitlines()[0][:25]) == (0, "would copy 7 records and ")
    assert not copy.exists()
    assert _run("clone", root, copy)[0] == 0
    code, out, _ = _run("-R", root, "push", copy)
    assert (code, out.splitlines()[0]) == (0, f"copied nothing from {root} to {copy}")
    commit_to(copy, "t2", 7)
    assert "is ahead by 1 record" in _run("-R", root, "push", copy)[1]
    code, out, _ = _run("-R", root, "pull", copy, "--json")
    document = json.loads(out)
    assert (code, document["ok"], document["records"]) == (0, True, 1)
    assert [space["number"] for space in document["spaces"]] == [1, 7]
    commit_to(root, "t3", 8)
    commit_to(copy, "t3", 9)
    code, out, err = _run("-R", root, "push", copy)
    assert code == 4
    assert "copied nothing" in out
    assert "error: space tiny-model has diverged" in err
    flip(object_path(root, adapter_of(root, "t0@v2")))
    code, _, err = _run("clone", root, tmp_path / "another")
    assert code == 5
    assert "record c4 of space tiny-model needs object" in err
