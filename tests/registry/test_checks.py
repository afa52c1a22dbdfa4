"""A policy names checks, who commits says what they are, and nothing comes in without them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import share_registry as sr
from share_registry.format.notes import Note
from share_registry.format.records import parse_record
from share_registry.names import SpaceName
from share_registry.registry.admission import VARIABLE, parse_check
from share_registry.values.imports import ImportStatus
from tests.cli.tiny import SPACE, write_adapter

SCAN: Final = sr.Policy(require=("scan",))
PASSES: Final = [sys.executable, "-c", "print('read', 3, 'files')"]
FAILS: Final = [sys.executable, "-c", "print('evil.pkl: os.system'); raise SystemExit(3)"]
LISTS: Final = [
    sys.executable,
    "-c",
    "import os, sys; print(' '.join(sorted(os.listdir(sys.argv[1]))))",
]


def see(directory: Path) -> str:
    """Pass whatever has tensors."""
    assert (directory / "adapter_model.safetensors").is_file()
    return "has tensors"


def refuse(directory: Path) -> str:
    raise ValueError(f"{len(list(directory.iterdir()))} files too many")


def note_of(registry: sr.Registry, number: int) -> dict[str, Any]:
    """Return what the note of a commit says of its first task."""
    store = registry.context.store
    record = parse_record(store.record(SpaceName(SPACE), number) or b"")  # type: ignore[arg-type]
    note = Note.from_bytes(store.get(record.note))  # type: ignore[arg-type]
    return note.tasks[0].model_dump(exclude_none=True)


def notes(commit: sr.Commit) -> tuple[str, ...]:
    assert commit.report is not None
    return commit.report.notes


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def create(place: Path, policy: sr.Policy = SCAN) -> None:
    with sr.Registry.open(place) as registry:
        registry.create_space(SPACE, base_model="tiny-org/Tiny-Model", policy=policy)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A registry whose space requires a check."""
    create(tmp_path / "registry")
    return tmp_path / "registry"


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    yield
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("check", "summary"), [(PASSES, "read 3 files"), (see, "has tensors")], ids=["command", "call"]
)
def test_what_is_required_is_run_and_stands_in_the_note(
    check: Any, summary: str, place: Path, adapter: Path
) -> None:
    with sr.Registry.open(place, checks={"scan@1.2": check}) as registry:
        commit = registry.commit(adapter)
        expected = [{"name": "scan", "version": "1.2", "summary": summary}]
        assert note_of(registry, commit.number)["checks"] == expected
        assert f"passed scan 1.2: {summary}" in notes(commit)
        assert notes(registry.show("cola@v1")) == notes(commit)
        store = registry.context.store
        record = json.loads(store.record(SpaceName(SPACE), commit.number) or b"")
        assert record["requires"] == ["commit-checks"]
        # what is checked out does not claim to have been checked when it is committed again
        again = registry.checkout("cola@v1")
        assert not any("scan" in remark for remark in again.remarks)
        assert registry.verify("deep").ok
        registry.rebuild()
        assert notes(registry.show("cola@v1")) == notes(commit)


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (FAILS, "exit status 3: evil.pkl: os.system"),
        (refuse, "files too many"),
        (["/no/such/scanner"], "No such file"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "exit status -9"),
    ],
    ids=["command", "call", "absent", "killed"],
)
def test_what_does_not_pass_is_refused_and_nothing_is_written(
    check: Any, reason: str, place: Path, adapter: Path
) -> None:
    before = names(place)
    with sr.Registry.open(place, checks={"scan": check}) as registry:
        for call in (registry.commit, registry.prepare):
            with pytest.raises(
                sr.RefusedError, match=r"^task cola: the adapter does not pass check scan"
            ) as caught:
                call(adapter)
            assert reason in caught.value.message
        with pytest.raises(sr.RefusedError, match="does not pass check scan"):
            registry.commit_many({"a": adapter, "b": adapter})
    assert names(place) == before


def test_a_check_that_is_not_known_here_refuses_every_way_in(
    place: Path, adapter: Path, tmp_path: Path
) -> None:
    with sr.Registry.open(place, checks={"scan": see}) as registry:
        registry.commit(adapter)
        ready = registry.prepare(write_adapter(tmp_path / "sst", seed=2))
    with sr.Registry.open(place) as registry:
        other = write_adapter(tmp_path / "qnli", seed=3)
        calls: dict[str, Callable[[], object]] = {
            "commit": lambda: registry.commit(other),
            "commit_many": lambda: registry.commit_many({"a": other}),
            "prepare": lambda: registry.prepare(other),
            "merge": lambda: registry.merge({"cola@v1": 0.5}, task="half"),
            "name again": lambda: registry.merge({"cola@v1": 1}, task="same"),
            "dry run": lambda: registry.commit(other, dry_run=True),
        }
        for call in calls.values():
            with pytest.raises(sr.RefusedError, match="requires scan, and what to run") as caught:
                call()
            assert "--check scan=COMMAND" in caught.value.hint
        report = registry.import_many([other], workers=1)
        assert [outcome.status for outcome in report.outcomes] == [ImportStatus.REFUSED]
        # what was checked where it was prepared comes in
        assert registry.publish(ready).created
        assert note_of(registry, 3)["checks"] == [{"name": "scan", "summary": "has tensors"}]


