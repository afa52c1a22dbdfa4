"""A purged task is gone, seen by the bytes that are left, and nothing else changes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from share_registry.names import Digest, TaskName
from tests.registry.conftest import Open
from tests.registry.planted import write_planted
from tests.registry.purging import SECRET, exports_of, fill, holding, said_of, small, versions


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_planted(tmp_path_factory.mktemp("purge") / "adapters", 22, modules=2, width=96)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Path:
    """A registry of twenty tasks, to be copied."""
    root = tmp_path_factory.mktemp("twenty") / "registry"
    with sr.Registry.open(root, mode="c") as registry:
        fill(registry, folders)
    return root


@pytest.fixture
def filled(open_registry: Open, twenty: Path, tmp_path: Path) -> sr.Registry:
    """A copy of it, over either database."""
    shutil.copytree(twenty, tmp_path / "store", ignore=shutil.ignore_patterns("catalog.sqlite*"))
    return open_registry(mode="c")


def _check_gone(registry: sr.Registry, task: str, before: list[str], number: int) -> None:
    for ref in before:
        if f"/{task}@" in ref:
            with pytest.raises(sr.NotFoundError, match=f"c{number} purged it"):
                registry.checkout(ref)


@pytest.mark.parametrize("task", ["first", "called-otherwise", "child", "t19"])
def test_one_of_twenty_tasks_goes_and_the_others_stay(
    filled: sr.Registry, tmp_path: Path, task: str
) -> None:
    registry = filled
    before = versions(registry)
    exports = exports_of(registry, tmp_path / "before", without=task)
    said, log = said_of(registry, without=task), registry.log(limit=None)
    foreseen = registry.purge(task)
    assert foreseen.dry_run
    assert registry.log(limit=None) == log
    report = registry.purge(task, dry_run=False, reason="on request", author="ann")
    assert {item.digest for item in report.objects} == {item.digest for item in foreseen.objects}
    assert report.freed_bytes == foreseen.freed_bytes
    stored = sum(size for _, size in registry.context.store.objects())
    assert (report.before_bytes, report.after_bytes) == (foreseen.before_bytes, stored)
    # the note of the record itself comes on top
    assert 0 <= stored - foreseen.after_bytes < 200
    assert set(report.versions) == {ref for ref in before if f"/{task}@" in ref}
    commit = registry.log()[0]
    assert (commit.kind, commit.number, commit.message) == ("purge", report.commit, "on request")
    _check_gone(registry, task, before, commit.number)
    for item in report.objects:
        assert not registry.context.store.has(item.digest)
    assert exports_of(registry, tmp_path / "after", without=task) == exports
    assert said_of(registry, without=task) == said
    assert task not in {each.name for each in registry.tasks()}
    assert registry.verify("deep").ok
    assert registry.gc(grace_days=0).garbage == ()
    registry.rebuild()
    assert registry.verify("deep").ok
    assert exports_of(registry, tmp_path / "rebuilt", without=task) == exports
    assert said_of(registry, without=task) == said


def test_nothing_that_was_said_of_it_is_left_in_any_file(
    tmp_path: Path, folders: dict[str, Path], twenty: Path
) -> None:
    root = tmp_path / "registry"
    shutil.copytree(twenty, root)
    with sr.Registry.open(root) as registry:
        secret = SECRET.encode()
        originals = (folders["t00"] / "adapter_model.safetensors").read_bytes()[-512:]
        assert len(holding(root, secret, originals)) > 5
        report = registry.purge("first", dry_run=False, reason="on request")
        # a merge has the config of its first parent
        assert any("tiny/merged@v1" in line for line in report.kept)
        registry.purge("merged", dry_run=False)
        assert holding(root, secret, originals) == []
        # what the records say, and have to
        assert "first" in registry.log()[1].detail
        assert registry.verify("deep").ok
    with sr.Registry.open(root) as registry:
        registry.rebuild()
        assert holding(root, secret, originals) == []


def test_the_note_of_several_tasks_says_the_rest(filled: sr.Registry) -> None:
    registry = filled
    number = registry.show("t19@v1").number
    registry.purge("first", dry_run=False)
    for _ in range(2):
        commit = registry.show(f"@c{number}")
        assert (commit.message, commit.author) == ("two at once", registry.log()[0].author)
        assert registry.checkout("t19@v1").attachments == {}
        assert registry.resolve("t19@latest").version == 1
        # of a commit of the task alone, nothing is left
        assert registry.show("@c2").message == ""
        assert "purged" in registry.show("@c2").detail
        registry.rebuild()


def test_the_basis_that_only_it_used_goes(open_registry: Open, folders: dict[str, Path]) -> None:
    registry = open_registry(mode="c")
    registry.create_space("tiny", base_model="acme/tiny")
    for number in range(6):
        registry.commit(folders[f"t{number:02d}"], task=f"t{number:02d}", budget=0)
    registry.refit(max_rank=8, force=True)
    digest = registry.basis().digest
    registry.commit(folders["t06"], task="user")
    with registry.context.reading() as session:
        row = version_lookups.version_row(session, "tiny", "user", 1)
    assert row is not None
    assert digest in registry.context.reader().open(row.adapter_digest).stored.sources
    kept = registry.purge("t00", dry_run=False)
    assert any("fitted to t00 among others, stays" in line for line in kept.kept)
    assert registry.context.store.has(digest)
    registry.purge("user", dry_run=False)
    # nobody is stored with it, but it was not fitted to this task
    assert registry.context.store.has(digest)
    registry.purge("t01", dry_run=False)
    assert not registry.context.store.has(digest)
    with pytest.raises(sr.NotFoundError):
        registry.basis()
    assert registry.verify("deep").ok
    registry.commit(folders["t07"], task="later")
    registry.refit(max_rank=8, force=True)
    assert registry.verify("deep").ok


def test_a_task_comes_again_under_its_name(filled: sr.Registry, folders: dict[str, Path]) -> None:
    registry = filled
    newest = registry.resolve("first").version
    assert newest is not None
    registry.purge("first", dry_run=False)
    again = registry.commit(folders["t20"], task="first")
    assert again.version == newest + 1
    assert registry.checkout("first").tensors
    report = registry.purge("first", dry_run=False)
    assert report.versions == (again.ref,)
    assert registry.verify("deep").ok
    # there is nothing more to do
    number = len(registry.log(limit=None))
    empty = registry.purge("first", dry_run=False)
    assert (empty.versions, empty.objects, empty.commit) == ((), (), None)
    assert len(registry.log(limit=None)) == number


def test_what_another_space_has_stays_there(filled: sr.Registry, folders: dict[str, Path]) -> None:
    registry = filled
    registry.create_space("other", base_model="acme/tiny")
    registry.commit(folders["t03"], task="twin", space="other", allow_base_mismatch=True)
    with registry.context.reading() as session:
        here = version_lookups.version_row(session, "tiny", "t03", 1)
        there = version_lookups.version_row(session, "other", "twin", 1)
    assert here is not None
    assert there is not None
    report = registry.purge("tiny/t03", dry_run=False)
    assert registry.verify("deep").ok
    assert registry.checkout("other/twin").tensors
    if here.adapter_digest == there.adapter_digest:
        assert any("other/twin@v1 has the same" in line for line in report.kept)
    registry.purge("other/twin", dry_run=False)
    assert not registry.context.store.has(there.adapter_digest)
    assert registry.verify("deep").ok


def test_expired_versions_go_with_their_task(open_registry: Open, folders: dict[str, Path]) -> None:
    registry = open_registry(mode="c")
    registry.create_space("tiny", base_model="acme/tiny")
    registry.commit(folders["t00"], task="t00")
    registry.commit(folders["t01"], task="t00", budget=0)
    with registry.context.reading() as session:
        row = version_lookups.version_row(session, "tiny", "t00", 1)
    assert row is not None
    registry.commit(folders["t02"], task="t02")
    registry.expire("t00@v1", dry_run=False)
    assert registry.context.store.has(row.adapter_digest)
    registry.purge("t00", dry_run=False)
    assert not registry.context.store.has(row.adapter_digest)
    assert registry.verify("deep").ok


def test_another_catalog_forgets_too(
    tmp_path: Path, folders: dict[str, Path], twenty: Path
) -> None:
    """A reader with a catalog of its own, which has read what is purged."""
    root, own = tmp_path / "registry", f"sqlite:///{tmp_path / 'own.sqlite'}"
    shutil.copytree(twenty, root)
    with sr.Registry.open(root) as registry:
        with sr.Registry.open(own, store=root, mode="c") as reader:
            assert reader.show("first@v1").labels["owner"] == SECRET
        registry.purge("first", dry_run=False)
        registry.purge("merged", dry_run=False)
        registry.commit(folders["t20"], task="after", message=f"of {SECRET}")
        behind = sr.Registry.open(own, store=root, mode="r")
        assert behind.show("@c2").message == ""
        behind.close()
        with sr.Registry.open(own, store=root, mode="w") as reader:
            assert reader.show("@c2").message == ""
            assert reader.show("after").message == f"of {SECRET}"
            assert reader.verify("deep").ok
            assert reader.tasks(all_versions=True) == registry.tasks(all_versions=True)
        registry.purge("after", dry_run=False)
        with sr.Registry.open(own, store=root, mode="w") as reader:
            assert reader.spaces()
        assert holding(tmp_path, SECRET.encode()) == []


def test_a_copy_does_not_bring_it_back(tmp_path: Path, folders: dict[str, Path]) -> None:
    root = tmp_path / "registry"
    with sr.Registry.open(root, mode="c") as registry:
        small(registry, folders)
        shutil.copytree(root, tmp_path / "copy")
        purged = registry.purge("t00", dry_run=False)
        lost = registry.gc(grace_days=0)
        assert lost.garbage == ()
        with registry.context.reading() as session:
            row = version_lookups.version_row(session, "tiny", "t01", 1)
        assert row is not None
        registry.context.store.remove([Digest(row.adapter_digest)])
        report = registry.repair(tmp_path / "copy")
        assert report.ok == registry.context.store.has(row.adapter_digest)
        assert not any(registry.context.store.has(item.digest) for item in purged.objects)


def test_a_purge_is_refused_where_it_would_lose_something(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    root = tmp_path / "registry"
    with sr.Registry.open(root, mode="c") as registry:
        small(registry, folders)
        with registry.context.reading() as session:
            row = version_lookups.version_row(session, "tiny", "t02", 1)
        assert row is not None
        number = len(registry.log())
        registry.context.store.remove([Digest(row.adapter_digest)])
        with pytest.raises(sr.RefusedError, match="nothing is removed while"):
            registry.purge("t00", dry_run=False)
        assert len(registry.log()) == number
    with sr.Registry.open(root, mode="r") as registry:
        with pytest.raises(sr.RefusedError):
            registry.purge("t00", dry_run=False)
        with pytest.raises(sr.NotFoundError):
            registry.purge("nothing")


def test_what_comes_again_after_a_purge_is_built_upon(
    open_registry: Open, folders: dict[str, Path]
) -> None:
    """The same basis and the same adapter object, named by records behind the purge."""
    registry = open_registry(mode="c")
    registry.create_space("tiny", base_model="acme/tiny")
    for _ in range(2):
        for number in range(6):
            registry.commit(folders[f"t{number:02d}"], task=f"t{number:02d}", budget=0)
        registry.refit(max_rank=8, force=True)
        registry.purge("t00", dry_run=False)
        registry.commit(folders["t00"], task="t00", budget=0)
        registry.refit(max_rank=8, force=True)
        assert registry.commit(folders["t06"], task="user").version
        registry.purge("user", dry_run=False)
    assert registry.verify("deep").ok


def test_a_purge_may_say_what_an_earlier_commit_said(
    open_registry: Open, folders: dict[str, Path]
) -> None:
    registry = open_registry(mode="c")
    small(registry, folders)
    registry.drop("t00", reason="request 1234")
    registry.purge("t00", dry_run=False, reason="request 1234")
    assert registry.log()[0].message == "request 1234"
    registry.rebuild()
    assert registry.log()[0].message == "request 1234"
    assert registry.verify("deep").ok


def test_a_space_of_which_nothing_is_left_is_sound(
    open_registry: Open, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    registry = open_registry(mode="c")
    registry.create_space("tiny", base_model="acme/tiny")
    registry.commit(folders["t00"], task="t00")
    registry.purge("t00", dry_run=False)
    assert registry.verify("deep").ok
    registry.rebuild()
    assert registry.verify("deep").ok
    assert "cannot be read" not in caplog.text
    registry.commit(folders["t01"], task="t00")
    assert registry.verify("deep").ok


def test_a_message_of_several_tasks_goes_with_the_last(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    root = tmp_path / "registry"
    with sr.Registry.open(root, mode="c") as registry:
        registry.commit_many({"a": folders["t00"], "b": folders["t01"]}, message=SECRET)
        registry.commit(folders["t02"], task="c")
        report = registry.purge("a", dry_run=False)
        assert any("The message of" in line for line in report.kept)
        assert registry.show("@c2").message == SECRET
        # it comes again, and is another's business
        registry.commit(folders["t03"], task="a")
        registry.purge("b", dry_run=False)
        assert holding(root, SECRET.encode()) == []
        assert registry.checkout("a").tensors
        assert registry.verify("deep").ok


def test_a_catalog_behind_a_purge_is_no_damage(tmp_path: Path, folders: dict[str, Path]) -> None:
    root, own = tmp_path / "registry", f"sqlite:///{tmp_path / 'own.sqlite'}"
    with sr.Registry.open(root, mode="c") as registry:
        small(registry, folders)
        sr.Registry.open(own, store=root, mode="c").close()
        registry.purge("t00", dry_run=False)
        for mode in ("r", "w"):
            with sr.Registry.open(own, store=root, mode=mode) as reader:
                assert reader.verify("deep").ok


def test_text_that_no_record_names_is_pointed_at(tmp_path: Path, folders: dict[str, Path]) -> None:
    with sr.Registry.open(tmp_path / "registry", mode="c") as registry:
        small(registry, folders)
        registry.prepare(folders["t03"], task="t00")
        report = registry.purge("t00", dry_run=False)
        assert any("gc --grace-days 0" in line for line in report.kept)


def test_what_an_earlier_purge_stored_anew_is_not_stored_anew_again(
    open_registry: Open, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Others still refer to rows of its old object, which are its own and no part of the task."""
    apart = write_planted(tmp_path / "apart", 2, modules=2, width=96, shared=2, noise=0.005, seed=5)
    half = tmp_path / "half"
    shutil.copytree(folders["t00"], half)
    name = "adapter_model.safetensors"
    tensors, others = load_file(half / name), load_file(apart["t00"] / name)
    for key, values in tensors.items():
        part = np.s_[2:] if "lora_A" in key else np.s_[:, 2:]
        values[part] = others[key][part]
    save_file(tensors, half / name, metadata={"format": "pt"})
    registry = open_registry(mode="c")
    registry.create_space("tiny", base_model="acme/tiny")
    registry.commit(folders["t00"], task="purged")
    registry.commit(half, task="half")
    registry.commit(apart["t01"], task="apart")
    with registry.context.reading() as session:
        rows = {row.task: row.adapter_digest for row in version_lookups.all_versions(session)}
    sources = registry.context.reader().open(rows[TaskName("apart")]).stored.sources
    assert (rows[TaskName("half")] in sources, rows[TaskName("purged")] in sources) == (True, False)
    anchored = registry.purge("purged", dry_run=False).anchored
    assert [version.ref for version in anchored] == ["tiny/half@v1"]
    assert registry.purge("purged", dry_run=False).anchored == ()
    registry.commit(folders["t20"], task="purged", budget=0)
    assert registry.purge("purged", dry_run=False).anchored == ()
    assert registry.context.store.has(rows[TaskName("half")])
    assert registry.verify("deep").ok
