"""Registries in repositories of the Hub, by huggingface_hub itself against a stand-in.

`tests/exchange/hub.py` says which of the client's functions the stand-in was checked against.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import snapshot_download

import share_registry as sr
from share_registry.exchange.hub_client import HubLocation
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, SpaceName
from share_registry.outside.files import Outside
from share_registry.registry.transfer import hub_store, space_copy
from share_registry.registry.transfer.hub_store import HubStore
from share_registry.store.protocol import KeptHead
from tests.cli.tiny import SPACE, write_adapter
from tests.exchange.hub_state import Hub, is_large
from tests.registry.purging import continued, versions
from tests.reliability.copying import (
    ELSEWHERE,
    LOG,
    adapter_of,
    commit_to,
    files_of,
    object_path,
)
from tests.reliability.hub_copying import (
    PLACE,
    REPO,
    TOKEN,
    commits,
    committing,
    kept,
    pull,
    push,
)
from tests.reliability.registries import opened

# how the client hands a file to its HTTP library
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def _exports(registry: sr.Registry, folder: Path) -> dict[str, str]:
    return {
        ref: registry.export(ref, folder, name=sha256(ref.encode())).digest
        for ref in versions(registry)
    }


@pytest.fixture(scope="module")
def aged(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a basis, merges, notes, and versions that were expired and purged."""
    top = tmp_path_factory.mktemp("aged")
    shutil.copytree(template, top, dirs_exist_ok=True)
    with opened(top / "registry", mode="w") as registry:
        space = registry.space(SPACE)
        space.refit(max_rank=2, force=True)
        space.merge({"t0@v1": 0.5, "t0@v2": 0.5}, task="merged")
        space.commit(continued(top / "t0", 1), task="t5", derived_from=["t0@v1"])
        space.commit(continued(top / "t0", 2), task="t5")
        space.annotate("t5@v2", labels={"seen": "yes"}, metrics={"acc": 0.5})
        space.tag("release", "@c3")
        space.expire(["t5@v1"], dry_run=False)
        space.purge("t1", dry_run=False)
        registry.gc(grace_days=0, dry_run=False)
    return top / "registry"


def test_a_registry_goes_to_the_hub_and_comes_back_as_it_was(
    hub: Hub, aged: Path, tmp_path: Path
) -> None:
    report = sr.clone(aged, PLACE)
    assert report.ok
    assert kept(hub) == files_of(aged)
    assert hub.visibility == {REPO: "private"}
    assert commits(hub) == 1
    title, description = hub.messages[REPO, hub.branches[REPO, "main"]]
    with opened(aged, mode="r") as registry:
        identity = registry.context.store.identity
        heads = {space: registry.log(space, limit=1)[0] for space in (ELSEWHERE, SPACE)}
    assert title == (
        f"share_registry: {report.records} records, {report.objects} objects of registry {identity}"
    )
    assert description.splitlines() == [
        f"{space}: c{head.number} {head.id}" for space, head in heads.items()
    ]
    again = sr.clone(PLACE, tmp_path / "copy")
    assert (again.records, again.objects) == (report.records, report.objects)
    assert files_of(tmp_path / "copy") == files_of(aged)
    with opened(aged, mode="r") as registry, sr.Registry.open(tmp_path / "copy") as copy:
        assert copy.verify("deep").ok
        assert copy.audit(since=registry.checkpoint()).commits == ()
        assert _exports(copy, tmp_path / "b") == _exports(registry, tmp_path / "a")
        assert copy.resolve(f"{SPACE}/t0@prod").version == 1


def test_what_the_client_downloads_is_a_registry(hub: Hub, root: Path, tmp_path: Path) -> None:
    sr.clone(root, PLACE)
    copy = tmp_path / "copy"
    snapshot_download(REPO, local_dir=copy, endpoint=hub.endpoint, token=TOKEN)
    shutil.rmtree(copy / ".cache")
    (copy / ".gitattributes").unlink()
    with opened(copy, mode="w") as registry:
        assert registry.verify("deep").ok
        registry.space(SPACE).set_alias("t0@v2", "prod")
    assert sr.clone(copy, PLACE).records == 1


@pytest.mark.parametrize(
    ("place", "repository", "branch", "folder"),
    [
        ("hf://ann/many@next/registries/a", "ann/many", "next", "registries/a/"),
        ("hf://datasets/ann/many", "datasets/ann/many", "main", ""),
    ],
)
def test_a_copy_may_be_in_a_folder_of_a_branch_or_in_a_data_set(
    place: str, repository: str, branch: str, folder: str, hub: Hub, root: Path, tmp_path: Path
) -> None:
    theirs = {"README.md": b"of ann", "objects/README.md": b"hers", "LOG.json": b"{}"}
    theirs[".gitignore"] = f"{folder}FORMAT".encode()
    main_head = hub.push(repository, theirs)
    assert sr.clone(root, place).ok
    assert kept(hub, repository, branch, folder) == files_of(root) | theirs
    assert (hub.branches[repository, "main"] == main_head) == (branch != "main")
    assert sr.clone(place, tmp_path / "copy").ok
    assert files_of(tmp_path / "copy") == files_of(root)
    # a commit and a tag are read, and not written
    commit = hub.branches[repository, branch]
    hub.tags[repository, "v1"] = commit
    pinned = HubLocation.parse(place)
    assert sr.clone(pinned.at(commit), tmp_path / "pinned").ok
    for revision in ("v1", commit):
        with pytest.raises(sr.InvalidInputError, match="expected a branch"):
            sr.clone(root, pinned.at(revision))
    with pytest.raises(sr.InvalidInputError, match="expected a branch"):
        sr.clone(root, pinned.at(commit), dry_run=True)


