"""Every verb on a real registry: what it prints for people, as JSON, and as references."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Runner
from tests.cli.tiny import SPACE, write_adapter

READS = {
    "log": ("log",),
    "show": ("show", "cola@v2"),
    "resolve": ("resolve", "cola@prod"),
    "tasks": ("tasks",),
    "ls": ("ls",),
    "lineage": ("lineage", "cola@v2"),
    "diff": ("diff", "cola@v1", "cola@v2"),
    "aliases": ("aliases",),
    "alias-history": ("alias-history", "cola", "prod"),
    "tags": ("tags",),
    "spaces": ("spaces",),
    "verify": ("verify",),
    "doctor": ("doctor",),
    "db current": ("db", "current"),
    "db check": ("db", "check"),
}
WRITES = {
    "set-alias": ("set-alias", "sst2@v1", "live"),
    "remove-alias": ("remove-alias", "cola", "prod"),
    "tag": ("tag", "later", "sst2"),
    "annotate": ("annotate", "sst2@v1", "--label", "kind=demo"),
    "drop": ("drop", "sst2"),
    "restore": ("restore", "cola@v1"),
    "rename": ("rename", "sst2", "sentiment"),
    "set-policy": ("set-policy", SPACE, "--budget", "0.02"),
    "create-space": ("create-space", "other", "--base-model", "org/other"),
    "rebuild": ("rebuild",),
    "rebuild everywhere": ("rebuild", "--accept-loss"),
    "init": ("init",),
    "db upgrade": ("db", "upgrade"),
}


@pytest.mark.parametrize("arguments", [*READS.values(), *WRITES.values()], ids=[*READS, *WRITES])
def test_a_verb_prints_text_on_stdout_alone(run: Runner, arguments: tuple[str, ...]) -> None:
    shown = run(*arguments)
    assert shown.out.strip()
    said = "created space other for base model org/other\n"
    assert shown.err == (said if arguments[0] == "create-space" else "")


@pytest.mark.parametrize("arguments", [*READS.values(), *WRITES.values()], ids=[*READS, *WRITES])
def test_a_verb_prints_one_json_document(run: Runner, arguments: tuple[str, ...]) -> None:
    assert run(*arguments, "--json").json


@pytest.mark.parametrize("arguments", [*READS.values(), *WRITES.values()], ids=[*READS, *WRITES])
def test_quiet_prints_nothing_but_references_that_resolve(
    run: Runner, arguments: tuple[str, ...]
) -> None:
    for ref in run(*arguments, "-q").lines:
        if ref not in {SPACE, "other", str(run.registry)}:
            run("resolve", ref)


@pytest.mark.parametrize("arguments", READS.values(), ids=READS)
def test_reading_changes_nothing_on_disk(run: Runner, arguments: tuple[str, ...]) -> None:
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in run.registry.rglob("*")
        if path.is_file()
    }
    run(*arguments)
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in run.registry.rglob("*")
        if path.is_file()
    } == before


def test_a_diff_says_by_its_exit_code_whether_two_differ(run: Runner) -> None:
    for arguments, code in (
        (("cola@v1", "cola@v2"), 9),
        (("@c2", "@head"), 9),
        (("cola@v2", "cola@latest"), 0),
        (("@head", "@head"), 0),
        (("cola@v1", "cola@v9"), 3),
    ):
        shown = run("diff", *arguments, "--exit-code", code=code)
        assert bool(shown.err) == (code == 3)
        run("diff", *arguments, code=0 if code == 9 else code)
    differing = run("diff", "cola@v1", "cola@v2", "--exit-code", "--json", code=9)
    assert (differing.json["differs"], differing.err) == (True, "")
    assert run("diff", "cola@v1", "cola@v2", "--exit-code", "-q", code=9).lines == [
        f"{SPACE}/cola@v2"
    ]


def test_common_options_may_stand_before_or_after_the_verb(run: Runner) -> None:
    assert run("--json", "-s", SPACE, "ls").out == run("ls", "--json", "--space", SPACE).out


def test_variables_name_registry_and_space(
    run: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from share_registry.cli.main import main

    monkeypatch.setenv("SHARE_REGISTRY_URI", str(run.registry))
    monkeypatch.setenv("SHARE_REGISTRY_SPACE", SPACE)
    assert main(["-q", "ls"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{SPACE}/cola@v2", f"{SPACE}/sst2@v1"]


def test_a_commit_says_its_reference_error_and_bytes(run_empty: Runner, adapters: Path) -> None:
    shown = run_empty("commit", adapters / "cola")
    assert shown.lines[0].startswith(f"{SPACE}/cola@v1  error ")
    assert " of a " in shown.lines[0]
    assert run_empty("-q", "ls").lines == [f"{SPACE}/cola@v1"]


def test_a_commit_takes_what_the_options_say(run_empty: Runner, adapters: Path) -> None:
    committed = run_empty(
        *(
            "commit",
            adapters / "cola",
            "--task",
            "grammar",
            "-m",
            "why",
            "--author",
            "ada",
            "--json",
            "--budget",
            "0.1",
            "--expected",
            "absent",
        ),
        *(
            "--label",
            "team=search",
            "--label",
            "tier=a=b",
            "--metric",
            "accuracy=0.5",
            "--idempotency-key",
            "once",
        ),
    ).json
    assert (committed["task"], committed["message"], committed["author"], committed["key"]) == (
        "grammar",
        "why",
        "ada",
        "once",
    )
    assert committed["labels"].items() >= {"team": "search", "tier": "a=b"}.items()
    assert committed["metrics"] == {"accuracy": 0.5}
    assert committed["report"]["error"] <= committed["report"]["budget"] == 0.1


def test_the_same_source_again_is_the_same_commit_and_is_said(run: Runner, adapters: Path) -> None:
    shown = run("commit", adapters / "sst2", "--json")
    assert shown.json["created"] is False
    assert "--allow-duplicate" in shown.err
    assert run("commit", adapters / "sst2", "--allow-duplicate", "--json").json["version"] == 2


def test_a_dry_run_commits_nothing(run: Runner, adapters: Path) -> None:
    before = run("-q", "log").out
    shown = run("commit", adapters / "cola", "--task", "new", "--dry-run")
    assert (shown.out + shown.err).count("dry run") == 1
    assert "(dry run: nothing was written)" in shown.lines
    assert run("-q", "log").out == before


def test_many_adapters_are_one_commit(run_empty: Runner, adapters: Path) -> None:
    committed = run_empty(
        "commit-many", f"a={adapters / 'cola'}", f"b={adapters / 'sst2'}", "--json"
    ).json
    assert set(committed["refs"]) == {"a", "b"}
    assert len(run_empty("log", "--json", "--kind", "absorb").json) == 1


def test_the_log_is_cut_by_its_options(run: Runner) -> None:
    assert len(run("log", "--json", "--limit", "2").json) == 2
    assert {entry["author"] for entry in run("log", "--json", "--author", "bob").json} == {"bob"}
    assert all(
        "cola" in entry["refs"]
        for entry in run("log", "--json", "--task", "cola", "--kind", "absorb").json
    )
    for before in ("4", "c4", f"{SPACE}/@c4"):
        assert [entry["number"] for entry in run("log", "--json", "--before", before).json] == [
            3,
            2,
            1,
        ]


def test_times_may_be_so_long_ago(run: Runner) -> None:
    for verb in ("log", "audit"):
        everything = run(verb, "--json").json
        assert run(verb, "--since", "1d", "--json").json == everything
        assert run(verb, "--until", "2026-01-01", "--json").json != everything
    assert run("log", "--until", "1d", "--json").json == []
    assert "before all calendars" in run("log", "--since", "900000w", code=2).err


def test_the_log_is_drawn_as_a_graph(run: Runner) -> None:
    shown = run("log", "--graph")
    graph = {line.split()[0]: line for line in shown.lines}
    assert list(graph)[:1] == ["graph"]
    commits = run("log", "--graph", "--json").json
    builds_on = {each["number"]: each["builds_on"] for each in commits if each["builds_on"]}
    first, second, _ = (each["number"] for each in reversed(commits) if each["kind"] == "absorb")
    assert builds_on == {second: [first]}
    assert all(each["builds_on"] == [] for each in run("log", "--json").json)


def test_tasks_are_filtered_and_travel_in_time(run: Runner) -> None:
    assert run("-q", "ls", "--alias", "prod").lines == [f"{SPACE}/cola@v2"]
    assert run("-q", "ls", "--name", "s*").lines == [f"{SPACE}/sst2@v1"]
    assert run("-q", "ls", "--at", "c2").lines == [f"{SPACE}/cola@v1"]


def test_tasks_are_listed_in_pages(run: Runner) -> None:
    assert run("-q", "ls", "--limit", "1").lines == [f"{SPACE}/cola@v2"]
    for after in ("cola", f"{SPACE}/cola", f"{SPACE}/cola@v2"):
        assert run("-q", "ls", "--limit", "1", "--after", after).lines == [f"{SPACE}/sst2@v1"]
    assert run("-q", "ls", "--limit", "0").lines == [f"{SPACE}/cola@v2", f"{SPACE}/sst2@v1"]


def test_checkout_and_export_write_directories_that_can_be_committed(
    run: Runner, tmp_path: Path
) -> None:
    saved = run("checkout", "cola@prod", "-o", tmp_path / "work", "--json").json
    placed = run("export", "cola@prod", tmp_path / "serve", "--json").json
    assert saved["ref"] == placed["ref"] == f"{SPACE}/cola@v2"
    assert json.loads((Path(placed["path"]) / "adapter_config.json").read_text())["r"] == 4
    for directory in (tmp_path / "work", placed["path"]):
        run("commit", directory, "--task", f"again-{Path(directory).name[:4]}", "--budget", "0")


def test_an_alias_moves_back(run: Runner) -> None:
    run("set-alias", "cola@prod~1", "prod", "--reason", "roll back", "--expected", "v2")
    assert run("resolve", "cola@prod", "-q").lines == [f"{SPACE}/cola@v1"]
    assert [move["version"] for move in run("alias-history", "cola", "prod", "--json").json] == [
        1,
        2,
        1,
    ]


def test_the_policy_changes_only_where_it_is_told_to(run: Runner, adapters: Path) -> None:
    run("set-policy", SPACE, "--keep-original", "--no-references")
    run("set-policy", SPACE, "--budget", "0.02")
    space = run("spaces", "--json").json[0]
    assert (space["budget"], space["keep_original"], space["references"]) == (0.02, True, False)
    run("commit", adapters / "cola", "--task", "kept")
    run("checkout", "kept", "-o", "original", "--exact")
    assert (Path("original") / "adapter_model.safetensors").read_bytes() == (
        adapters / "cola" / "adapter_model.safetensors"
    ).read_bytes()


def test_text_of_others_cannot_drive_the_terminal(run: Runner, adapters: Path) -> None:
    run("commit", adapters / "cola", "--task", "evil", "-m", "\x1b]0;owned\x07")
    for arguments in (("log",), ("show", "evil"), ("lineage", "evil")):
        assert "\x1b" not in run(*arguments).out


def test_a_budget_may_be_a_percentage(run_empty: Runner, adapters: Path) -> None:
    assert (
        run_empty("commit", adapters / "cola", "--budget", "2.3%", "--json").json["report"][
            "budget"
        ]
        == 0.023
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tags",), "no tags yet\nhint: `share-registry -R {} tag NAME REF` makes one."),
        (("ls", "--name", "x*"), "no tasks that fit"),
        (("log", "--author", "x"), "no commits that fit"),
    ],
)
def test_an_empty_list_is_said_on_stderr(
    run_new: Runner, run: Runner, arguments: tuple[str, ...], said: str
) -> None:
    if arguments == ("tags",):
        run_new("init")
    shown = (run_new if arguments == ("tags",) else run)(*arguments)
    assert (shown.out, shown.err) == ("", f"{said.format(run_new.registry)}\n")


def test_quiet_prints_the_path_of_what_was_placed(
    run: Runner, run_new: Runner, tmp_path: Path
) -> None:
    placed = run("export", "cola@v1", tmp_path / "serve", "-q").lines
    assert [Path(path).is_dir() for path in placed] == [True]
    assert run_new("init", "-q").lines == [str(run_new.registry)]


def test_a_space_without_a_base_model_is_noted(run: Runner) -> None:
    assert (
        "note: the base model label is the space's name, 'lonely'"
        in run("create-space", "lonely").err
    )


def test_a_policy_requires_checks_that_the_command_line_says(run: Runner, tmp_path: Path) -> None:
    adapter = str(write_adapter(tmp_path / "qnli", seed=9))
    run("set-policy", SPACE, "--require", "size", "--require", "scan", "--max-dependents", "5")
    run("set-policy", SPACE, "--budget", "0.02")
    (space,) = run("spaces", "--json").json
    assert (space["require"], space["max_dependents"]) == (["scan", "size"], 5)
    refused = run("commit", adapter, "--check", "size=true", code=7).err
    assert "the policy requires scan, and what to run" in refused
    assert "hint: Say it with `--check scan=COMMAND`" in refused
    refused = run("commit", adapter, "--check", "size=true", "--check", "scan=false", code=7).err
    assert "error: task qnli: the adapter does not pass check scan: exit status 1" in refused
    assert run("ls", "--json", "--quiet").out.count("qnli") == 0
    checks = ("--check", "size@2=true", "--check", "scan=sh -c 'echo well done'")
    shown = run("commit", adapter, *checks)
    assert "note: passed scan: well done\nnote: passed size 2\n" in shown.out
    run("merge", "qnli=0.5", "--task", "half", *checks)
    run("set-policy", SPACE, "--require", "", "--max-dependents", "0")
    (space,) = run("spaces", "--json").json
    assert (space["require"], space["max_dependents"]) == ([], None)
    for wrong, said in ((("size",), "not NAME=COMMAND"), (("a=x", "a=y"), "given twice")):
        given = [part for check in wrong for part in ("--check", check)]
        assert said in run("commit", adapter, *given, code=2).err


def test_an_import_runs_the_checks(run: Runner, tmp_path: Path) -> None:
    run("set-policy", SPACE, "--require", "scan")
    for seed in (8, 9):
        write_adapter(tmp_path / "more" / f"t{seed}", seed=seed)
    assert "requires scan" in run("import", str(tmp_path / "more"), code=7).out
    run("import", str(tmp_path / "more"), "--check", "scan=true", "--workers", "2")
    assert "passed scan" in run("show", "t8").out
