"""What a copy in a repository of the Hub refuses, and what it notices.

`tests/exchange/hub.py` says which of the client's functions the stand-in was checked against.
"""

import json
import threading
from pathlib import Path

import pytest
from huggingface_hub import close_session

import share_registry as sr
from share_registry.exchange import hub_client
from share_registry.registry.transfer import hub_store
from tests.exchange.hub_state import Hub
from tests.reliability.copying import (
    LOG,
    adapter_of,
    commit_to,
    files_of,
    object_path,
)
from tests.reliability.hub_copying import (
    PLACE,
    READER,
    REPO,
    changed,
    commits,
    committing,
    kept,
    pull,
    push,
    run,
)

# how the client hands a file to its HTTP library
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_what_somebody_changed_in_the_repository_is_seen(
    hub: Hub, root: Path, tmp_path: Path
) -> None:
    sr.clone(root, PLACE)
    whole = hub.files(REPO)
    digest = adapter_of(root, "t0@v1")
    name = object_path(Path(), digest).as_posix()
    changed(hub, name, whole[name][:-1] + b"\0")
    space = sr.clone(PLACE, tmp_path / "a").spaces[1]
    assert digest in space.refused
    assert space.number < 6
    changed(hub, name, whole[name])
    # that which is to be put and there with other bytes, as the Hub says, is put again
    commit_to(root, "t2", 7)
    new = object_path(Path(), adapter_of(root, "t2@v1")).as_posix()
    changed(hub, new, b"other\0")
    assert push(root).ok
    assert kept(hub) == files_of(root)
    for number in (2, 7):
        record = f"{LOG}/{number:020d}.json"
        sound = hub.files(REPO)[record]
        changed(hub, record, sound.replace(b'"time":"2', b'"time":"3'))
        space = sr.clone(PLACE, tmp_path / f"b{number}").spaces[1]
        assert f"c{number}" in space.refused
        assert space.number == number - 1
        changed(hub, record, sound)


def test_what_the_hub_does_to_files_is_seen(hub: Hub, root: Path) -> None:
    hub.corrupting = lambda path, content: content if not path.endswith("1.json") else None
    with pytest.raises(sr.IntegrityError, match=r"000001\.json is not what was sent"):
        sr.clone(root, PLACE)


def test_what_was_refused_is_not_asked_for_by_other_threads(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_store, "_COMMIT_FILES", 2)
    hub.answers = {f"POST /api/models/{REPO}/commit": (400, "the repository is full")}
    with pytest.raises(sr.RefusedError, match="the repository is full"):
        sr.clone(root, PLACE)
    assert commits(hub) == 1


def test_who_may_not_is_told_so(
    hub: Hub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(sr.NotFoundError, match="is not on the Hub"):
        push(root)
    hub.push("ann/other", {"README.md": b"of ann"})
    with pytest.raises(sr.NotFoundError, match="there is no registry at hf://ann/other") as caught:
        sr.clone("hf://ann/other", tmp_path / "copy")
    assert "clone" in (caught.value.hint or "")
    with pytest.raises(sr.RefusedError, match="cannot be created"):
        sr.clone(root, "hf://bob/registry")
    sr.clone(root, PLACE)
    hub.private = {REPO}
    commit_to(root, "t2", 7)
    monkeypatch.setenv("HF_TOKEN", READER)
    for call in (push, pull):
        with pytest.raises(sr.NotFoundError, match="is not on the Hub") as caught:
            call(root)
        assert "log in" in (caught.value.hint or "")
    hub.private, hub.gated = set(), {REPO}
    with pytest.raises(sr.RefusedError, match="asks for access") as caught_refusal:
        pull(root)
    assert "Ask for it" in (caught_refusal.value.hint or "")
    hub.gated = set()
    with pytest.raises(sr.RefusedError, match="required permissions"):
        push(root)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(sr.RefusedError, match="no token"):
        push(root)
    # to read what is public none is needed
    assert sr.clone(PLACE, tmp_path / "public").ok


def test_another_registry_there_is_refused(hub: Hub, root: Path, tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "other") as other:
        identity = other.context.store.identity
    sr.clone(tmp_path / "other", PLACE)
    before = hub.files(REPO)
    for call in (push, pull, lambda root: sr.clone(root, PLACE)):
        with pytest.raises(sr.RefusedError, match=identity):
            call(root)
    assert hub.files(REPO) == before
    for name in ("open", "repair"):
        with pytest.raises(sr.InvalidInputError, match="is on the Hub") as caught:
            sr.Registry.open(PLACE) if name == "open" else sr.Registry.open(root).repair(PLACE)
        assert f"share-registry clone {PLACE} DIRECTORY" in (caught.value.hint or "")
    hub.push("ann/lost", {name: data for name, data in files_of(root).items() if name != "FORMAT"})
    with pytest.raises(sr.IntegrityError, match="no FORMAT"):
        sr.clone(root, "hf://ann/lost")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PLACE, f"{PLACE}@main"),
        (f"{PLACE}@main/a", f"{PLACE}/a/"),
        (f"hf://datasets/{REPO}", f"hf://datasets/{REPO}@main"),
    ],
)
def test_two_names_of_a_copy_are_one_place(one: str, other: str, hub: Hub) -> None:
    for source, target in ((one, other), (other, one)):
        with pytest.raises(sr.InvalidInputError, match="no copy of itself"):
            sr.clone(source, target)
    assert not hub.asked


def test_other_branches_and_kinds_are_other_places(hub: Hub, root: Path) -> None:
    sr.clone(root, PLACE)
    for place in (f"{PLACE}@next", f"{PLACE}/a", f"hf://datasets/{REPO}"):
        assert sr.clone(PLACE, place).ok


def test_a_hub_that_is_silent_is_not_waited_for(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sr.clone(root, PLACE)
    commit_to(root, "t2", 7)
    close_session()
    monkeypatch.setattr(hub_client, "SILENT_S", 0.5)
    answered = threading.Event()
    committing(hub, answered.wait)
    with pytest.raises(sr.StoreError, match="whether it was committed is not known"):
        push(root)
    answered.set()
    close_session()
    hub.before_commit = lambda: None


def test_the_command_line_copies_to_the_hub_and_back(hub: Hub, root: Path, tmp_path: Path) -> None:
    code, out, err = run("-R", root, "push", PLACE)
    assert (code, out) == (3, "")
    assert "log in" in err
    code, out, _ = run("clone", root, PLACE, "--dry-run")
    assert (code, hub.commits) == (0, {})
    code, _, err = run("clone", root, PLACE)
    assert (code, "LFS" in err) == (0, False)
    assert run("clone", PLACE, tmp_path / "copy")[0] == 0
    commit_to(tmp_path / "copy", "t2", 7)
    assert run("-R", tmp_path / "copy", "push", PLACE)[0] == 0
    code, out, _ = run("-R", root, "pull", PLACE, "--json")
    assert (code, json.loads(out)["records"]) == (0, 1)
    name = object_path(Path(), adapter_of(root, "t2@v1")).as_posix()
    changed(hub, name, b"other\0")
    code, out, err = run("clone", PLACE, tmp_path / "third")
    assert (code, "revert the commit" in err) == (5, True)
    code, _, err = run("-R", PLACE, "log")
    assert code == 2
    assert f"share-registry clone {PLACE} " in err
