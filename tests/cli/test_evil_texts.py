"""Texts of strangers are harmless wherever they are shown: terminal, JSON, notebook, card."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import share_registry as sr
from share_registry.cli.main import main
from share_registry.escapes import code_span, html, json_text, one_line, printable
from share_registry.exchange.export_files import CardFacts, card_text
from share_registry.look.stylesheet import notebook_style
from share_registry.values.sheet import Sheet, as_html, as_text
from share_registry.values.text_table import Table, align
from spec.reader.exports import card
from tests.cli.evil import DRIVERS, EVIL, LINES, MARKUP, has_driver
from tests.cli.tiny import write_adapter

BASE = "org/`</code>**x**<img src=x onerror=y>"
FORGED = ("error: 0 %", "hint: Run `rm")
SAFE_TAGS = {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}
STYLE = f"<style>{notebook_style()}</style>"


class Tags(HTMLParser):
    """Gathers the elements of a document."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sr.Registry]:
    """A registry with texts of strangers wherever a registry takes a text."""
    tmp_path = tmp_path_factory.mktemp("evil")
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.create_space("evil", base_model=BASE, base_labels=[MARKUP])
        for seed, task in enumerate(("a", "b"), start=1):
            directory = write_adapter(tmp_path / task, seed=seed, near=1, base=BASE)
            (directory / f"{MARKUP}{DRIVERS}".replace("/", "").replace("\0", "")).write_text("x")
            (directory / f"\x1b[2J{task}.bin").write_text("x")
            config = json.loads((directory / "adapter_config.json").read_bytes())
            config |= {EVIL: EVIL, "modules_to_save": ["<script>\x1b\u202e"], "peft_version": EVIL}
            (directory / "adapter_config.json").write_text(json.dumps(config))
            registry.commit(
                directory,
                task=task,
                space="evil",
                message=LINES.replace("\0", ""),
                author=EVIL.replace("\0", ""),
                labels={MARKUP: LINES.replace("\0", "")},
                metrics={f"acc{MARKUP}\x1b[1m": 0.5},
            )
        registry.refit(max_rank=2, force=True)
        registry.set_alias("a@v1", "prod", reason=LINES.replace("\0", ""))
        registry.tag("rc", "a@v1", reason=LINES.replace("\0", ""))
        yield registry


def results(registry: sr.Registry) -> list[Any]:
    """Return a result of every verb that shows texts."""
    lists = (
        *(registry.log(), registry.tasks(), registry.aliases(), registry.tags()),
        *(registry.spaces(), registry.alias_history("a", "prod"), registry.similar("a")),
    )
    ones = (
        *(registry.show("a"), registry.lineage("a"), registry.diff("a", "b"), registry.basis()),
        *(registry.verify("deep"), registry.retention(), registry.analyze()),
        *(registry.resolve("a"), registry.checkout("a"), registry.audit(), registry.checkpoint()),
        registry.gc(),
    )
    return [*lists, *(item for items in lists for item in items), *ones]


def test_no_result_drives_a_terminal_or_a_notebook(registry: sr.Registry) -> None:
    for result in results(registry):
        for text in (str(result), repr(result)):
            assert not has_driver(text), (type(result), text)
        if hasattr(result, "_repr_html_"):
            shown = result._repr_html_().removeprefix(STYLE)
            assert not has_driver(shown), (type(result), shown)
            assert Tags(shown).tags <= SAFE_TAGS, (type(result), shown)