def test_only_what_is_new_travels_either_way(hub: Hub, root: Path, tmp_path: Path) -> None:
    sr.clone(root, PLACE)
    sr.clone(PLACE, tmp_path / "copy")
    hub.asked.clear()
    assert push(root).records == 0
    assert not [asked for asked in hub.asked if not asked.startswith("GET ")]
    assert not [asked for asked in hub.asked if "/objects/" in asked]
    before = files_of(root)
    commit_to(root, "t2", 7)
    new = files_of(root).keys() - before.keys()
    hub.asked.clear()
    sent = len(hub.received)
    planned = push(root, dry_run=True)
    assert kept(hub) == before
    report = push(root)
    assert report.spaces == planned.spaces
    assert report.objects == len(new) - 1
    assert report.bytes == sum(len(files_of(root)[name]) for name in new)
    assert kept(hub) == files_of(root)
    assert {*hub.received[sent:]} == {
        name.replace("/", "").removeprefix("objects")
        for name in new
        if is_large(name, files_of(root)[name])
    }
    hub.asked.clear()
    assert pull(tmp_path / "copy").records == 1
    read = {asked.partition(f"{hub.branches[REPO, 'main']}/")[2] for asked in hub.asked}
    assert {name for name in read if name.startswith("objects/")} == {
        name for name in new if name.startswith("objects/")
    }
    assert files_of(tmp_path / "copy") == files_of(root)


def test_commits_of_a_copy_come_back_through_the_hub(hub: Hub, root: Path, tmp_path: Path) -> None:
    sr.clone(root, PLACE)
    sr.clone(PLACE, tmp_path / "copy")
    commit_to(tmp_path / "copy", "t2", 7)
    assert push(tmp_path / "copy").records == 1
    assert push(root).spaces[1].ahead == 1
    assert pull(root).records == 1
    with opened(root, mode="r") as registry:
        assert registry.resolve("t2").version == 1
        assert registry.verify("deep").ok


def test_a_push_that_ends_anywhere_is_run_again(
    hub: Hub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_store, "_COMMIT_FILES", 3)
    monkeypatch.setattr(hub_store, "_MOST_FILES", 5)
    whole, point, stages = files_of(root), 0, {0}
    while True:
        hub.clear()
        hub.tokens = {TOKEN: {"ann"}}
        hub.failing_from = point
        try:
            sr.clone(root, PLACE)
        except sr.ShareRegistryError:
            hub.failing_from = None
        else:
            break
        left = kept(hub) if hub.is_repository(REPO) else {}
        assert left.items() <= whole.items()
        if "FORMAT" in left:
            copy = tmp_path / f"copy-{point}"
            assert sr.clone(PLACE, copy).ok
            with opened(copy, mode="r") as registry:
                assert registry.verify("data").ok
            shutil.rmtree(copy)
        stages.add(commits(hub))
        report = sr.clone(root, PLACE)
        assert report.ok
        assert kept(hub) == whole
        # what was sent is not sent again, what was committed is not looked at again
        assert len(hub.received) == len({*hub.received})
        assert report.objects == len([name for name in whole if name.startswith("objects/")]) - len(
            [name for name in left if name.startswith("objects/")]
        )
        point += 1
    assert len(stages) > 4


