"""A day of work: 40 adapters, two bases, two terminals; what must be said is said.

Each test is one hour of it, on a registry that a nightly job and a colleague have filled.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import share_registry as sr
from share_registry.cli.main import main
from share_registry.cli.output import watching
from share_registry.cli.session import Session
from share_registry.values.sheet import as_text, sheet_of
from tests.cli.conftest import Runner
from tests.cli.tiny import write_adapter

CUSTOMERS: Final = 38
NARROW: Final = 80


def _set(directory: Path, members: Mapping[str, Any]) -> Path:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | members))
    return directory


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    for number in range(CUSTOMERS):
        write_adapter(root / f"customer-{number:03d}", seed=number)
    write_adapter(root / "cola", seed=100)
    write_adapter(root / "cola-2", seed=101, near=100)
    _set(write_adapter(root / "other", seed=102), {"base_model_name_or_path": "tiny-org/Other"})
    untrained = write_adapter(root / "untrained", seed=103)
    tensors = load_file(untrained / "adapter_model.safetensors")
    save_file(
        {
            name: np.zeros_like(value) if "lora_B" in name else value
            for name, value in tensors.items()
        },
        untrained / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    return root


@pytest.fixture(scope="module")
def filled(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with 38 customers of one commit, cola at v3 with aliases, and another base."""
    place = tmp_path_factory.mktemp("filled") / "registry"
    with sr.Registry.open(place, author="nightly") as registry:
        registry.create_space("tiny-model", base_model="tiny-org/Tiny-Model")
        space = registry.space("tiny-model")
        space.commit_many(
            {path.name: path for path in sorted(sources.glob("customer-*"))}, message="all of them"
        )
        space.commit(sources / "cola", task="cola", metrics={"acc": 0.81}, labels={"run": "a1"})
        space.commit(sources / "cola-2", task="cola", metrics={"acc": 0.93}, labels={"run": "b1"})
        registry.commit(sources / "other", task="other", metrics={"acc": 0.5})
        space.set_alias("cola@v1", "prod", reason="CAB-1")
        space.set_alias("cola@v2", "prod", reason="CAB-2")
        space.set_alias("cola@v2", "canary")
        space.remove_alias("cola", "canary")
    return place