COMMANDS = (
    *(["log"], ["log", "--json"], ["show", "a"], ["show", "a", "--json"], ["lineage", "a"]),
    *(["ls"], ["ls", "--json"], ["spaces"], ["spaces", "--json"], ["aliases"], ["tags"]),
    *(["diff", "a", "b"], ["resolve", "a"], ["verify"], ["similar", "a"], ["retention"]),
    *(["log", "-q"], ["show", "a", "-q"], ["basis"], ["analyze"], ["doctor"]),
    *(["audit"], ["audit", "--json"], ["checkpoint"], ["gc"], ["refit", "--dry-run"]),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_drives_a_terminal_or_forges_a_line(
    command: list[str], registry: sr.Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["-R", registry.location, "-s", "evil", *command])
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert not has_driver(text), text
        assert not any(line.startswith(FORGED) for line in text.splitlines()), text
    if "--json" in command:
        json.loads(shown.out)


def test_json_keeps_what_it_escapes(
    registry: sr.Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["-R", registry.location, "show", "evil/a@v1", "--json"])
    message = json.loads(capsys.readouterr().out)["message"]
    assert message == LINES.replace("\0", "")


@pytest.mark.parametrize(
    "arguments", [["commit", "PLACE"], ["show", "PLACE"], ["export", "a", "-o", "PLACE/x\0"]]
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_error_drives_a_terminal_or_forges_a_line(
    arguments: list[str],
    options: list[str],
    registry: sr.Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = str(tmp_path / LINES.replace("/", "").replace("\0", ""))
    arguments = [argument.replace("PLACE", place) for argument in arguments]
    assert main(["-R", registry.location, "-s", "evil", *arguments, *options]) != 0
    text = capsys.readouterr().err
    assert not has_driver(text), text
    assert sum(line.startswith("hint: ") for line in text.splitlines()) <= 1
    assert not any(line.startswith(FORGED) for line in text.splitlines()), text


def test_the_text_of_an_error_is_harmless_and_its_message_whole(registry: sr.Registry) -> None:
    error = sr.InvalidInputError(f"file {EVIL} is bad.", hint=f"Remove {EVIL}.")
    assert not has_driver(str(error))
    assert EVIL in error.message


def test_a_card_has_a_base_model_as_code_whatever_it_is_called(
    registry: sr.Registry, tmp_path: Path
) -> None:
    export = registry.export("evil/a@v1", tmp_path / "out", overwrite=True)
    text = (export.path / "README.md").read_text()
    assert "for `org/\ufffd</code>**x**<img src=x onerror=y>`, exported" in text
    assert json.dumps(BASE) in text


@pytest.mark.parametrize("label", ["org/base", BASE, LINES, "`", "``a`", "a\u2028b", "日本\u202e"])
def test_a_card_is_what_the_specification_says(label: str) -> None:
    facts = {"ref": "s/t@v1", "error": 0.25, "budget": 0.5, "time": "2026-01-01T00:00:00Z"}
    label = label.replace("\0", "\ufffd")
    library = card_text(
        CardFacts(base_model=label, commit_number=3, commit_id="a" * 64, **facts),  # type: ignore[arg-type]
        profile="native",
    )
    said = facts | {"error": "0.25", "budget": "0.5", "number": 3, "id": "a" * 64}
    assert library == card(said, label)
    front, rest = library.decode().split("-->")
    assert not has_driver(front)
    line = rest.split("A LoRA adapter for ")[1].split("\n")[0]
    assert line.count("`") == 2
    assert not has_driver(line)


def test_escapes_of_each_kind() -> None:
    assert printable("a\x1b\u202e\nb") == "a\ufffd\ufffd\nb"
    assert one_line("a\r\nb\nc\x9b") == "a b c\ufffd"
    assert html("<a\x1b&'\">") == "&lt;a\ufffd&amp;&#x27;&quot;&gt;"
    assert code_span("a`b\n") == "`a\ufffdb\ufffd`"
    text = "é\u202e\x9b\U000e0001\U0001f600\n"
    assert json.loads(json_text([text])) == [text]
    assert "é" in json_text([text])
    assert not has_driver(json_text([text]))


def test_every_part_of_a_sheet_is_escaped() -> None:
    table = Table(headers=(EVIL, "b>"), rows=((EVIL, LINES),))
    sheet = Sheet(
        title=EVIL,
        text=(EVIL,),
        facts=((EVIL, LINES),),
        tables=(table,),
        total=EVIL,
        notes=(EVIL,),
    )
    for width in (None, 40, 200):
        assert not has_driver(as_text(sheet, width=width))
        assert not any(line.startswith(FORGED) for line in as_text(sheet, width=width).splitlines())
        assert len(align(table, width=width).splitlines()) == 2
    assert not has_driver(as_html(sheet))
    assert Tags(as_html(sheet)).tags <= SAFE_TAGS
