"""Signatures by model-signing: what was signed is accepted, and nothing that differs by a byte.

Every case of a directory is also put to the command `model_signing`, which must say the same.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import share_registry as sr
from share_registry.exchange.signatures import Bundle, Signer, place_signature
from share_registry.format.canonical import sha256
from share_registry.outside.files import Outside
from tests.keys import write_keys, write_pair

pytest.importorskip("model_signing", reason="needs the extra [signing]")
FILES = {
    "README.md": b"card\n",
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": bytes(1000),
}
(COMMAND,) = entry_points(group="console_scripts", name="model_signing")


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A signed directory, with the keys of who signed it and of somebody else."""

    path: Path
    signature: Path
    key: Path
    public: Path
    strange: Path


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    key, public = write_keys(tmp_path, "key")
    path = tmp_path / "cola-v3"
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    signature = tmp_path / "cola-v3.sig"
    outside = Outside()
    place_signature(Signer.open(key, outside).sign(path, _digests()), signature, outside)
    return Signed(
        path=path,
        signature=signature,
        key=key,
        public=public,
        strange=write_keys(tmp_path, "strange")[1],
    )


def _digests() -> dict[str, Any]:
    return {name: sha256(content) for name, content in FILES.items()}


def _command(*arguments: object) -> bool:
    """Run the command, in this process, and tell whether it succeeds."""
    return CliRunner().invoke(COMMAND.load(), [*map(str, arguments)]).exit_code == 0


def _accepted(signed: Signed, **options: Any) -> bool:
    """Tell whether it is accepted, here and by the command alike."""
    key = options.get("key", signed.public)
    theirs = _command(
        *("verify", "key", signed.path, "--signature", signed.signature, "--public_key", key),
        "--no-ignore-git-paths",
    )
    try:
        sr.verify_export(signed.path, key=key)
    except sr.IntegrityError:
        assert not theirs
        return False
    assert theirs
    return True


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_what_was_signed_is_accepted(tmp_path: Path, curve: str) -> None:
    key, public = write_keys(tmp_path, "key", curve)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_bytes(b"content")
    digests = {"file": sha256(b"content")}
    bundle = Signer.open(key, Outside()).sign(tmp_path / "x", digests)
    place_signature(bundle, tmp_path / "x.sig", Outside())
    report = sr.verify_export(tmp_path / "x", key=public)
    assert (report.files, report.signature) == (1, tmp_path / "x.sig")
    assert str(public) in str(report)