@pytest.fixture
def run(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    shutil.copytree(filled, tmp_path / "registry")
    return Runner(tmp_path / "registry", capsys)


def test_what_is_searched_is_found(run: Runner, sources: Path) -> None:
    searched = run(
        "-s", "tiny-model", "-q", "ls", "--where", "acc>0.8", "--sort", "-acc", "--all-versions"
    )
    assert searched.lines == ["tiny-model/cola@v2", "tiny-model/cola@v1"]
    assert run("-q", "-s", "tiny-model", "ls", "--label", "run=b*").lines == ["tiny-model/cola@v2"]
    assert run("-q", "log", "-s", "tiny-model", "--metric", "acc>0.9").lines == [
        "tiny-model/cola@v2"
    ]
    assert run("-q", "identify", sources / "customer-007").lines == ["tiny-model/customer-007@v1"]
    assert "similar" in run("identify", sources / "untrained", code=3).err


def test_a_commit_of_many_is_one_short_line(run: Runner) -> None:
    log = run("-s", "tiny-model", "log", "--kind", "absorb")
    assert "customer-000@v1 and 37 more" in log.out
    assert max(map(len, log.lines)) < 160
    shown = run("-s", "tiny-model", "show", "@c2")
    assert len(shown.lines) <= 20
    assert "30 more; all 38: error 2." in shown.out
    assert len(run("-s", "tiny-model", "-q", "show", "@c2").lines) == CUSTOMERS


def test_a_version_is_told_in_about_ten_lines(run: Runner) -> None:
    shown = run("-s", "tiny-model", "show", "cola@prod")
    for part in ("tiny-org/Tiny-Model", "query, value", "prod", "error", " for 5.", "acc=0.93"):
        assert part in shown.out
    assert len(shown.lines) <= 16
    assert "encoder.layer.0" not in shown.out
    assert "encoder.layer.0" in run("-s", "tiny-model", "show", "cola@prod", "--modules").out


def test_a_version_that_came_with_many_is_told_alone(run: Runner) -> None:
    asked = ("-s", "tiny-model", "show", "customer-022@v1")
    shown = run(*asked, "--modules")
    assert shown.lines[0] == "tiny-model/customer-022@v1"
    assert "customer-000" not in shown.out
    for part in ("query, value", " of a 2.5 % budget", "committed with 37 others: tiny-model/@c2"):
        assert part in shown.out
    assert run("-q", *asked).lines == ["tiny-model/customer-022@v1"]
    document = run("--json", *asked).json
    assert document["report"] == document["reports"]["customer-022"]
    assert (document["ref"], len(document["refs"])) == ("tiny-model/customer-022@v1", CUSTOMERS)


def test_a_version_is_shown_and_compared_with_what_it_has_now(run: Runner) -> None:
    space = ("-s", "tiny-model")
    run(*space, "annotate", "cola@v1", "--metric", "acc=0.9", "--metric", "f1=0.5")
    run(*space, "annotate", "cola@v1", "--label", "stage=eval", "--remove", "run")
    shown = run(*space, "--json", "show", "cola@v1").json
    (listed,) = run(*space, "--json", "ls", "--all-versions", "--label", "stage=eval").json
    assert (shown["labels"], shown["metrics"]) == (listed["labels"], listed["metrics"])
    assert shown["metrics"] == {"acc": 0.9, "f1": 0.5}
    (given,) = run(*space, "--json", "log", "--metric", "acc=0.81").json
    assert given["labels"]["run"] == "a1"
    (difference,) = run(*space, "--json", "diff", "cola@v1", "cola@v2").json["tasks"]
    assert difference["metadata"]["metric acc"] == ["0.9", "0.93"]
    assert difference["metadata"]["label stage"] == ["eval", "-"]


def test_lists_say_what_they_take(run: Runner) -> None:
    assert run("ls").lines[-1].startswith("40 tasks: ")
    assert run("spaces").lines[-1].startswith("2 spaces: ")
    versions = run("ls", "--name", "c*o*la", "--all-versions")
    assert versions.lines[-1].startswith("2 versions of 1 task: ")


def test_a_list_that_goes_on_says_how(run: Runner) -> None:
    space = ("-s", "tiny-model")
    for verb, option, size in (("ls", "--after", 20), ("log", "--before", 5)):
        shown = run(*space, verb, "--limit", size)
        said, _, cursor = shown.lines[-1].rpartition(" ")
        assert said == f"note: more follow: {option}"
        rest = run(*space, verb, "--limit", size, option, cursor).out
        assert "more follow" not in rest
        first, second = (
            run("-q", *space, verb, "--limit", size, *place).lines
            for place in ((), (option, cursor))
        )
        assert first + second == run("-q", *space, verb, "--limit", 0).lines
        assert len(run("--json", *space, verb, "--limit", size).json) == size


def test_labels_of_the_environment_stand_in_a_table_where_they_are_asked_for(
    run: Runner, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_SHA", "ab" * 20)
    run("-s", "tiny-model", "commit", sources / "other", "--task", "new", "--label", "run=c1",
        "--allow-base-mismatch")  # fmt: skip
    listed = ("-s", "tiny-model", "ls", "--name", "new")
    assert "run=c1" in run(*listed).out
    assert "git.sha" not in run(*listed).out
    assert "git.sha=abababab" in run(*listed, "--label", "git.sha=*").out
    assert "git.sha=abababab" in run("-s", "tiny-model", "show", "new").out
    assert "git.sha" in run("--json", *listed).json[0]["labels"]


def test_tables_keep_what_matters_at_80_columns(filled: Path) -> None:
    with sr.Registry.open(filled, mode="r", space="tiny-model") as registry:
        tables = {
            "ls": registry.tasks(name="cola"),
            "log": registry.log(),
            "diff": registry.diff("@c2", "@c4"),
        }
        shown = {name: as_text(sheet_of(value), width=NARROW) for name, value in tables.items()}
    assert max(len(line) for text in shown.values() for line in text.splitlines()) <= NARROW
    assert "prod->v2" in shown["ls"]
    assert "customer-000@v1" in shown["log"]
    assert shown["diff"].splitlines()[2].split() == ["cola", "added", "-", "v2", "-"]
    assert shown["diff"].endswith("38 tasks are the same")


def test_what_is_odd_is_remarked(run: Runner, sources: Path) -> None:
    asked = ("-s", "tiny-model", "commit")
    untrained = run(*asked, sources / "untrained")
    assert "its update is 0" in untrained.out
    assert "the same adapter as v1" in run(*asked, sources / "cola", "--task", "cola").out
    again = run(*asked, sources / "customer-001", "--task", "customer-001", "--dry-run")
    assert "already committed as c2" in again.err


def test_what_cannot_be_meant_is_refused_for_what_it_is(run: Runner, sources: Path) -> None:
    assert "c99" in run("-s", "tiny-model", "log", "--before", "c99", code=3).err
    for place, said in (("ftp://host/x", "sqlite or postgresql"), ("", "expected a path")):
        assert main(["-R", place, "ls"]) == 2
        assert said in run._capsys.readouterr().err
    assert main(["-q", "-R", "memory://", "commit", str(sources / "cola")]) == 0
    assert main(["-R", "memory://", "commit", str(sources / "cola")]) == 0
    assert "keeps nothing" in run._capsys.readouterr().err
    with pytest.raises(sr.InvalidInputError, match="there is no adapter"):
        sr.Registry.open("memory://").commit(None, task="cola")


def test_what_is_written_reads_as_people_do(run: Runner, tmp_path: Path) -> None:
    out = run("checkout", "tiny-model/cola@v1", "-o", tmp_path / "work").out
    assert " %" in next(line for line in out.splitlines() if "error" in line)
    native = run("-q", "export", "tiny-model/cola@v1", tmp_path / "serve").out
    portable = run(
        "-q", "export", "tiny-model/cola@v1", tmp_path / "serve", "--profile", "portable"
    ).out
    assert ("-portable-" in native, "-portable-" in portable) == (False, True)


def test_versions_and_aliases_are_drawn(run: Runner, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "cola.png"
    run("-s", "tiny-model", "log", "--task", "cola", "--plot", drawn)
    assert drawn.stat().st_size > 10_000
    with sr.Registry.open(run.registry, mode="r", space="tiny-model") as registry:
        figure = registry.log(task="cola").plot()
    (axes,) = figure.axes
    lanes = [label.get_text() for label in axes.get_yticklabels()]
    assert (lanes[0], {*lanes[1:]}) == ("versions", {"canary", "prod"})
    bars = [bar.get_path().get_extents(bar.get_transform()) for bar in axes.patches]
    spans = [axes.transData.inverted().transform_bbox(bar) for bar in bars]
    ends = {
        lane: [span.x1 for span in spans if abs((span.y0 + span.y1) / 2 - height) < 0.4]
        for lane, height in zip(lanes, axes.get_yticks(), strict=True)
    }
    # prod was moved once; canary was removed, and so ends before the last commit
    assert len(ends["prod"]) == 2
    assert max(ends["canary"]) < max(ends["prod"])


def test_a_log_of_a_task_is_of_that_task_whatever_its_commits_are_of(
    run: Runner, sources: Path
) -> None:
    pytest.importorskip("matplotlib")
    run("-s", "tiny-model", "rename", "customer-022", "client")
    run("-s", "tiny-model", "set-alias", "client@v1", "prod")
    with sr.Registry.open(run.registry, mode="r", space="tiny-model") as registry:
        log = registry.log(task="customer-022")
    assert [commit.task for commit in log] == ["client"] * 3
    assert (log[-1].ref, "client@v1 and 37 more" in str(log)) == ("tiny-model/client@v1", True)
    (axes,) = log.plot().axes
    assert axes.get_title(loc="left") == "client"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["versions", "prod"]
    assert [np.size(line.get_xdata()) for line in axes.lines] == [1]
    assert len(axes.patches) == 1


def test_another_terminal_sees_what_this_one_does(run: Runner) -> None:
    with sr.Registry.open(run.registry, mode="r", space="tiny-model") as second:
        before = len(second.log())
        run("-s", "tiny-model", "set-alias", "cola@v1", "prod", "--reason", "roll back")
        assert len(second.log()) == before + 1
        assert second.resolve("cola@prod").version == 1


def test_a_log_without_a_terminal_says_that_it_moves(capsys: pytest.CaptureFixture[str]) -> None:
    from threading import Event

    session = Session(registry=None, store=None, space=None, json=False, quiet=False)
    with watching("verifying", session, every_s=0.02) as show:
        assert show is not None
        show("verifying", 3, 40)
        Event().wait(0.2)
    assert "verifying: 3 of 40, " in capsys.readouterr().err
