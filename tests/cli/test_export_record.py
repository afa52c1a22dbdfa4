"""`export --record` on the command line."""

from pathlib import Path

from tests.cli.conftest import Runner


def test_an_export_is_recorded_and_listed(run: Runner, tmp_path: Path) -> None:
    export = run(
        *("export", "cola@v1", tmp_path / "serve", "--record", "--reason", "CAB-77"),
        *("--author", "ada", "--json"),
    ).json
    number = export["recorded"].rpartition("@")[2]
    shown = run("show", f"@{number}", "--json").json
    assert (shown["kind"], shown["author"], shown["message"]) == ("export", "ada", "CAB-77")
    assert shown["detail"].endswith(export["path"])
    for verb in (("log", "--kind", "export"), ("audit", "--action", "export")):
        assert export["digest"][:8] in run(*verb).out
    # who asks which hosts have a version asks for the commits of its task
    assert export["path"] in run("log", "--task", "cola", "--kind", "export").out.replace("\n", "")
    assert run("export", "cola@v1", tmp_path / "serve").err == ""
    assert len(run("log", "--kind", "export", "--json").json) == 1


def test_what_is_said_of_no_record_is_refused(run: Runner, tmp_path: Path) -> None:
    refusal = run("export", "cola", tmp_path / "serve", "--reason", "why", code=2).err
    assert "--record" in refusal
    assert not (tmp_path / "serve").exists()
