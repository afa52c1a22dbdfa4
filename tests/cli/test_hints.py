"""Hints are spoken in options, not in Python."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Final

import pytest

from share_registry.cli.hints import FALLBACK, at_place, for_terminal
from share_registry.cli.main import app, commands, main
from share_registry.cli.session import Session
from tests.cli.conftest import Runner
from tests.cli.tiny import write_adapter

ROOT: Final = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (
            "Give task='cola' to add a version to it, or another name.",
            "Give --task cola to add a version to it, or another name.",
        ),
        ("Name the task: task=...", "Name the task: --task"),
        ("Give task=.", "Give --task."),
        ("Pick another name, or give exist_ok=True.", "Pick another name, or give --exist-ok."),
        (
            "give allow_base_mismatch=True, or create the space with base_labels.",
            "give --allow-base-mismatch, or create the space with --base-label.",
        ),
        (
            "Commit with keep_original=True (or budget=0), without exact=True.",
            "Commit with --keep-original (or --budget 0), without --exact.",
        ),
        (
            "Retry with idempotency_key='a1-b2': it never",
            "Retry with --idempotency-key a1-b2: it never",
        ),
        (
            "Name one with space=, -s or $SHARE_REGISTRY_SPACE.",
            "Name one with -s or $SHARE_REGISTRY_SPACE.",
        ),
        ("Name the space with space= or -s.", "Name the space with -s."),
        ("Give labels=, metrics= or remove=.", "Give --label, --metric or --remove."),
        (
            "Give store= (--store) or set $SHARE_REGISTRY_STORE.",
            "Give --store or set $SHARE_REGISTRY_STORE.",
        ),
        (
            "Create it with mode 'c' or `share-registry init`.",
            "Create it with `share-registry init`.",
        ),
        ("Open it with mode 'w'.", "Use a verb that writes, such as `share-registry init`."),
        ("Name every task once: cola=adapters/cola.", "Name every task once: cola=adapters/cola."),
        (
            "Give one option per label or metric: --label team=search.",
            "Give one option per label or metric: --label team=search.",
        ),
        (
            "Create it: create_space('my-base', base_model='/mnt/my models/x').",
            "Create it: `share-registry create-space my-base --base-model '/mnt/my models/x'`.",
        ),
        (
            "Give None for as many as there are processors.",
            "Leave it out for as many as there are processors.",
        ),
        (
            "Convert it: torch.load(path, weights_only=True), with format='peft-bin'.",
            "Convert it: torch.load(path, weights_only=True), with --format peft-bin.",
        ),
        (
            "peft.save_as_lora(directory, model, rank=0.9999) or save(f(x), exact=True)",
            "peft.save_as_lora(directory, model, rank=0.9999) or save(f(x), exact=True)",
        ),
        ("Train it with wd_on_output=True.", "Train it with wd_on_output=True."),
        ("Ask observe(device='meta').", "Ask observe(device='meta')."),
        ("What came before: log(before=).", "What came before: `share-registry log --before`."),
        (
            "Fit one: registry.refit(max_rank=32, force=True).",
            "Fit one: `share-registry refit --max-rank 32 --force`.",
        ),
        ("Name one as adapter_name, or all.", "Name one as --adapter-name, or all."),
        ("If it is that, give space='a b' once.", "If it is that, give --space 'a b' once."),
        ("Give budgets=(0.01, 0.05).", "Give --budget 0.01 --budget 0.05."),
        ("Give refs=[...] or alias=....", "Give REF or --alias."),
        ("Run it with --no-dry-run (dry_run=False).", "Run it with --no-dry-run."),
        (
            "share them; a registry opened with mode 'r' reads its store instead.",
            "share them; verbs that only read take its store instead.",
        ),
        ("", FALLBACK),
    ],
)
def test_a_hint_is_spoken_in_options(hint: str, said: str) -> None:
    assert for_terminal(hint, app) == said


def _literal(node: ast.expr) -> str:
    """Return the text that a literal has, `X` for what is put into it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part) for part in node.values)
    return "X" if isinstance(node, ast.FormattedValue) else ""


def test_no_hint_of_the_package_names_an_option_that_no_verb_has() -> None:
    options = {
        option
        for command in commands().values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    hints = [
        _literal(keyword.value)
        for path in (ROOT / "share_registry").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "hint"
    ]
    assert len(hints) > 300
    for hint in hints:
        said = for_terminal(hint, app)
        named = set(re.findall(r"--[a-z-]+", said)) - set(re.findall(r"--[a-z-]+", hint))
        assert named <= options, said
        assert not re.search(r"mode '?[rwc]\b", said), said
        for call in re.findall(r"\b(?!registry\.)\w+\.\w+\([^()]*\)", hint):
            assert call in said


def _commands(hint: str) -> list[list[str]]:
    """Return the command lines in what was said, without `share-registry`."""
    return [shlex.split(line) for line in re.findall(r"`share-registry ([^`]*)`", hint)]


def test_a_command_in_a_hint_says_where_the_registry_is_as_the_user_did(
    run: Runner, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapter(tmp_path / "qw", seed=7, base="acme/qwen-tiny")
    refused = run("commit", tmp_path / "qw", "-s", "elsewhere", code=3)
    command = _commands(refused.err)[0]
    assert main(command) == 0
    assert not (tmp_path / "share-registry").exists()
    listed = json.loads(run("spaces", "--json").out)
    assert {space["name"]: space["base_model"] for space in listed}["elsewhere"] == "acme/qwen-tiny"


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "cola@v9"),
        ("show", "cola@prod~7"),
        ("show", "@c99"),
        ("-s", "tiny-model", "show", "cola@v9"),
    ],
)
def test_the_command_of_a_hint_runs(run: Runner, arguments: tuple[str, ...]) -> None:
    for command in _commands(run(*arguments, code=3).err):
        assert command[:2] == ["-R", str(run.registry)]
        assert main(command) == 0


def test_a_hint_keeps_a_password_to_itself() -> None:
    asked = Session(
        registry="postgresql://ada:p@ss@db/x", store="/s t", space="a", json=False, quiet=False
    )
    assert at_place("Run `share-registry log`.", asked) == (
        "Run `share-registry -R postgresql://ada@db/x --store '/s t' -s a log`."
    )
    assert (
        at_place("Or `share-registry -R here init`.", asked) == "Or `share-registry -R here init`."
    )


def test_a_space_that_was_meant_is_named_and_none_is_offered_in_its_place(
    run: Runner, adapters: Path
) -> None:
    for typo in ("tiny-modle", "nothing-like-it"):
        refused = run("commit", adapters / "cola", "-s", typo, code=3)
        assert "Did you mean tiny-model?" in refused.err
        assert "create-space" not in refused.err
