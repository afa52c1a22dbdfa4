"""Uploads to the Hub from the command line: what is printed, and the exit codes."""

from pathlib import Path

import pytest

from tests.cli.conftest import Runner
from tests.cli.tiny import SPACE
from tests.exchange.hub_state import Hub

TOKEN = "hf_ofAnnWhoMayWrite0123456789"
PLACE = "hf://ann/adapters@main/cola"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def _signed_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens = {TOKEN: {"ann"}}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


def test_a_version_is_uploaded_once_and_then_unchanged(hub: Hub, run: Runner) -> None:
    planned = run("upload", "cola@prod", PLACE, "--dry-run")
    assert planned.lines[0].startswith(f"would upload {SPACE}/cola@v")
    assert not hub.is_repository("ann/adapters")
    shown = run("upload", "cola@v2", PLACE, "--no-private", "-m", "run 41")
    assert shown.lines[0] == f"uploaded {SPACE}/cola@v2 to {PLACE}"
    commit = hub.branches["ann/adapters", "main"]
    assert f"commit   {commit}" in shown.out
    assert hub.visibility == {"ann/adapters": "public"}
    assert hub.messages["ann/adapters", commit][1].startswith("run 41")
    again = run("upload", "cola@v2", PLACE)
    assert again.lines[0] == f"{PLACE} has {SPACE}/cola@v2 already"
    (pinned,) = run("upload", "cola@v2", PLACE, "-q").lines
    assert pinned == f"hf://ann/adapters@{commit}/cola"
    assert run("identify", pinned, "-q").lines == [f"{SPACE}/cola@v2"]
    document = run("upload", "cola@v2", PLACE, "--json").json
    assert (document["unchanged"], document["commit"], document["recorded"]) == (True, commit, None)
    assert TOKEN not in shown.out + shown.err + again.out


def test_an_upload_is_recorded_where_that_is_asked_for(hub: Hub, run: Runner) -> None:
    del hub
    uploaded = run(
        *("upload", "cola@v1", PLACE, "--record", "--reason", "CAB-77", "--author", "ada", "--json")
    ).json
    shown = run("show", "@head", "--json").json
    assert (shown["kind"], shown["message"], shown["author"]) == ("export", "CAB-77", "ada")
    assert uploaded["pinned"] in shown["detail"]


def test_what_cannot_be_uploaded_has_an_exit_code(
    hub: Hub, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is not on the Hub" in run("upload", "cola", PLACE, "--no-create", code=3).err
    assert "40 hexadecimal" in run("upload", "cola", PLACE, "--expected", "main", code=2).err
    head = hub.push("ann/adapters", {"cola/README.md": b"by hand"})
    assert f"--expected {head}" in run("upload", "cola", PLACE, code=7).err
    assert "is at" in run("upload", "cola", PLACE, "--expected", "0" * 40, code=4).err
    run("upload", "cola", PLACE, "--expected", head)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert "hf auth login" in run("upload", "cola", PLACE, code=7).err


def test_the_helps_say_which_verb_copies_what(run: Runner) -> None:
    assert "`push` and `clone` copy a whole registry" in run("upload", "--help").out.replace(
        "\n ", ""
    )
    assert "`upload` brings one version" in run("push", "--help").out.replace("\n ", "")
