"""Results as text and HTML."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from share_registry.names import CommitNumber, Digest, SpaceName, TaskName
from share_registry.values import commits, sheet
from share_registry.values.checks import Diff, Export, Finding, TaskDiff, VerifyReport
from share_registry.values.commits import Commit, Log, modules_sheet
from share_registry.values.cost_reports import AdapterReport, ModuleReport
from share_registry.values.policy import Policy
from share_registry.values.references import ResolvedReference, Tag
from share_registry.values.sheet import as_text
from share_registry.values.tasks import Lineage, LineageNode
from share_registry.values.text_table import Table, align

REPORT = AdapterReport(
    error=0.0487,
    budget=0.05,
    bytes_added=33_210,
    raw_bytes=295_140,
    modules=(
        ModuleReport(
            module="layer.0.query",
            side="a",
            reference="rows of c2",
            rank=8,
            bits_per_parameter=3.25,
            error=0.06,
            bytes=1250,
        ),
    ),
    notes=("optimizer.pt was not kept",),
)
COMMIT = Commit(
    number=CommitNumber(2),
    id=Digest("1a2b3c4d" * 8),
    parent=Digest("0" * 64),
    kind="absorb",
    space=SpaceName("minilm"),
    time=datetime(2026, 11, 16, 20, 38, 5, tzinfo=UTC),
    key="k",
    author="<ada>",
    message="first\nsecond line",
    refs={"cola": "minilm/cola@v1"},
    reports={"cola": REPORT},
)
NODE = LineageNode(
    ref="minilm/cola@v1",
    number=CommitNumber(2),
    id=COMMIT.id,
    kind="absorb",
    time=COMMIT.time,
    author=None,
    message="",
    source="",
    error=0.05,
    via="",
    depth=0,
)


def test_a_report_prints_as_one_line() -> None:
    assert str(REPORT) == "error 4.87 % of a 5 % budget, 33 kB for 295 kB"
    assert (
        str(AdapterReport(error=0, budget=0, bytes_added=10, raw_bytes=20))
        == "lossless, 10 B for 20 B"
    )


def test_a_commit_has_a_short_repr_and_a_full_text() -> None:
    assert repr(COMMIT) == (
        "<Commit minilm/cola@v1 (c2 1a2b3c4d) absorb, "
        "error 4.87 % of a 5 % budget, 33 kB for 295 kB>"
    )
    for part in (
        "minilm/cola@v1",
        COMMIT.id,
        "2026-11-16 20:38:05 UTC",
        "<ada>",
        "note: optimizer.pt was not kept",
    ):
        assert part in str(COMMIT)
    assert "rows of c2" in as_text(modules_sheet(COMMIT))


def test_a_log_is_a_sequence_and_prints_as_a_table() -> None:
    log = Log(commits=(COMMIT, COMMIT))
    assert (len(log), log[0], list(log)) == (2, COMMIT, [COMMIT, COMMIT])
    assert log[1:] == Log(commits=(COMMIT,))
    header, *rows = repr(log).splitlines()
    assert header.split() == [
        "commit",
        "id",
        "time",
        "(UTC)",
        "kind",
        "what",
        "error",
        "bytes",
        "author",
        "message",
    ]
    assert len(rows) == 2
    assert rows[0].endswith("first")


def test_a_log_of_several_spaces_says_which() -> None:
    commit = replace(COMMIT, space=SpaceName("other"))
    assert repr(Log(commits=(COMMIT, commit))).split()[0] == "space"
    assert repr(Log(commits=(COMMIT, COMMIT))).split()[0] == "commit"


def test_columns_are_aligned_and_lines_are_cut() -> None:
    table = Table(headers=("name", "n>"), rows=(("a", "1"), ("long", "100")))
    assert align(table).splitlines() == ["name    n", "a       1", "long  100"]
    assert align(table, width=7).splitlines() == ["name  …", "a     …", "long  …"]


def test_a_table_without_headers_is_empty_and_one_without_rows_is_its_headers() -> None:
    for width in (None, 5):
        assert align(Table.of([]), width=width) == ""
        assert align(Table(headers=("name", "n>"), rows=()), width=width).startswith("name")


@pytest.mark.parametrize("header", ["id", "task"])
@pytest.mark.parametrize("cell", ["-", "a text that does not fit"])
def test_the_first_column_stays_even_where_it_says_nothing(header: str, cell: str) -> None:
    table = Table(headers=(header, "bbbb"), rows=(("-", cell),), spare=(header,))
    head, row = align(table, width=5).splitlines()
    assert head.startswith(header)
    assert row.startswith("-")


HEADERS = ("id", "name", "n>", "time (UTC)")
CELLS = st.sampled_from(["", "-", "short", "a text that is longer than most"])


@given(drawn=st.data(), width=st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_any_table_has_a_text_of_any_width(drawn: st.DataObject, width: int) -> None:
    headers = drawn.draw(st.permutations(HEADERS))[: drawn.draw(st.integers(0, len(HEADERS)))]
    rows = drawn.draw(st.lists(st.tuples(*[CELLS] * len(headers)), max_size=3))
    table = Table(
        headers=tuple(headers),
        rows=tuple(rows),
        spare=drawn.draw(st.sampled_from([(), HEADERS])),
        elided=drawn.draw(st.booleans()),
        stacked=drawn.draw(st.booleans()),
        by_ending=drawn.draw(st.booleans()),
    )
    assert len(align(table, width=width).partition("\n")[0]) <= max(width, 1)


def test_a_narrow_table_loses_empty_columns_then_ids_then_seconds_and_keeps_the_message() -> None:
    row = ("c2", "1a2b3c4d", "2026-11-16 20:38:05", "-", "t" * 30, "a message")
    table = Table(
        headers=("commit", "id", "time (UTC)", "author", "labels", "message"), rows=(row,)
    )
    shown = {width: align(table, width=width).splitlines() for width in (100, 86, 82, 72, 60, 20)}
    assert "author" in shown[100][0]
    assert "author" not in shown[86][0]
    assert "1a2b3c4d" in shown[86][1] or len(shown[86][1]) > 86
    assert "1a2b3c4d" not in shown[72][1]
    assert "20:38:05" in shown[72][1] or "20:38" in shown[72][1]
    assert "20:38:05" not in shown[60][1]
    assert "t…" in shown[60][1]
    assert shown[60][1].endswith("a message")
    for width, lines in shown.items():
        assert max(map(len, lines)) <= width


def test_a_narrow_log_shortens_authors_first_and_keeps_the_kind() -> None:
    commit = replace(COMMIT, author="maximiliane.musterfrau@acme", message="a word on it")
    header, row = as_text(sheet.sheet_of(Log(commits=(commit,))), width=80).splitlines()
    assert (len(row) <= 80, "kind" in header, "error" in header) == (True, True, True)
    for part in ("2026-11-16 20:38", "absorb", "cola@v1", "4.87 %", "a word on it"):
        assert part in row
    assert " maximil…" in row


def test_a_narrow_lineage_keeps_weights_and_times() -> None:
    merged = replace(
        NODE,
        ref="minilm/a-longer-name@v1",
        author="maximiliane.musterfrau@acme",
        message="a message of some length, to be shortened",
        source="/a/path/that/nobody/needs/to/see/here",
        via="merged, 0.3333333333333333",
        depth=1,
    )
    lineage = Lineage(ref=NODE.ref, base_model="b", base_revision=None, nodes=(NODE, merged))
    *_, row = as_text(lineage.sheet(), width=80).splitlines()
    assert row.startswith("└─ a-longer-name@v1  merged, 0.3333  ")
    assert "2026-11-16 20:38" in row
    assert len(row) <= 80


def test_a_narrow_diff_has_members_and_values_whole_and_counts_what_is_the_same() -> None:
    targets = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    many = ", ".join(f"layers.{layer}.q_proj" for layer in range(40))
    changed = TaskDiff(
        task=TaskName("cola"),
        status="changed",
        a="minilm/cola@v1",
        b="minilm/cola@v2",
        change=0.1,
        metadata={
            "config.target_modules": (targets, f"{targets}, lm_head"),
            "config.exclude_modules": (many, f"{many}, lm_head"),
        },
    )
    same = replace(changed, status="same", b=changed.a, change=0.0, metadata={})
    diff = Diff(a="minilm/@c2", b="minilm/@c3", tasks=(changed, same, same))
    lines = as_text(diff.sheet(), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "cola  config.target_modules" in lines
    assert f"  in a  {targets}" in lines
    assert "  in b  lm_head, 40 that both have" in lines
    assert lines[-1] == "2 tasks are the same"
    assert "config.target_modules" in as_text(diff.sheet())


def test_facts_go_on_below_themselves_where_a_terminal_is_narrow() -> None:
    facts = (("targets", "query, key, value, dense"), ("r", "8"))
    assert as_text(sheet.Sheet(facts=facts), width=30).splitlines() == [
        "  targets  query, key, value,",
        "           dense",
        "  r        8",
    ]


def test_findings_have_short_ids_and_no_second_full_stop() -> None:
    finding = Finding(code="OBJ-01", what="a" * 64, message=f"found {'b' * 64}.")
    shown = str(
        VerifyReport(
            level="data", spaces=1, records=1, objects=1, bytes=1, versions=1, findings=(finding,)
        )
    )
    assert "a" * 9 not in shown
    assert "found bbbbbbbb  -" in shown


def test_a_dry_run_says_so_once_and_has_no_empty_id() -> None:
    assert commits.brief_sheet(replace(COMMIT, id=Digest(""))).title.splitlines()[1:] == [
        "(dry run: nothing was written)"
    ]


@pytest.mark.parametrize(
    "value",
    [
        COMMIT,
        REPORT,
        Log(commits=(COMMIT,)),
        Lineage(ref="minilm/cola@v1", base_model="<b>", base_revision=None, nodes=(NODE,)),
    ],
)
def test_html_escapes_what_users_wrote(value: Commit | AdapterReport | Log | Lineage) -> None:
    html = value._repr_html_()
    assert html.startswith("<style>.share-registry {")
    assert "<ada>" not in html
    assert "<b>" not in html


def test_long_cells_are_broken_numbers_are_aligned_and_no_style_stands_in_an_element() -> None:
    commit = replace(COMMIT, message="word " * 12)
    html = sheet.as_html(Log(commits=(commit,)).sheet())
    assert '<th scope="col" class="number">error</th>' in html
    assert '<td class="number">4.87 %</td>' in html
    assert f'<td class="long">{"word " * 11}word</td>' in html
    assert "style=" not in html


def test_a_list_stays_a_list_and_its_slices_are_tables_too() -> None:
    tags = [
        Tag(name=name, space=COMMIT.space, number=COMMIT.number, id=COMMIT.id, time=COMMIT.time)
        for name in ("a", "<b>")
    ]
    listed = sheet.Listing(tags)
    assert listed == tags
    assert listed[1] == tags[1]
    assert listed[1:] == tags[1:]
    assert "&lt;b&gt;" in listed[1:]._repr_html_()
    assert "&lt;b&gt;" in tags[1]._repr_html_()


def test_a_policy_is_a_table_and_its_repr_still_makes_it() -> None:
    policy = Policy(budget=0.05, require=("scan",))
    assert eval(repr(policy)) == policy
    assert '<th scope="row">budget</th><td>5 %</td>' in policy._repr_html_()


def test_what_could_drive_a_terminal_is_replaced() -> None:
    assert "\x1b" not in sheet.as_text(
        sheet.Sheet(title="\x1b[1m", facts=(("a", "\x1b"),), notes=("\x07",))
    )


def test_a_lineage_is_a_tree() -> None:
    parent = LineageNode(
        **{name: getattr(NODE, name) for name in NODE.__slots__}
        | {"ref": "minilm/cola@v0", "depth": 1, "via": "version"}
    )
    shown = str(Lineage(ref=NODE.ref, base_model="base", base_revision="abc", nodes=(NODE, parent)))
    assert shown.startswith("minilm/cola@v1 on base (abc)\n")
    assert "\n└─ cola@v0  version" in shown


def test_results_have_a_line_as_repr_and_html() -> None:
    diff = Diff(a="s/a@v1", b="s/a@v2", tasks=())
    export = Export(
        path=Path("serve/a"),
        ref="s/a@v1",
        name="a",
        digest=Digest("0" * 64),
        notes=(),
        profile="native",
        tensors=Digest("0" * 64),
    )
    resolved = ResolvedReference(
        ref="s/a@v1", space=SpaceName("s"), number=CommitNumber(2), id=COMMIT.id
    )
    assert repr(diff) == "<Diff s/a@v1 .. s/a@v2: 0 changes>"
    assert repr(export) == f"<Export s/a@v1 at {Path('serve/a')}>"
    assert repr(resolved) == "<ResolvedReference s/a@v1 (c2 1a2b3c4d)>"
    for value in (diff, export, resolved):
        assert '<p class="title">' in value._repr_html_()
