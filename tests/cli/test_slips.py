"""What is typed wrong is answered with what was meant."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from share_registry.cli.main import main
from tests.cli.conftest import Runner
from tests.cli.tiny import write_adapter


def _hint(run: Runner, *arguments: object, code: int) -> str:
    return run(*arguments, code=code).err.partition("hint: ")[2].strip()


@pytest.fixture
def run_two(run: Runner, tmp_path: Path) -> Runner:
    """Run commands on a registry with a second space, qwen-tiny, and its task qw-00."""
    run("commit", write_adapter(tmp_path / "qw-00", seed=5, base="acme/qwen-tiny"))
    return run


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (("show", "c3"), 3, "Did you mean @c3?"),
        (("show", "release-1"), 3, "Did you mean @release-1?"),
        (("log", "--task", "cola@v1"), 2, "Give the name alone: cola."),
        (("aliases", "--task", "cola@prod~1"), 2, "Give the name alone: cola."),
        (("drop", "cola@v1"), 2, "Give the name alone: cola."),
        (("log", "--kind", "commit"), 2, "A commit of an adapter is of kind absorb."),
        (("log", "--kind", "annotated"), 2, "Did you mean annotate?"),
        (("commit", "s3://b/x"), 3, "s3:// is not read: download it, then give the directory."),
        (("commit", "b/x"), 3, "Check the path."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_slip_is_answered_with_what_was_meant(
    run: Runner, arguments: tuple[str, ...], code: int, hint: str
) -> None:
    assert _hint(run, *arguments, code=code) == hint


def test_a_task_of_another_space_is_named_with_it(run_two: Runner) -> None:
    hint = _hint(run_two, "-s", "tiny-model", "show", "qw-00", code=3)
    assert hint == "Did you mean qwen-tiny/qw-00?"


@pytest.mark.parametrize(
    "arguments", [("set-alias", "live", "cola@v1"), ("tag", "@c3", "release-2")]
)
def test_arguments_in_the_wrong_order_are_put_right(
    run: Runner, arguments: tuple[str, ...]
) -> None:
    hint = _hint(run, *arguments, code=2)
    (command,) = re.findall(r"`share-registry ([^`]*)`", hint)
    assert main(shlex.split(command)) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--where", "acuracy<4"), "no version has the metric 'acuracy'. Did you mean accuracy?"),
        (("--label", "teem=search"), "no version has the label 'teem'. Did you mean team?"),
        (("--alias", "prd"), "no version has the alias 'prd'. Did you mean prod?"),
    ],
)
def test_a_filter_that_nothing_can_fit_says_so(
    run: Runner, options: tuple[str, ...], said: str
) -> None:
    assert said in run("ls", *options).err
    assert "no version has" not in run("ls", "--where", "accuracy>2").err


def test_tasks_of_a_commit_are_named_after_their_directories(
    run_empty: Runner, adapters: Path
) -> None:
    commit = run_empty("commit-many", adapters / "cola", f"b={adapters / 'sst2'}", "-q")
    assert commit.lines == ["tiny-model/b@v1", "tiny-model/cola@v1"]
    run_empty("commit-many", f"cola={adapters / 'sst2'}", adapters / "cola", code=2)


def test_an_adapter_is_compared_in_the_space_of_its_base_model(
    run_two: Runner, tmp_path: Path
) -> None:
    assert run_two("similar", tmp_path / "qw-00", "-q").lines == ["qwen-tiny/qw-00@v1"]
    assert len(run_two("similar", "cola@v1", "--limit", "0", "-q").lines) == 2


def test_a_checkout_replaces_what_stands_there_where_it_is_told_to(
    run: Runner, tmp_path: Path
) -> None:
    run("checkout", "cola@v1", "-o", tmp_path / "co")
    refused = run("checkout", "cola@v2", "-o", tmp_path / "co", code=7)
    assert "--overwrite" in refused.err
    run("checkout", "cola@v2", "-o", tmp_path / "co", "--overwrite")
    assert json.loads(run("identify", tmp_path / "co", "--json").out)[0]["version"] == 2


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "share_registry", "--version"]
    assert subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("checkout", "cola", "-o", ""),
        ("commit", ""),
        ("export", "cola", ""),
        ("import", ""),
        ("report", "cola", "-o", ""),
        ("similar", ""),
        ("sync", ""),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_empty_path_is_not_this_directory(
    run: Runner, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    before = {*tmp_path.rglob("*")}
    assert _hint(run, *arguments, code=2) == "Name one; '.' is this directory."
    assert {*tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "arguments", [("checkpoint", "-o"), ("log", "--plot"), ("report", "cola", "-o")]
)
def test_no_file_is_called_like_standard_output(
    run: Runner, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert "./-" in _hint(run, *arguments, "-", code=2)
    assert not [*tmp_path.glob("-*")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("checkout", "cola", "-o", "a"),
        ("demo", "a"),
        ("export", "cola", "a"),
        ("export", "cola", "a/x"),
        ("sync", "a"),
        ("sync", "a/x"),
    ],
    ids=" ".join,
)
def test_a_file_in_the_place_of_a_directory_has_one_code(
    run: Runner, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "a").write_text("mine")
    run(*arguments, code=7)
    assert (tmp_path / "a").read_text() == "mine"


def test_an_option_without_its_value_names_the_help_of_its_verb(run: Runner) -> None:
    assert _hint(run, "log", "--metric", code=2) == "Run `share-registry log --help`."


def test_the_days_of_sync_are_explained_with_its_own(run: Runner) -> None:
    assert _hint(run, "sync", "served", "--grace-days", "-1", code=2).startswith("1 keeps ")
    assert _hint(run, "gc", "--grace-days", "-1", code=2).startswith("7 spares ")


def test_the_full_stop_behind_a_place_is_not_read_as_part_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-R", ".", "ls"]) == 3
    assert f"there is no registry at {tmp_path}.\n" in capsys.readouterr().err
