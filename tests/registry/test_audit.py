"""The audit trail says what the records say, and holds them to checkpoints kept elsewhere."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.values.audits import Checkpoint
from tests.cli.tiny import SPACE, write_adapter
from tests.registry.conftest import Open


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A registry of several commits by two people."""
    with sr.Registry.open(tmp_path / "registry") as registry:
        for number, author in enumerate(("ada", "grace", "ada")):
            folder = write_adapter(tmp_path / "adapters" / f"t{number}", seed=number)
            registry.commit(folder, task=f"t{number}", author=author, message=f"run {number}")
        registry.set_alias("t0@v1", "prod", author="grace")
        registry.create_space("other", base_model="acme/other", author="ada")
    return tmp_path / "registry"


def _record(root: Path, number: int, space: str = SPACE) -> Path:
    return root / "spaces" / space / "log" / f"{number:020d}.json"


def test_the_trail_is_the_log_from_its_beginning(root: Path) -> None:
    with sr.Registry.open(root, mode="r") as registry:
        report = registry.audit()
        assert [commit.id for commit in report.commits] == [
            commit.id for commit in reversed(registry.log(limit=None))
        ]
        assert report.records == 6
        assert report.checkpoint == registry.checkpoint()
        by_grace = registry.audit(actor="grace").commits
        assert [commit.kind for commit in by_grace] == ["absorb", "alias"]
        assert [commit.kind for commit in registry.audit(SPACE, action="alias").commits] == [
            "alias"
        ]
        assert registry.audit(since="2100-01-01").commits == ()
        assert len(registry.audit(until="2100-01-01").commits) == 6


def test_a_checkpoint_is_text_and_back(root: Path) -> None:
    with sr.Registry.open(root, mode="r") as registry:
        checkpoint = registry.checkpoint()
        assert Checkpoint.of(str(checkpoint)) == checkpoint
        assert Checkpoint.of("\n" + checkpoint.text + "\r\n\n") == checkpoint
        assert [state.space for state in checkpoint.spaces] == sorted(["other", SPACE])
        assert [state.space for state in registry.checkpoint("other").spaces] == ["other"]


def test_what_came_behind_a_checkpoint_is_listed(open_registry: Open, tmp_path: Path) -> None:
    registry = open_registry()
    folder = write_adapter(tmp_path / "adapters" / "t0", seed=0)
    registry.commit(folder, task="t0")
    checkpoint = registry.checkpoint()
    assert registry.audit(since=checkpoint).commits == ()
    registry.set_alias("t0@v1", "prod")
    registry.create_space("later", base_model="acme/later")
    for since in (checkpoint, checkpoint.text):
        commits = registry.audit(since=since).commits
        assert [commit.kind for commit in commits] == ["alias", "create"]
    report = registry.audit(since=checkpoint)
    assert registry.audit(since=report.checkpoint).commits == ()


def _rewrite_last(root: Path) -> None:
    path = _record(root, 5)
    os.chmod(path, 0o644)
    path.write_bytes(path.read_bytes().replace(b'"prod"', b'"prob"'))


def _cut(root: Path) -> None:
    _record(root, 5).unlink()


def _lose_space(root: Path) -> None:
    _record(root, 1, "other").unlink()


@pytest.mark.parametrize("change", [_rewrite_last, _cut, _lose_space])
def test_a_log_that_was_rewritten_or_cut_does_not_hold_to_the_checkpoint(
    root: Path, change: Callable[[Path], None]
) -> None:
    """Without the catalog nothing else tells: every chain that begins with FORMAT is valid."""
    with sr.Registry.open(root, mode="r") as registry:
        checkpoint = registry.checkpoint()
    change(root)
    (root / "catalog.sqlite").unlink()
    # what the store noted of its last records would tell; who rewrites them rewrites that too
    with sr.Registry.open(root, mode="r") as registry, pytest.raises(sr.IntegrityError):
        registry.verify()
    for note in root.glob("catalog.sqlite.head-*"):
        note.unlink()
    with sr.Registry.open(root, mode="r") as registry:
        assert registry.verify().ok
        with pytest.raises(sr.IntegrityError, match="history was rewritten"):
            registry.audit(since=checkpoint)