def test_one_changed_byte_is_seen(signed: Signed) -> None:
    assert _accepted(signed)
    for name, content in FILES.items():
        for position in {0, len(content) // 2, len(content) - 1}:
            changed = bytearray(content)
            changed[position] ^= 1
            (signed.path / name).write_bytes(changed)
            assert not _accepted(signed), name
        (signed.path / name).write_bytes(content)
    assert _accepted(signed)


def _add_below(path: Path) -> None:
    (path / "below").mkdir()
    (path / "below" / "x").touch()


def _link_in_place(path: Path) -> None:
    (path / "README.md").rename(path.parent / "away")
    (path / "README.md").symlink_to(path.parent / "away")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file more": lambda path: (path / "new").write_bytes(b""),
    "a file of git more": lambda path: (path / ".gitattributes").write_bytes(b"x"),
    "a file more below": _add_below,
    "a file less": lambda path: (path / "README.md").unlink(),
    "a file of another name": lambda path: (path / "README.md").rename(path / "README"),
    "a link more": lambda path: (path / "new").symlink_to(path / "README.md"),
    "a pipe more": lambda path: os.mkfifo(path / "pipe"),
    "a link in place of a file": _link_in_place,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_added_or_removed_is_seen(signed: Signed, change: str) -> None:
    CHANGES[change](signed.path)
    assert not _accepted(signed)


def test_it_is_said_which_files_differ(signed: Signed) -> None:
    for name in ("x", "y"):
        (signed.path / name).touch()
    (signed.path / "adapter_config.json").unlink()
    (signed.path / "README.md").write_bytes(b"")
    with pytest.raises(sr.IntegrityError) as caught:
        sr.verify_export(signed.path, key=signed.public)
    assert caught.value.message.endswith(
        "signed: README.md was changed, x, y were added, adapter_config.json was removed."
    )


def test_the_signature_of_somebody_else_is_refused(signed: Signed) -> None:
    assert not _accepted(signed, key=signed.strange)
    with pytest.raises(sr.IntegrityError, match="signed with a key"):
        sr.verify_export(signed.path, identity="ada@example.org", issuer="https://example.org")


def test_nobody_is_believed_unless_it_is_said_who(signed: Signed) -> None:
    halves: tuple[dict[str, Any], ...] = (
        {},
        {"identity": "ada"},
        {"issuer": "https://x"},
        {"key": signed.public, "issuer": "https://x"},
        {"key": signed.public, "identity": "ada", "issuer": "https://x"},
        {"identity": "", "issuer": ""},
    )
    for nobody in halves:
        with pytest.raises(sr.InvalidInputError, match=r"whose signature|checked against"):
            sr.verify_export(signed.path, **nobody)


def test_a_directory_may_be_moved_and_linked(signed: Signed, tmp_path: Path) -> None:
    signed.path.rename(tmp_path / "moved")
    report = sr.verify_export(tmp_path / "moved", key=signed.public, signature=signed.signature)
    signed.signature.rename(tmp_path / "moved.sig")
    (tmp_path / "current").symlink_to("moved")
    assert sr.verify_export(tmp_path / "current", key=signed.public) == sr.verify_export(
        tmp_path / "moved", key=signed.public
    )
    assert report.path == tmp_path / "moved"


@pytest.mark.parametrize("inside", [True, False])
def test_what_the_command_signed_is_accepted(signed: Signed, inside: bool) -> None:
    """Also with the signature in the directory, which the command leaves out by itself."""
    place = signed.path / "model.sig" if inside else signed.signature
    signed.signature.unlink()
    assert _command("sign", "key", signed.path, "--private_key", signed.key, "--signature", place)
    assert sr.verify_export(signed.path, key=signed.public, signature=place).files == len(FILES)
    (signed.path / "README.md").write_bytes(b"card!")
    with pytest.raises(sr.IntegrityError, match=r"signed: README\.md was changed\. Do"):
        sr.verify_export(signed.path, key=signed.public, signature=place)


def _rewrite(signed: Signed, change: Callable[[dict[str, Any]], object]) -> None:
    bundle = json.loads(signed.signature.read_text())
    change(bundle)
    signed.signature.write_text(json.dumps(bundle))


def _claim(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """Return what changes the statement that was signed."""

    def rewrite(bundle: dict[str, Any]) -> None:
        envelope = bundle["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        change(statement)
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    return rewrite


def _spoil_signature(bundle: dict[str, Any]) -> None:
    signature = bytearray(base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]))
    signature[-1] ^= 1
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()


FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another signature": _spoil_signature,
    "no signature": lambda bundle: bundle["dsseEnvelope"].update(signatures=[]),
    "another statement": _claim(lambda statement: statement.update(x=1)),
    "a file ignored": _claim(
        lambda statement: statement["predicate"]["serialization"].update(ignore_paths=["new"])
    ),
    "another payload type": lambda bundle: bundle["dsseEnvelope"].update(payloadType="x"),
    "another bundle": lambda bundle: bundle.update(mediaType="x"),
    "of another key": lambda bundle: bundle["verificationMaterial"]["publicKey"].update(hint="00"),
    "no statement": lambda bundle: bundle["dsseEnvelope"].pop("payload"),
    "no JSON": lambda bundle: bundle["dsseEnvelope"].update(payload="AAAA"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_bundle_is_refused(signed: Signed, forgery: str) -> None:
    _rewrite(signed, FORGERIES[forgery])
    assert not _accepted(signed)


def test_a_bundle_that_is_checked_by_other_rules_is_refused_and_prints_nothing(
    signed: Signed, capsys: pytest.CaptureFixture[str]
) -> None:
    _rewrite(signed, lambda bundle: bundle["verificationMaterial"]["publicKey"].update(hint=""))
    with pytest.raises(sr.RefusedError, match="digest of the key"):
        sr.verify_export(signed.path, key=signed.public)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b"\xff", b'{"dsseEnvelope": 5}', b"[" * 9999]
)
def test_what_is_no_bundle_is_refused(signed: Signed, content: bytes) -> None:
    signed.signature.write_bytes(content)
    with pytest.raises(sr.IntegrityError, match=r"signature is"):
        sr.verify_export(signed.path, key=signed.public)