@pytest.mark.parametrize("most", [3, 5])
def test_a_push_that_ends_among_its_records_is_gone_on_with(
    most: int, hub: Hub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sr.clone(root, PLACE)
    monkeypatch.setattr(hub_store, "_MOST_FILES", most)
    # the end of the log is noted after every second record
    monkeypatch.setattr(space_copy, "_AT_ONCE", 2)
    with opened(root, mode="w") as registry:
        for number in range(5):
            registry.space(SPACE).set_alias("t0@v2", f"a{number}")
    request = f"POST /api/models/{REPO}/commit"
    committing(hub, lambda: hub.answers.update({request: (400, "the repository is full")}))
    with pytest.raises(sr.RefusedError, match="the repository is full"):
        push(root)
    hub.answers.clear()
    assert 0 < len(files_of(root).keys() - kept(hub).keys()) < 5
    assert sr.clone(PLACE, tmp_path / "part").ok
    assert push(root).ok
    assert kept(hub) == files_of(root)
    # the end that is noted is that of the log
    assert HubStore.open(PLACE, Outside(), mode="r").kept_head(SpaceName(SPACE)) == KeptHead(
        number=CommitNumber(11), id=sha256(kept(hub)[f"{LOG}/{11:020d}.json"])
    )
    assert sr.clone(PLACE, tmp_path / "copy").ok
    assert files_of(tmp_path / "copy") == files_of(root)


def test_the_commit_is_said_to_be_done(hub: Hub, root: Path) -> None:
    said: list[tuple[str, int, int]] = []
    sr.clone(root, PLACE, progress=lambda *done: said.append(done))
    assert said[-2:] == [(f"commit to {PLACE}", 0, 1), (f"commit to {PLACE}", 1, 1)]


def test_whoever_commits_other_files_meanwhile_keeps_them(hub: Hub, root: Path) -> None:
    def commits(name: str) -> Callable[[], object]:
        return lambda: hub.push(REPO, hub.files(REPO) | {name: b"hers"})

    committing(hub, commits("README.md"), commits("results/eval.json"))
    assert sr.clone(root, PLACE).ok
    assert kept(hub) == files_of(root) | {"README.md": b"hers", "results/eval.json": b"hers"}
    hub.before_commit = lambda: hub.push(REPO, hub.files(REPO), title="again and again")
    commit_to(root, "t2", 7)
    with pytest.raises(sr.ConflictError, match="meanwhile"):
        push(root)
    hub.before_commit = lambda: None
    assert push(root).records == 1


def test_what_is_removed_there_meanwhile_is_put_again(hub: Hub, root: Path) -> None:
    sr.clone(root, PLACE)
    before = hub.files(REPO)
    commit_to(root, "t2", 7)
    name = object_path(Path(), adapter_of(root, "t2@v1")).as_posix()
    # as an interrupted push leaves it
    hub.push(REPO, before | {name: files_of(root)[name]})
    committing(hub, lambda: hub.push(REPO, before))
    assert push(root).records == 1
    assert kept(hub) == files_of(root)


def test_hf_xet_sends_objects_where_it_is_installed(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    hub.xet = "result"
    # the server of hf_xet is another one
    hub.stored |= {sha256(content): content for content in files_of(root).values()}
    assert sr.clone(root, PLACE).ok
    assert kept(hub) == files_of(root)
    assert "POST /v2/shards" in hub.asked
    assert not [asked for asked in hub.asked if "info/lfs" in asked]


def test_much_is_sent_and_committed_in_pieces_records_last(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_store, "_COMMIT_FILES", 6)
    monkeypatch.setattr(hub_store, "_WAITING_BYTES", 1)
    report = sr.clone(root, PLACE)
    titles = [title.partition(" of ")[0] for title, _ in hub.messages.values()]
    assert len(titles) > 2
    pieces = [re.findall(r"(\d+) (?:record|object)s?", title) for title in titles]
    assert [records for records, _ in pieces] == ["0"] * (len(titles) - 1) + [str(report.records)]
    assert sum(int(objects) for _, objects in pieces) == report.objects
    # one by one: nothing waits in memory
    asked = [asked for asked in hub.asked if "/preupload/" in asked]
    assert len(asked) > report.objects


def test_two_pushes_at_once_are_as_good_as_one(hub: Hub, root: Path) -> None:
    sr.clone(root, PLACE)
    commit_to(root, "t2", 7)
    commit_to(root, "t2", 8)
    committing(hub, lambda: push(root))
    report = push(root)
    assert (report.ok, report.spaces[1].number) == (True, 8)
    assert kept(hub) == files_of(root)


def test_a_copy_that_is_pushed_meanwhile_is_not_overwritten(
    hub: Hub, root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    sr.clone(root, PLACE)
    sr.clone(root, copy)
    commit_to(root, "t2", 7)
    commit_to(copy, "t3", 8)
    with opened(root, mode="w") as registry:
        registry.set_policy(sr.Policy(budget=0.1), space=ELSEWHERE)
        heads = [registry.log(SPACE, limit=1)[0].id[:8]]
    with opened(copy, mode="r") as registry:
        heads.append(registry.log(SPACE, limit=1)[0].id[:8])
    committing(hub, lambda: push(copy))
    for report in (push(root), push(root, dry_run=True), pull(root)):
        other, diverged = report.spaces
        assert diverged.has_diverged
        assert all(head in diverged.refused for head in heads)
        assert other.refused == ""
    files = kept(hub)
    assert files[f"{LOG}/{7:020d}.json"] == (copy / LOG / f"{7:020d}.json").read_bytes()
    assert f"spaces/{ELSEWHERE}/log/{2:020d}.json" in files


def test_a_large_object_is_sent_by_lfs_and_let_go(
    hub: Hub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_store, "_WAITING_BYTES", 1 << 20)
    large = np.random.default_rng(0).integers(0, 256, 5 << 20, dtype=np.uint8).tobytes()
    folder = write_adapter(tmp_path / "large", seed=1)
    (folder / "notes.bin2").write_bytes(large)
    with opened(root, mode="w") as registry:
        registry.commit(folder, task="large", space=SPACE)
    assert sr.clone(root, PLACE).ok
    assert max(map(len, hub.stored.values())) >= 5 << 20
    assert sr.clone(PLACE, tmp_path / "copy").ok
    assert files_of(tmp_path / "copy") == files_of(root)