def test_a_log_that_ends_before_what_the_catalog_knows_is_refused(root: Path) -> None:
    _cut(root)
    with (
        sr.Registry.open(root, mode="r") as registry,
        pytest.raises(sr.IntegrityError, match="c5 of space"),
    ):
        registry.audit()


def test_a_last_record_that_the_catalog_contradicts_is_refused(root: Path) -> None:
    for note in root.glob("catalog.sqlite.head-*"):
        note.unlink()
    _rewrite_last(root)
    with (
        sr.Registry.open(root, mode="r") as registry,
        pytest.raises(sr.IntegrityError, match="c5 of space"),
    ):
        registry.audit()


def test_a_changed_catalog_is_not_believed(root: Path) -> None:
    connection = sqlite3.connect(root / "catalog.sqlite")
    connection.execute("UPDATE sr_commits SET author = 'mallory', message = 'nothing'")
    connection.commit()
    connection.close()
    with sr.Registry.open(root, mode="r") as registry:
        report = registry.audit()
    assert {commit.author for commit in report.commits} == {"ada", "grace"}
    assert report.commits[1].message == "run 0"


def test_a_checkpoint_of_another_registry_is_refused(root: Path, tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "elsewhere") as registry:
        checkpoint = registry.checkpoint()
    with (
        sr.Registry.open(root, mode="r") as registry,
        pytest.raises(sr.InvalidInputError, match="is of store"),
    ):
        registry.audit(since=checkpoint)


def test_a_damaged_space_is_not_left_out_of_a_checkpoint(root: Path) -> None:
    _record(root, 1, "other").unlink()
    for catalog in root.glob("catalog.sqlite*"):
        catalog.unlink()
    path = _record(root, 2)
    os.chmod(path, 0o644)
    path.write_bytes(b"rotten")
    with sr.Registry.open(root, mode="r") as registry, pytest.raises(sr.IntegrityError):
        registry.checkpoint()


def test_a_checkpoint_that_lost_a_line_is_refused(root: Path) -> None:
    with sr.Registry.open(root, mode="r") as registry:
        lines = registry.checkpoint().text.splitlines()
        with pytest.raises(sr.InvalidInputError):
            registry.audit(since="\n".join(lines[:-1]))


def test_a_policy_that_no_record_gave_is_not_committed_under(root: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(root / "catalog.sqlite")
    connection.execute("UPDATE sr_spaces SET budget = 0.9")
    connection.commit()
    connection.close()
    with sr.Registry.open(root) as registry:
        for verb in (
            lambda: registry.commit(tmp_path / "adapters" / "t0", task="more", space=SPACE),
            lambda: registry.space(SPACE).refit(force=True),
            lambda: registry.prepare(tmp_path / "adapters" / "t0", task="more", space=SPACE),
        ):
            with pytest.raises(sr.IntegrityError, match="budget of the policy"):
                verb()
        registry.rebuild()
        assert registry.commit(tmp_path / "adapters" / "t0", task="more", space=SPACE).created


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM sr_commits WHERE number = 5",
        "UPDATE sr_spaces SET head = 99 WHERE name = 'tiny-model'",
        "DROP TABLE sr_touches",
    ],
)
def test_a_broken_catalog_is_not_called_sound(root: Path, statement: str) -> None:
    connection = sqlite3.connect(root / "catalog.sqlite")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with sr.Registry.open(root, mode="r") as registry:
        assert not registry.verify("quick", raise_on_damage=False).ok


@pytest.mark.parametrize("cut", [20, 60, 90, -3])
def test_half_a_checkpoint_is_refused(root: Path, cut: int) -> None:
    with sr.Registry.open(root, mode="r") as registry:
        text = registry.checkpoint().text[:cut]
        with pytest.raises(sr.InvalidInputError):
            registry.audit(since=text)
