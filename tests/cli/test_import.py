"""`share-registry import`: what it prints, its exit codes, and its first run."""

import shutil
from pathlib import Path

import pytest

from share_registry.cli.main import main
from tests.cli.conftest import Runner
from tests.cli.tiny import BASE, SPACE, write_adapter


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three adapters, one of which is no adapter."""
    for seed, name in enumerate(("mrpc", "qnli", "rte"), start=10):
        write_adapter(tmp_path / "tree" / name, seed=seed)
    (tmp_path / "tree" / "rte" / "adapter_config.json").write_text("{")
    return tmp_path / "tree"


def test_import_says_what_became_of_each_and_exits_with_7(run: Runner, tree: Path) -> None:
    ran = run("import", tree, "--workers", 1, code=7)
    assert ran.lines[0] == "2 of 3 adapters committed in 1 commit"
    assert "refused    1" in ran.out
    assert "is not valid JSON" in ran.out
    assert ran.err.startswith("error: 1 of 3 adapters was refused.")
    assert "hint: " in ran.err
    document = run("import", tree, "--workers", 1, "--json", code=7).json
    assert (document["committed"], document["unchanged"], document["refused"]) == (0, 2, 1)
    assert [each["status"] for each in document["outcomes"]] == [
        "unchanged",
        "unchanged",
        "refused",
    ]
    (tree / "rte" / "adapter_config.json").unlink()
    assert "stand in an adapter_config.json" in run("import", tree, code=7).out
    shutil.rmtree(tree / "rte")
    assert run("import", tree, "-q").lines == [f"{SPACE}/mrpc@v1", f"{SPACE}/qnli@v1"]


def test_a_dry_run_says_what_it_would_take(run: Runner, tree: Path) -> None:
    ran = run("import", tree, "--dry-run", "--workers", 1, code=7)
    assert ran.lines[0] == "dry run: 2 of 3 adapters would be committed"
    assert "size       about" in ran.out
    assert "time       about" in ran.out
    assert run("tasks", "-q").lines == run("ls", "-q").lines
    assert f"{SPACE}/mrpc@v1" not in run("tasks", "-q").lines


def test_a_list_is_imported_with_what_it_says(run: Runner, tree: Path) -> None:
    path = tree.parent / "list.csv"
    path.write_text("source,task,label.team\ntree/mrpc,mine,red\n")
    run("import", "--from-file", path, "--workers", 1, "--label", "from=csv")
    assert run("show", "mine", "--json").json["labels"] == {"from": "csv", "team": "red"}


def test_it_stops_where_asked_to(run: Runner, tree: Path) -> None:
    ran = run("import", tree, "--on-error", "stop", "--workers", 1, code=2)
    assert "rte: " in ran.err
    assert f"{SPACE}/mrpc@v1" not in run("tasks", "-q").lines


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "there is nothing to import"),
        (("nowhere",), 7, "nowhere"),
        (("--from-file", "none.csv"), 3, "none.csv is not there"),
        (("x", "--workers", "0"), 2, "workers"),
        (("x", "--on-error", "ignore"), 2, "on-error"),
    ],
)
def test_what_cannot_be_imported_is_said(
    run: Runner, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = run("import", *arguments, code=code)
    assert said in ran.out + ran.err


def test_import_begins_a_registry_where_it_can_commit(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(tmp_path / "nowhere")]) == 3
    assert not (tmp_path / "share-registry").exists()
    assert main(["import", str(tree), "--workers", "1"]) == 7
    assert f"created space {SPACE} for base model {BASE}" in capsys.readouterr().err
    assert (tmp_path / "share-registry" / "FORMAT").exists()


def test_the_table_of_what_is_refused_says_commands(tmp_path: Path, run: Runner) -> None:
    run("init")
    write_adapter(tmp_path / "in" / "nameless", seed=0, base="")
    said = run("import", tmp_path / "in", code=7).out
    assert "create-space my-base --base-model" in said
    assert "create_space(" not in said
