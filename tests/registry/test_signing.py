"""Signed checkpoints hold the history to what was signed, and signed exports can be checked."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import share_registry as sr
from share_registry.names import CommitNumber
from share_registry.outside.files import Outside
from share_registry.values.audits import Checkpoint
from tests.cli.tiny import SPACE, write_adapter
from tests.keys import write_keys
from tests.registry.conftest import Open

pytest.importorskip("model_signing", reason="needs the extra [signing]")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "key")


@pytest.fixture
def registry(open_registry: Open, tmp_path: Path) -> sr.Registry:
    """A registry whose last commit is the move of an alias."""
    registry = open_registry()
    registry.commit(write_adapter(tmp_path / "adapters" / "cola", seed=1), task="cola")
    registry.set_alias("cola@v1", "prod", author="ada")
    return registry


def _last_record(tmp_path: Path) -> Path:
    return max((tmp_path / "store" / "spaces" / SPACE / "log").iterdir())


def _rewrite_last(path: Path) -> None:
    os.chmod(path, 0o644)
    path.write_bytes(path.read_bytes().replace(b'"prod"', b'"prob"'))


def test_a_signed_checkpoint_holds_the_history_to_it(
    registry: sr.Registry, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    checkpoint = registry.checkpoint(sign=private, expires="30d")
    assert registry.audit(since=checkpoint, key=public).commits == ()
    file = checkpoint.save(tmp_path / "head.txt")
    registry.set_alias("cola@v1", "staging")
    assert Checkpoint.load(file) == checkpoint
    report = registry.audit(since=Checkpoint.load(file), key=public)
    assert [commit.kind for commit in report.commits] == ["alias"]
    assert (report.checkpoint.expires, report.checkpoint.signature) == (None, None)


@pytest.mark.parametrize("change", [_rewrite_last, Path.unlink])
def test_a_last_record_that_was_rewritten_or_removed_is_seen_without_any_index(
    registry: sr.Registry,
    keys: tuple[Path, Path],
    tmp_path: Path,
    change: Callable[[Path], None],
    new_catalog_url: Callable[[str], str],
) -> None:
    """Whoever can write the store can write what is noted of it; the signature is not theirs."""
    checkpoint = registry.checkpoint(sign=keys[0], expires="1h")
    change(_last_record(tmp_path))
    for note in tmp_path.rglob("*.head-*"):
        note.unlink()
    with sr.Registry.open(new_catalog_url("rebuilt"), store=tmp_path / "store") as rebuilt:
        # every chain that begins with FORMAT is valid
        assert rebuilt.verify().ok
        with pytest.raises(sr.IntegrityError, match="history was rewritten"):
            rebuilt.audit(since=checkpoint, key=keys[1])


def _older(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, expires=None)


def _later(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, expires="2999-01-01T00:00:00.000000Z")


def _shorter(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, spaces=())


def _back(checkpoint: Checkpoint) -> Checkpoint:
    (state,) = checkpoint.spaces
    return replace(checkpoint, spaces=(replace(state, number=CommitNumber(state.number - 1)),))


@pytest.mark.parametrize("change", [_older, _later, _shorter, _back])
def test_a_checkpoint_that_is_not_what_was_signed_is_refused(
    registry: sr.Registry,
    keys: tuple[Path, Path],
    change: Callable[[Checkpoint], Checkpoint],
) -> None:
    checkpoint = registry.checkpoint(sign=keys[0], expires="30d")
    with pytest.raises(sr.IntegrityError, match="the checkpoint is not what key"):
        registry.audit(since=change(checkpoint), key=keys[1])


def test_a_checkpoint_must_be_signed_by_whom_it_is_said(
    registry: sr.Registry, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    strange, _ = write_keys(tmp_path, "strange")
    with pytest.raises(sr.IntegrityError, match="Key mismatch"):
        registry.audit(since=registry.checkpoint(sign=strange), key=keys[1])
    for unsigned in (registry.checkpoint(), registry.checkpoint(expires="1d").text):
        with pytest.raises(sr.RefusedError, match="is not signed"):
            registry.audit(since=unsigned, key=keys[1])
    with pytest.raises(sr.RefusedError, match="not said whose"):
        registry.audit(since=registry.checkpoint(sign=keys[0]))
    for since in (None, "2000-01-01"):
        with pytest.raises(sr.InvalidInputError, match="none is given"):
            registry.audit(since=since, key=keys[1])
    with pytest.raises(sr.InvalidInputError, match="parts of both"):
        registry.audit(since=registry.checkpoint(), identity="ada@example.org")


@pytest.mark.parametrize("sign", [True, False])
def test_an_expired_checkpoint_is_refused(
    registry: sr.Registry, keys: tuple[Path, Path], sign: bool
) -> None:
    options: dict[str, Any] = {"sign": keys[0]} if sign else {}
    key = keys[1] if sign else None
    past = registry.checkpoint(expires=timedelta(microseconds=1), **options)
    with pytest.raises(sr.RefusedError, match="has expired"):
        registry.audit(since=past, key=key)
    assert not registry.audit(
        since=registry.checkpoint(expires=timedelta(hours=1), **options), key=key
    ).commits
    # what the hint says: its lines without the time, unsigned
    assert not registry.audit(since=replace(past, expires=None, signature=None)).commits


@pytest.mark.parametrize(
    "expires", ["", "30", "0d", "-1d", "1y", "1.5d", "30 d", "²d", timedelta(0), timedelta.max]
)
def test_a_length_of_time_that_is_none_is_refused(
    registry: sr.Registry, expires: str | timedelta
) -> None:
    with pytest.raises(sr.InvalidInputError) as caught:
        registry.checkpoint(expires=expires)
    assert caught.value.hint


def test_a_checkpoint_is_saved_in_place_of_a_checkpoint_and_of_nothing_else(
    registry: sr.Registry, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint, file = registry.checkpoint(sign=keys[0]), tmp_path / "head.txt"
    for _ in range(2):
        assert checkpoint.save(file) == file
    for taken in (file, tmp_path / "head2.txt.sig"):
        taken.write_text("somebody else's")
        with pytest.raises(sr.RefusedError, match="no checkpoint"):
            checkpoint.save(Path(str(taken).removesuffix(".sig")))
        assert taken.read_text() == "somebody else's"
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(sr.InvalidInputError, match="holds no checkpoint"):
        Checkpoint.load(file)
    with pytest.raises(sr.NotFoundError):
        Checkpoint.load(tmp_path / "none")


def test_a_checkpoint_that_a_mail_broke_up_is_still_the_signed_one(
    registry: sr.Registry, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    file = registry.checkpoint(sign=keys[0]).save(tmp_path / "head.txt")
    file.write_bytes(b"\r\n  " + file.read_bytes().replace(b"\n", b" \r\n\r\n"))
    assert registry.audit(since=Checkpoint.load(file), key=keys[1]).commits == ()


def test_a_reader_signs_an_export(
    registry: sr.Registry, keys: tuple[Path, Path], open_registry: Open, tmp_path: Path
) -> None:
    del registry
    with open_registry(mode="r") as reader:
        forms: tuple[dict[str, Any], ...] = ({}, {"profile": "portable"}, {"name": "live"})
        for options in forms:
            export = reader.export("cola", tmp_path / "serve", sign=keys[0], **options)
            report = sr.verify_export(export.path, key=keys[1])
            assert report.digest == export.digest
            assert report.signature == export.signature == Path(f"{export.path}.sig")
        assert reader.export("cola", tmp_path / "plain").signature is None
        inside = reader.export("cola", tmp_path / "itself", name="", sign=keys[0])
        assert inside.signature == tmp_path / "itself.sig"
        # the same again is success, and signed again
        assert reader.export("cola", tmp_path / "itself", name="", sign=keys[0]) == inside
        assert sr.verify_export(tmp_path / "itself", key=keys[1]).digest == inside.digest


def test_with_a_bad_key_nothing_is_exported(registry: sr.Registry, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(sr.InvalidInputError, match="no private key"):
        registry.export("cola", tmp_path / "serve", sign=tmp_path / "bad.pem")
    assert not (tmp_path / "serve").exists()


def test_an_export_that_cannot_be_signed_is_said_to_be_there(
    registry: sr.Registry, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "serve").mkdir()
    (tmp_path / "serve" / "live.sig").write_text("somebody else's")
    with pytest.raises(sr.RefusedError, match=r"live was exported and not signed: .*no signature"):
        registry.export("cola", tmp_path / "serve", name="live", sign=keys[0])
    assert (tmp_path / "serve" / "live" / "adapter_config.json").exists()


def test_what_changes_between_writing_and_signing_is_not_signed(
    keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who can write the target swaps the file under the signer's hand."""
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), task="cola")
        renamed = Outside.rename_directory

        def swap(outside: Outside, source: Path, target: Path) -> bool:
            moved = renamed(outside, source, target)
            (target / "README.md").write_text("mine")
            return moved

        monkeypatch.setattr(Outside, "rename_directory", swap)
        with pytest.raises(sr.IntegrityError, match=r"not signed: .*changed by somebody else"):
            registry.export("cola", tmp_path / "serve", name="live", sign=keys[0])
    assert not (tmp_path / "serve" / "live.sig").exists()
