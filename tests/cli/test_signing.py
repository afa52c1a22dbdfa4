"""Signing on the command line: exit codes, files, and what is printed."""

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Runner
from tests.keys import write_keys

pytest.importorskip("model_signing", reason="needs the extra [signing]")


def test_an_export_is_signed_and_checked(run: Runner, tmp_path: Path) -> None:
    key, public = write_keys(tmp_path, "key")
    _, strange = write_keys(tmp_path, "strange")
    export = run("export", "cola", tmp_path / "serve", "--sign", key, "--json").json
    report = run("verify-export", export["path"], "--key", public, "--json").json
    assert (report["digest"], report["signature"]) == (export["digest"], export["signature"])
    assert run("verify-export", export["path"], "--key", public, "-q").lines == [export["path"]]
    assert "--key" in run("verify-export", export["path"], code=2).err
    assert "Key mismatch" in run("verify-export", export["path"], "--key", strange, code=5).err
    weights = Path(export["path"]) / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refusal = run("verify-export", export["path"], "--key", public, code=5).err
    assert "adapter_model.safetensors" in refusal


def test_a_host_without_a_registry_checks(run: Runner, tmp_path: Path) -> None:
    key, public = write_keys(tmp_path, "key")
    path = run("export", "cola", tmp_path / "serve", "--sign", key, "-q").lines[0]
    shutil.rmtree(run.registry)
    assert run("verify-export", path, "--key", public).err == ""
    assert not run.registry.exists()


def test_a_checkpoint_is_signed_expires_and_is_held_to(run: Runner, tmp_path: Path) -> None:
    key, public = write_keys(tmp_path, "key")
    head = tmp_path / "head.txt"
    assert "-o FILE" in run("checkpoint", "--sign", key, code=2).err
    printed = run("checkpoint", "-o", head, "--sign", key, "--expires", "30d").out
    assert head.read_text() == printed
    assert run("checkpoint", "--sign", key, "--json").json["signature"]
    run("audit", "--since", head, "--key", public)
    assert "not said whose" in run("audit", "--since", head, code=7).err
    assert "holds no checkpoint" in run("audit", "--since", key, code=2).err
    head.write_text(printed.replace(", expires: 2", ", expires: 3"))
    assert "is not what key" in run("audit", "--since", head, "--key", public, code=5).err
    Path(f"{head}.sig").unlink()
    assert "is not signed" in run("audit", "--since", head, "--key", public, code=7).err
    head.write_text(printed.replace(", expires: 20", ", expires: 19"))
    assert "has expired" in run("audit", "--since", head, code=7).err
    run("checkpoint", "-o", head, "--expires", "1y", code=2)