def test_what_is_not_there_is_named(signed: Signed, tmp_path: Path) -> None:
    with pytest.raises(sr.NotFoundError, match=r"no key .*none\.pub"):
        sr.verify_export(signed.path, key=tmp_path / "none.pub")
    with pytest.raises(sr.NotFoundError, match="is no directory"):
        sr.verify_export(tmp_path / "none", key=signed.public)
    signed.signature.unlink()
    with pytest.raises(sr.NotFoundError, match=r"no signature .*cola-v3\.sig"):
        sr.verify_export(signed.path, key=signed.public)


def _other_keys(folder: Path) -> dict[str, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    write_pair(folder, "ed25519", ed25519.Ed25519PrivateKey.generate(), serialization)
    write_pair(folder, "bitcoin", ec.generate_private_key(ec.SECP256K1()), serialization)
    _, public = write_keys(folder, "pair")
    (folder / "encrypted.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    (folder / "text.pem").write_text("text")
    os.mkfifo(folder / "pipe.pem")
    return {
        **{path.name: path for path in folder.glob("*.pem") if path.name != "pair.pem"},
        "directory": folder,
        "public": public,
    }


def test_a_key_that_cannot_sign_is_named(tmp_path: Path) -> None:
    keys = _other_keys(tmp_path)
    assert len(keys) == 7
    for key in keys.values():
        with pytest.raises(sr.InvalidInputError, match="key") as caught:
            Signer.open(key, Outside())
        assert "openssl ecparam" in caught.value.hint


def test_what_changes_while_it_is_signed_is_not_signed(signed: Signed) -> None:
    (signed.path / "README.md").write_bytes(b"somebody else's")
    with pytest.raises(sr.IntegrityError, match="while it was signed"):
        Signer.open(signed.key, Outside()).sign(signed.path, _digests())


def test_a_signature_replaces_a_signature_and_nothing_else(signed: Signed) -> None:
    bundle = Signer.open(signed.key, Outside()).sign(signed.path, _digests())
    place_signature(bundle, signed.signature, Outside())
    assert Bundle.of(signed.signature.read_bytes()).digests == _digests()
    signed.signature.write_text("somebody else's")
    with pytest.raises(sr.RefusedError, match="no signature"):
        place_signature(bundle, signed.signature, Outside())
    assert signed.signature.read_text() == "somebody else's"
    assert not list(signed.path.parent.glob(".*"))


def test_without_the_internet_an_identity_is_said_to_need_it(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    _rewrite(signed, lambda bundle: bundle.update(verificationMaterial={"certificate": {}}))
    with pytest.raises(sr.StoreError, match="Sigstore cannot be used"):
        sr.verify_export(signed.path, identity="ada@example.org", issuer="https://example.org")
    with pytest.raises(sr.StoreError, match="Sigstore cannot be used"):
        Signer.open("sigstore", Outside())
    with pytest.raises(sr.IntegrityError, match="signed with Sigstore"):
        sr.verify_export(signed.path, key=signed.public)


def test_nothing_stays_where_temporary_files_are(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    assert sr.verify_export(signed.path, key=signed.public).files == len(FILES)
    with pytest.raises(sr.IntegrityError):
        sr.verify_export(signed.path, key=signed.strange)
    assert os.listdir(tmp_path / "tmp") == []


def test_without_model_signing_it_is_said_what_to_install() -> None:
    program = (
        "import sys\nsys.modules['model_signing'] = None\nimport share_registry as sr\n"
        "registry = sr.Registry.open('memory://')\n"
        "registry.create_space('one')\nassert registry.checkpoint(expires='1d').expires\n"
        "try:\n    registry.checkpoint(sign='key.pem')\n"
        "except sr.RefusedError as error:\n    print(error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "pip install 'share-registry[signing]'\n", done.stderr
