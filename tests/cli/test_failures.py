"""Failures: exit code, error and hint on stderr, nothing on stdout, nothing changed on disk."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from share_registry.cli.main import main
from tests.cli.conftest import Runner
from tests.house.tree import ROOT

EVIL = ("../evil", "UPPER", "a/b/c", "con", "x" * 65, "v1")


def _tree(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "nothing"), 3),
        (("resolve", "cola@v99"), 3),
        (("resolve", "cola@nobody"), 3),
        (("resolve", "cola@@"), 2),
        (("-s", "unknown", "ls"), 3),
        (("set-alias", "cola@v1", "v7"), 2),
        (("set-alias", "cola@v1", "prod", "--expected", "v1"), 4),
        (("set-alias", "cola@v1", "prod", "--expected", "soon"), 2),
        (("tag", "release-1", "cola@v1"), 4),
        (("drop", "nothing"), 3),
        (("annotate", "cola"), 2),
        (("annotate", "cola", "--label", "novalue"), 2),
        (("annotate", "cola", "--metric", "f1=high"), 2),
        (("checkout", "cola", "-o", "there", "--exact"), 7),
        (("commit", "missing"), 3),
        (("log", "--since", "2026-13-45"), 2),
        (("set-policy", "tiny-model", "--budget", "2"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_failure_has_its_code_and_changes_nothing(
    run: Runner, arguments: tuple[str, ...], code: int
) -> None:
    before = _tree(run.registry)
    shown = run(*arguments, code=code)
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert _tree(run.registry) == before


def test_an_unknown_name_is_answered_with_near_misses(run: Runner) -> None:
    assert "hint: Did you mean cola?" in run("show", "coal", code=3).err


@pytest.mark.parametrize("name", EVIL[:5])
def test_evil_task_names_are_refused(run: Runner, adapters: Path, name: str) -> None:
    before = _tree(run.registry)
    run("commit", adapters / "cola", "--task", name, code=2)
    assert _tree(run.registry) == before


def test_a_generic_directory_name_is_no_task_name(
    run: Runner, adapters: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "checkpoint-100").symlink_to(adapters / "cola", target_is_directory=True)
    assert "hint: " in run("commit", tmp_path / "runs" / "checkpoint-100", code=7).err


def test_a_conflict_says_what_was_found(run: Runner, adapters: Path) -> None:
    assert "2" in run("commit", adapters / "sst2", "--task", "cola", "--expected", "v1", code=4).err


def test_there_must_be_a_registry_to_read(run_new: Runner) -> None:
    assert f"share-registry -R {run_new.registry} init`" in run_new("log", code=3).err
    assert not run_new.registry.exists()


def test_damage_gives_a_report_and_code_5(run: Runner) -> None:
    victim = max(
        (path for path in (run.registry / "objects").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(content)
    shown = run("verify", "--json", code=5)
    assert shown.json["ok"] is False
    assert shown.json["findings"]
    assert json.loads(shown.err)["error"] == "IntegrityError"
    assert run("verify", code=5).err.splitlines()[0].startswith("error: verify (data) found ")
    assert run("verify", "--no-raise-on-damage", "--json").json["ok"] is False


def test_shards_exit_as_the_whole_does_and_say_which_they_are(run: Runner) -> None:
    victim = next(path for path in (run.registry / "objects").rglob("*") if path.is_file())
    victim.chmod(0o644)
    victim.write_bytes(b"rotten")
    digest = victim.parent.name + victim.name
    mine = int(digest[:16], 16) % 3 + 1
    for number in (1, 2, 3):
        shard, code = f"{number}/3", 5 if number == mine else 0
        shown = run("verify", "--shard", shard, "--json", code=code)
        assert (shown.json["shard"], shown.json["ok"]) == (shard, code == 0)
    error = run("verify", "--shard", f"{mine}/3", code=5).err
    assert error.startswith(f"error: verify (data, shard {mine}/3) found ")
    assert run("verify", "--json", code=5).json["shard"] is None


@pytest.mark.parametrize("shard", ["0/8", "9/8", "3/0", "x", "3", " 3/8", "1/10001"])
def test_what_is_no_shard_gives_2_and_an_example(run: Runner, shard: str) -> None:
    error = run("verify", "--shard", shard, code=2).err
    assert error.startswith(f"error: shard is {shard!r} (str), expected a shard K/N ")
    assert "hint: Write 3/8 " in error


def test_a_database_that_is_no_catalog_gives_6(
    run_new: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("create table other (x)")
    place = ["-R", f"sqlite:///{tmp_path / 'other.sqlite'}", "--store", str(tmp_path / "store")]
    assert main([*place, "db", "check"]) == 6
    assert "db upgrade" in capsys.readouterr().err
    assert main([*place, "db", "current", "--json"]) == 0
    assert main([*place, "db", "upgrade"]) == 0
    assert main([*place, "db", "check"]) == 0


def test_doctor_says_what_is_not_well(run_new: Runner) -> None:
    shown = run_new("doctor", code=6)
    assert "python" in shown.out
    assert "error: " in shown.err


@pytest.mark.parametrize(
    "verb", ["log", "ls", "show cola", "verify", "export cola served", "checkout cola -o worked"]
)
def test_reading_works_without_a_catalog_and_makes_none(run: Runner, verb: str) -> None:
    (run.registry / "catalog.sqlite").unlink()
    before = _tree(run.registry)
    run(*verb.split())
    assert _tree(run.registry) == before


def test_wrong_usage_ends_in_what_to_do_next(run: Runner) -> None:
    shown = run("log", "--limit", "many", code=2).err.splitlines()
    assert shown[0].startswith("error: ")
    assert shown[1] == "hint: Run `share-registry log --help`."
    assert len(shown) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "coal"),
        ("commit", "missing"),
        ("log", "--limit", "many"),
        ("commit", "missing", "--budget", "x%"),
    ],
)
def test_every_error_has_a_hint(run: Runner, arguments: tuple[str, ...]) -> None:
    with_code = 3 if arguments[-1] in {"coal", "missing"} else 2
    assert "\nhint: " in run(*arguments, code=with_code).err


def test_an_error_is_one_json_object_where_json_is_asked_for(run: Runner) -> None:
    shown = run("--json", "show", "coal", code=3)
    assert json.loads(shown.err) == {
        "error": "NotFoundError",
        "message": "task tiny-model/coal does not exist.",
        "hint": "Did you mean cola?",
        "exit_code": 3,
    }
    assert (
        json.loads(run("log", "--limit", "many", "--json", code=2).err)["error"]
        == "InvalidInputError"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_one_error(run: Runner) -> None:
    command = [sys.executable, "-m", "share_registry.cli.main", "-R", str(run.registry), "log"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


def test_a_mistyped_adapter_makes_no_registry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["commit", str(tmp_path / "nothing")]) == 3
    assert "does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_refit_that_saves_nothing_says_which_option_makes_it_nevertheless(run: Runner) -> None:
    assert "saves nothing a task to come" in run("refit", "--max-rank", 4, "--dry-run").out
    refused = run("refit", "--max-rank", 4, code=7)
    assert "give --force." in refused.err
    assert "refit" not in run("log").out
    run("refit", "--max-rank", 4, "--force")
    assert "refit" in run("log").out