def test_what_was_prepared_before_the_policy_is_checked_when_it_is_published(
    tmp_path: Path, adapter: Path
) -> None:
    place = tmp_path / "registry"
    create(place, sr.Policy())
    with sr.Registry.open(place) as registry:
        ready = registry.prepare(adapter)
        registry.set_policy(SCAN, space=SPACE)
        with pytest.raises(sr.RefusedError, match="requires scan"):
            registry.publish(ready)
    with sr.Registry.open(place, checks={"scan": see}) as registry:
        commit = registry.publish(ready)
        assert note_of(registry, commit.number)["checks"]


def test_a_check_sees_the_files_that_would_be_kept(tmp_path: Path, adapter: Path) -> None:
    (adapter / "notes.txt").write_text("mine")
    place = tmp_path / "registry"
    create(place, sr.Policy(keep_original=True))
    with sr.Registry.open(place, checks={"list": LISTS}) as registry:
        commit = registry.commit(adapter)
        (check,) = note_of(registry, commit.number)["checks"]
        kept = {*check["summary"].split()}
        assert {"adapter_config.json", "adapter_model.safetensors", "notes.txt"} <= kept


def test_workers_run_the_checks_of_who_imports(place: Path, tmp_path: Path) -> None:
    sources = [write_adapter(tmp_path / f"t{seed}", seed=seed) for seed in range(4)]
    with sr.Registry.open(place, checks={"scan": PASSES}) as registry:
        report = registry.import_many(sources, workers=2)
        assert {outcome.status for outcome in report.outcomes} == {ImportStatus.COMMITTED}
        assert "passed scan: read 3 files" in notes(registry.show("t0@v1"))


def test_a_summary_is_short_and_on_one_line(place: Path, adapter: Path) -> None:
    def talk(_: Path) -> str:
        return "first\n" * 9 + "\x1b[31mred\x00\n" + "x" * 9_999 + "\ud800"

    with sr.Registry.open(place, checks={"scan": talk}) as registry:
        commit = registry.commit(adapter)
        (check,) = note_of(registry, commit.number)["checks"]
        assert len(check["summary"]) == 512
        assert check["summary"].isprintable()
        assert check["summary"].startswith("first / \N{REPLACEMENT CHARACTER}[31mred")


def test_the_environment_says_what_checks_are(
    place: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"\nscan@7={sys.executable} -c 'print(1)'\n")
    with sr.Registry.open(place) as registry:
        assert "passed scan 7: 1" in notes(registry.commit(adapter))
    monkeypatch.setenv(VARIABLE, "scan")
    with pytest.raises(sr.InvalidInputError, match="is not NAME=COMMAND"):
        sr.Registry.open(place)


def test_a_record_that_requires_checks_is_for_readers_that_know_it(place: Path) -> None:
    """Spec COM-14."""
    with sr.Registry.open(place) as registry:
        assert registry.space(SPACE).summary.policy == SCAN
        store = registry.context.store
        record = json.loads(store.record(SpaceName(SPACE), 1) or b"")  # type: ignore[arg-type]
        # names, and no code
        assert record["policy"]["require"] == ["scan"]
        assert record["requires"] == ["commit-checks"]
        registry.set_policy(sr.Policy(require=["b", "a", "b"]), space=SPACE)  # type: ignore[arg-type]
        assert registry.space(SPACE).summary.policy.require == ("a", "b")
        assert "requires a, b" in registry.log()[0].detail


@pytest.mark.parametrize("value", ["scan", ["Scan"], ["a b"], [""], [1], None, ["x"] * 17])
def test_what_names_no_checks_is_refused(value: Any) -> None:
    with pytest.raises(sr.InvalidInputError, match=r"^require "):
        sr.Policy(require=value)


@pytest.mark.parametrize(
    "checks",
    [
        {"Scan": see},
        {"": see},
        {"scan@": see},
        {"scan@a b": see},
        {"scan": "modelscan"},
        {"scan": []},
        {"scan": [1]},
        {"scan": None},
        {1: see},
        {"scan": see, "scan@2": see},
        [see],
    ],
)
def test_what_is_no_check_is_refused(checks: Any) -> None:
    with pytest.raises(sr.InvalidInputError, match=r"^check"):
        sr.Registry.open("memory://", checks=checks)


def open_with(text: str) -> None:
    sr.Registry.open("memory://", checks=dict([parse_check(text)]))


@pytest.mark.parametrize("text", ["", "scan", "scan=", "=x", "scan='a"])
def test_what_is_no_name_and_command_is_refused(text: str) -> None:
    with pytest.raises(sr.InvalidInputError, match=r"^check"):
        open_with(text)
