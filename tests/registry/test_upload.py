"""Versions on the Hub, by the client of huggingface_hub itself against a stand-in.

`tests/exchange/hub.py` says which of the client's functions the stand-in was checked against.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import share_registry as sr
from share_registry.format.canonical import sha256
from tests.cli.tiny import BASE, SPACE, write_adapter
from tests.exchange.hub_state import ATTRIBUTES, Hub

TOKEN: Final = "hf_ofAnnWhoMayWrite0123456789"
READER: Final = "hf_ofBobWhoMayRead0123456789"
COLA: Final = "hf://ann/cola"
# how the client hands a file to its HTTP library
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def target(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The Hub, with a token of somebody who may write to ann/."""
    hub.tokens = {TOKEN: {"ann"}, READER: set()}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return hub


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a task, the first with a file that the second has not."""
    root = tmp_path_factory.mktemp("upload")
    with sr.Registry.open(root / "registry") as opened:
        for seed in (1, 2):
            directory = write_adapter(root / f"cola{seed}", seed=seed)
            (directory / f"notes{seed}.txt").write_text("read me")
            opened.commit(directory, task="cola")
    return root / "registry"


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> Iterator[sr.Registry]:
    """A copy of it for one test."""
    shutil.copytree(template, tmp_path / "registry")
    with sr.Registry.open(tmp_path / "registry") as opened:
        yield opened


def exported(registry: sr.Registry, ref: str, root: Path, **options: Any) -> dict[str, bytes]:
    path = registry.export(ref, root, **options).path
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_version_becomes_one_private_commit_with_the_files_of_its_export(
    target: Hub, registry: sr.Registry, tmp_path: Path
) -> None:
    uploaded = registry.upload("cola@v1", COLA, message="run 41")
    export = registry.export("cola@v1", tmp_path / "serve")
    assert target.files("ann/cola") == {
        ".gitattributes": ATTRIBUTES,
        **exported(registry, "cola@v1", tmp_path / "serve"),
    }
    assert target.visibility == {"ann/cola": "private"}
    commit = target.branches["ann/cola", "main"]
    title, description = target.messages["ann/cola", commit]
    assert title == f"share_registry: {SPACE}/cola@v1 ({export.digest[:12]})"
    assert description.splitlines() == ["run 41", "", f"digest: {export.digest}"]
    assert len([asked for asked in target.asked if "/commit/" in asked]) == 1
    assert (uploaded.location, uploaded.ref, uploaded.digest) == (
        f"{COLA}@main",
        f"{SPACE}/cola@v1",
        export.digest,
    )
    assert (uploaded.commit, uploaded.created, uploaded.unchanged) == (commit, True, False)
    assert uploaded.pinned == f"{COLA}@{commit}"
    assert f"`{SPACE}/cola@v1`" in target.files("ann/cola")["README.md"].decode()
    assert target.tokens_sent == {f"Bearer {TOKEN}", None}


def test_the_same_again_makes_no_commit(target: Hub, registry: sr.Registry) -> None:
    first = registry.upload("cola@v1", COLA)
    target.asked.clear()
    again = registry.upload("cola@v1", COLA)
    assert (again.unchanged, again.commit, again.parent) == (True, first.commit, first.commit)
    assert (again.created, again.written, again.removed) == (False, (), ())
    assert "has tiny-model/cola@v1 already" in str(again)
    assert not [asked for asked in target.asked if not asked.startswith("GET ")]


def test_the_next_version_replaces_the_files_of_the_one_before_and_no_others(
    target: Hub, registry: sr.Registry, tmp_path: Path
) -> None:
    first = registry.upload("cola@v1", COLA)
    files = target.files("ann/cola")
    theirs = {"eval.json": b"{}", "runs/notes1.txt": b"theirs"}
    between = target.push("ann/cola", files | theirs, title="results")
    second = registry.upload("cola@v2", COLA)
    assert (second.parent, second.removed) == (between, ("notes1.txt",))
    assert sorted(second.written) == [
        *("README.md", "adapter_model.safetensors", "notes2.txt"),
    ]
    assert target.files("ann/cola") == {
        ".gitattributes": ATTRIBUTES,
        **theirs,
        **exported(registry, "cola@v2", tmp_path / "serve"),
    }
    assert first.commit != second.commit
    # and back
    assert registry.upload("cola@v1", COLA).removed == ("notes2.txt",)


def test_a_folder_and_a_branch_are_uploaded_to_alone(
    target: Hub, registry: sr.Registry, tmp_path: Path
) -> None:
    main = target.push("ann/many", {"README.md": b"many adapters", "notes1.txt": b"theirs"})
    uploaded = registry.upload("cola@v1", "hf://ann/many@next/lora/cola")
    assert target.branches["ann/many", "main"] == main
    assert uploaded.created
    files = exported(registry, "cola@v1", tmp_path / "serve")
    assert target.files("ann/many", "next") == {
        "README.md": b"many adapters",
        "notes1.txt": b"theirs",
        **{f"lora/cola/{name}": content for name, content in files.items()},
    }
    assert uploaded.pinned == f"hf://ann/many@{uploaded.commit}/lora/cola"
    assert not registry.upload("cola@v1", "hf://ann/many@next/lora/cola").written
    # a folder beside it is another place
    assert registry.upload("cola@v2", "hf://ann/many@next/lora/other").removed == ()


def test_what_was_uploaded_is_read_back_as_the_same_version(
    target: Hub, registry: sr.Registry, tmp_path: Path
) -> None:
    uploaded = registry.upload("cola@v2", "hf://ann/many/cola")
    assert uploaded.pinned is not None
    (identity,) = registry.identify(uploaded.pinned)
    assert (identity.ref, identity.form) == (f"{SPACE}/cola@v2", "as exported")
    unchanged = registry.commit(uploaded.pinned, task="cola")
    assert (unchanged.created, unchanged.versions) == (False, {"cola": 2})
    fresh = registry.commit(uploaded.pinned, task="other", budget=0)
    assert registry.checkout("other").source.revision == uploaded.commit
    assert fresh.created
    first, again = (registry.export(ref, tmp_path / "serve").tensors for ref in ("cola", "other"))
    assert first == again


@pytest.mark.parametrize("profile", ["native", "portable"])
def test_the_files_are_those_of_the_profile(
    target: Hub, registry: sr.Registry, tmp_path: Path, profile: str
) -> None:
    uploaded = registry.upload("cola", COLA, profile=profile)
    files = exported(registry, "cola", tmp_path / "serve", profile=profile)
    assert files.items() <= target.files("ann/cola").items()
    assert uploaded.profile == profile


def test_a_base_model_is_named_in_config_and_card(target: Hub, registry: sr.Registry) -> None:
    registry.upload("cola", COLA, base_model="acme/Tiny")
    files = target.files("ann/cola")
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "acme/Tiny"
    assert 'base_model: "acme/Tiny"' in files["README.md"].decode()
    assert BASE not in files["README.md"].decode()
    with pytest.raises(sr.InvalidInputError, match="base_model changes the files"):
        registry.upload("cola", COLA, base_model="acme/Tiny", record=True)


def test_a_branch_that_moves_meanwhile_is_refused_whatever_the_hub_does_then(
    target: Hub, registry: sr.Registry
) -> None:
    head = registry.upload("cola@v1", COLA).commit
    theirs: list[str] = []

    def commit() -> None:
        theirs.append(target.push("ann/cola", target.files("ann/cola") | {"eval.json": b"{}"}))
        target.failing_from = len(target.asked)

    target.before_commit = commit
    with pytest.raises(sr.ConflictError, match=f"moved from {head} meanwhile") as refused:
        registry.upload("cola@v2", COLA)
    assert "upload again" in refused.value.hint
    assert target.branches["ann/cola", "main"] == theirs[0]
    target.before_commit, target.failing_from = lambda: None, None
    assert registry.upload("cola@v2", COLA).parent == theirs[0]


def test_a_branch_must_be_where_it_is_expected(target: Hub, registry: sr.Registry) -> None:
    with pytest.raises(sr.ConflictError, match=f"is at no commit, expected {'0' * 40}"):
        registry.upload("cola", COLA, expected="0" * 40)
    assert not target.is_repository("ann/cola")
    head = registry.upload("cola@v1", COLA).commit
    with pytest.raises(sr.ConflictError, match=f"is at {head}, expected {'0' * 40}"):
        registry.upload("cola@v2", COLA, expected="0" * 40)
    assert target.branches["ann/cola", "main"] == head
    assert registry.upload("cola@v2", COLA, expected=head).parent == head


def test_a_file_of_somebody_else_is_replaced_only_where_its_commit_is_named(
    target: Hub, registry: sr.Registry
) -> None:
    card = {"README.md": b"by hand", "notes1.txt": b"theirs"}
    head = target.push("ann/cola", card)
    with pytest.raises(
        sr.RefusedError, match=r"has README\.md, notes1\.txt, which no upload wrote"
    ) as refused:
        registry.upload("cola@v1", COLA)
    assert head in refused.value.hint
    assert target.files("ann/cola") == card
    assert "README.md" in registry.upload("cola@v1", COLA, expected=head).written
    # what was edited by hand since is somebody's again
    files = target.files("ann/cola") | {"README.md": b"edited", "notes1.txt": b"edited"}
    target.push("ann/cola", files)
    with pytest.raises(sr.RefusedError, match=r"has README\.md, which no upload wrote"):
        registry.upload("cola@v2", COLA)


def test_a_dry_run_writes_nothing(target: Hub, registry: sr.Registry) -> None:
    planned = registry.upload("cola@v1", COLA, dry_run=True)
    assert (planned.commit, planned.parent, planned.created) == (None, None, True)
    assert "would upload" in str(planned)
    assert not target.is_repository("ann/cola")
    registry.upload("cola@v1", COLA)
    target.asked.clear()
    planned = registry.upload("cola@v2", COLA, dry_run=True)
    assert (planned.removed, planned.created) == (("notes1.txt",), False)
    assert not [asked for asked in target.asked if not asked.startswith("GET ")]
    unchanged = registry.upload("cola@v1", COLA, dry_run=True)
    assert (unchanged.unchanged, unchanged.commit) == (True, unchanged.parent)


def test_a_repository_is_created_only_where_that_is_wanted(
    target: Hub, registry: sr.Registry
) -> None:
    with pytest.raises(sr.NotFoundError, match="is not on the Hub"):
        registry.upload("cola", COLA, create=False)
    assert not target.is_repository("ann/cola")
    registry.upload("cola", COLA, private=False)
    assert target.visibility == {"ann/cola": "public"}
    with pytest.raises(sr.NotFoundError, match="no branch 'next', only main"):
        registry.upload("cola", f"{COLA}@next", create=False)
    assert ("ann/cola", "next") not in target.branches
    target.tags["ann/cola", "v1"] = target.branches["ann/cola", "main"]
    with pytest.raises(sr.InvalidInputError, match="is a tag, expected a branch"):
        registry.upload("cola", f"{COLA}@v1")


def test_what_a_gitignore_there_names_is_uploaded_all_the_same(
    target: Hub, registry: sr.Registry
) -> None:
    target.push("ann/cola", {".gitignore": b"adapter_model.safetensors notes1.txt"})
    registry.upload("cola@v1", COLA)
    assert {"adapter_model.safetensors", "notes1.txt"} <= target.files("ann/cola").keys()


@pytest.mark.parametrize("name", ["README.md", "adapter_model.safetensors"])
@pytest.mark.parametrize("becomes", [None, b"x"], ids=["lost", "other"])
def test_bytes_that_are_not_those_uploaded_are_found(
    target: Hub, registry: sr.Registry, name: str, becomes: bytes | None
) -> None:
    target.corrupting = lambda path, content: becomes if path == name else content
    with pytest.raises(sr.IntegrityError) as found:
        registry.upload("cola", COLA)
    commit = target.branches["ann/cola", "main"]
    assert f"at {commit} {name} is " in found.value.message


def test_a_file_that_stays_though_it_was_removed_is_found(
    target: Hub, registry: sr.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.upload("cola@v1", COLA)
    before = target.files("ann/cola")["notes1.txt"]
    push = target.push

    def keeping(repository: str, files: dict[str, bytes], *rest: Any, **named: Any) -> str:
        return push(repository, files | {"notes1.txt": before}, *rest, **named)

    monkeypatch.setattr(target, "push", keeping)
    with pytest.raises(sr.IntegrityError, match=r"notes1\.txt is there still"):
        registry.upload("cola@v2", COLA)


def _answer(begin: str, status: int, said: str) -> Callable[[Hub], None]:
    return lambda hub: hub.answers.update({begin: (status, said)})


REFUSALS: Final[dict[str, tuple[Callable[[Hub], None], type[sr.ShareRegistryError], str]]] = {
    "bad token": (
        _answer(
            "GET /api/models/ann/cola/refs", 401, "Invalid credentials in Authorization header"
        ),
        sr.RefusedError,
        "Invalid credentials",
    ),
    "may not create": (
        _answer("POST /api/repos/create", 403, "You don't have the rights to create a model"),
        sr.RefusedError,
        "rights to create",
    ),
    "may not write": (
        _answer("POST /api/models/ann/cola/preupload", 403, "not the required permissions"),
        sr.RefusedError,
        "required permissions",
    ),
    "may not commit": (
        _answer("POST /api/models/ann/cola/commit", 403, "main is protected"),
        sr.RefusedError,
        "main is protected",
    ),
    "upload refused": (
        _answer("PUT /stored", 403, "Signature expired"),
        sr.RefusedError,
        "Signature expired",
    ),
    "over a limit": (
        _answer("POST /api/models/ann/cola/commit", 413, "storage limit reached"),
        sr.RefusedError,
        "storage limit reached",
    ),
    "bad request": (
        _answer("POST /api/models/ann/cola/commit", 400, "too many files"),
        sr.RefusedError,
        "too many files",
    ),
    "commit lost": (
        _answer("POST /api/models/ann/cola/commit", 502, "upstream"),
        sr.StoreError,
        "whether it was committed is not known",
    ),
    "listing fails": (
        _answer("GET /api/models/ann/cola/tree", 503, "overloaded"),
        sr.StoreError,
        "overloaded",
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSALS))
def test_what_the_hub_refuses_is_an_error_of_ours(
    target: Hub, registry: sr.Registry, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    arrange, kind, said = REFUSALS[case]
    arrange(target)
    with pytest.raises(kind, match=said) as refused:
        registry.upload("cola", COLA)
    assert type(refused.value) is kind
    assert refused.value.hint
    assert "hf://ann/cola@main" in refused.value.message
    assert "s3cr3t" not in str(refused.value)


def test_a_card_that_the_hub_refuses_says_how_to_name_the_base_model(
    target: Hub, registry: sr.Registry
) -> None:
    with pytest.raises(sr.RefusedError, match="Invalid metadata") as refused:
        registry.upload("cola", COLA, base_model="/models/tiny")
    assert "base_model='owner/name'" in refused.value.hint


def test_a_token_is_needed_and_never_shown(
    target: Hub, registry: sr.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.answers["GET /api/models/ann/cola/refs"] = (403, f"the token {TOKEN} was revoked")
    with pytest.raises(sr.RefusedError, match=r"the token \.\.\. was revoked") as refused:
        registry.upload("cola", COLA)
    assert TOKEN not in str(refused.value)
    target.answers.clear()
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(sr.RefusedError, match="read access") as refused:
        registry.upload("cola", COLA)
    assert "HF_TOKEN" in refused.value.hint
    monkeypatch.delenv("HF_TOKEN")
    target.asked.clear()
    with pytest.raises(sr.RefusedError, match="no token of the Hub here") as refused:
        registry.upload("cola", COLA)
    assert "hf auth login" in refused.value.hint
    assert target.asked == []


def test_a_token_is_sent_though_it_is_not_to_be_sent_unasked(
    target: Hub, registry: sr.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert registry.upload("cola", COLA).commit


def test_offline_mode_and_a_network_that_is_down_are_said(
    target: Hub, registry: sr.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(sr.StoreError, match="offline mode") as refused:
        registry.upload("cola", COLA)
    assert "HF_HUB_OFFLINE" in refused.value.hint
    assert target.asked == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(sr.StoreError, match="cannot be read") as refused:
        registry.upload("cola", COLA)
    assert "HF_ENDPOINT" in refused.value.hint


@pytest.fixture
def xet(target: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub for a client that has hf_xet."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    return target


def test_hf_xet_sends_the_large_file_where_it_is_installed(
    xet: Hub, registry: sr.Registry, tmp_path: Path
) -> None:
    files = exported(registry, "cola", tmp_path / "serve")
    weights = files["adapter_model.safetensors"]
    xet.xet = "result"
    # the server of hf_xet is another one
    xet.stored[sha256(weights)] = weights
    uploaded = registry.upload("cola", COLA)
    assert files.items() <= xet.files("ann/cola").items()
    assert "POST /v2/shards" in xet.asked
    assert not [asked for asked in xet.asked if "info/lfs" in asked]
    assert registry.upload("cola", COLA).commit == uploaded.commit


@pytest.mark.parametrize("frame", [None, "other"], ids=["no server", "broken off"])
def test_hf_xet_that_fails_is_an_error_of_ours(
    xet: Hub, registry: sr.Registry, frame: str | None
) -> None:
    xet.xet = frame
    with pytest.raises(sr.StoreError, match="cannot be written") as refused:
        registry.upload("cola", COLA)
    assert "GET /api/models/ann/cola/xet-write-token/main" in xet.asked
    assert "HF_HUB_DISABLE_XET" in refused.value.hint
    assert not [asked for asked in xet.asked if "/commit/" in asked]


PLACES: Final = [
    "ann/cola",
    "hf://ann",
    "hf://ann/cola/../x",
    "hf://datasets/ann/cola@x@y",
    f"hf://ann/cola@{'0' * 40}",
]


@pytest.mark.parametrize("location", PLACES)
def test_a_place_that_cannot_be_uploaded_to_is_refused_without_a_request(
    target: Hub, registry: sr.Registry, location: str
) -> None:
    with pytest.raises(sr.InvalidInputError, match="location"):
        registry.upload("cola", location)
    with pytest.raises(sr.InvalidInputError, match="40 hexadecimal digits"):
        registry.upload("cola", COLA, expected="main")
    assert target.asked == []


def test_an_upload_is_recorded_with_its_commit_on_the_hub(
    target: Hub, registry: sr.Registry
) -> None:
    with pytest.raises(sr.InvalidInputError, match="not recorded"):
        registry.upload("cola@v1", COLA, reason="CAB-77")
    planned = registry.upload("cola@v1", COLA, record=True, dry_run=True)
    assert (planned.recorded, len(registry.log())) == (None, 3)
    uploaded = registry.upload("cola@v1", COLA, record=True, reason="CAB-77", author="ada")
    assert uploaded.recorded == f"{SPACE}/@c4"
    commit = registry.log()[0]
    assert (commit.kind, commit.author, commit.message) == ("export", "ada", "CAB-77")
    assert commit.detail == (f"cola@v1 (native, {uploaded.digest[:8]}) to {COLA}@{uploaded.commit}")
    # the same again is an event of its own, of the same commit there
    again = registry.upload("cola@v1", COLA, record=True)
    assert (again.unchanged, again.recorded) == (True, f"{SPACE}/@c5")
    assert registry.verify("deep").ok


def test_the_large_file_is_sent_once_for_all_places(target: Hub, registry: sr.Registry) -> None:
    registry.upload("cola@v1", COLA)
    registry.upload("cola@v1", "hf://ann/other")
    weights = target.files("ann/other")["adapter_model.safetensors"]
    puts = [asked for asked in target.asked if asked.startswith("PUT ")]
    assert puts == [f"PUT /stored/{sha256(weights)}"]
