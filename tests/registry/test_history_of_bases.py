"""The log, the listings and lineages of spaces that have bases, re-expressed tasks and merges."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries.lineage import lineage
from share_registry.catalog.queries.log import LogQuery, commit_at, log
from share_registry.catalog.queries.task_pages import TaskQuery, tasks
from share_registry.values import sheet
from share_registry.values.commits import Log as ShownLog
from tests.catalog.logs import digest_of, whole_story


@pytest.fixture
def session() -> Iterator[Session]:
    told = whole_story()
    told.refit(name="later")  # c19
    told.refit({"both": 2}, bound=False, budget="0.1")  # c20
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        told.apply(session)
        yield session


def test_a_refit_says_which_basis_and_how_many_tasks_and_a_merge_what_of(session: Session) -> None:
    basis, later = digest_of("basis")[:8], digest_of("later")[:8]
    assert {
        commit.number: commit.detail for commit in log(session, LogQuery(space="base", limit=4))
    } == {
        17: f"basis {basis}, 2 tasks re-expressed",
        18: "both@v1 = 0.5 mnli@v2 + -0.25 sst2@v1, linear",
        19: f"basis {later}, for later commits",
        20: f"basis {basis}, 1 task re-expressed",
    }


@pytest.mark.parametrize(("kind", "numbers"), [("refit", [20, 19, 17]), ("merge", [18])])
def test_a_log_is_filtered_by_the_kinds_that_make_versions_of_versions(
    session: Session, kind: str, numbers: list[int]
) -> None:
    assert [commit.number for commit in log(session, LogQuery(space="base", kind=kind))] == numbers


def test_a_task_s_log_has_the_refits_that_re_expressed_it_alone(session: Session) -> None:
    assert [commit.number for commit in log(session, LogQuery(space="base", task="mnli"))] == [
        17,
        9,
    ]
    assert [commit.number for commit in log(session, LogQuery(space="base", task="both"))] == [
        20,
        18,
    ]


def test_a_report_of_a_refit_says_what_the_error_was_and_whether_it_is_a_bound(
    session: Session,
) -> None:
    report = commit_at(session, "base", 17).reports["mnli"]
    assert (report.error, report.before, report.bound, report.budget) == (0.06, 0.049, True, None)
    exact = commit_at(session, "base", 20).report
    assert exact is not None
    assert (exact.error, exact.before, exact.bound, exact.budget) == (0.06, 0.049, False, 0.1)
    merged = commit_at(session, "base", 18).report
    assert merged is not None
    assert (merged.before, merged.bound, merged.budget) == (None, False, 0.05)


def test_bounds_are_shown_as_bounds_wherever_an_error_is(session: Session) -> None:
    commits = [commit_at(session, "base", number) for number in (17, 20)]
    bounded, exact = repr(ShownLog(commits=tuple(commits))).splitlines()[1:]
    assert "<= 6.00 %" in bounded
    assert "6.00 %" in exact
    assert "<=" not in exact
    assert str(commits[0].reports["mnli"]).startswith(
        "error at most 6.00 % (4.90 % before) without a limit"
    )
    listed = {str(task.name): task for task in tasks(session, TaskQuery(space="base"))}
    assert {name: task.bound for name, task in listed.items()} == {
        "acceptability": False,
        "both": False,
        "mnli": True,
        "sst2": True,
    }
    assert "<= 6.00 %" in repr(listed["mnli"])
    assert "<= 6.00 %" in sheet.as_text(sheet.sheet_of([listed["mnli"]]))
    assert "<= 6.00 %" in repr(lineage(session, "base/mnli@v2"))


def test_a_merge_s_lineage_has_its_parents_with_their_weights(session: Session) -> None:
    nodes = [(node.ref, node.via, node.depth) for node in lineage(session, "base/both@v2").nodes]
    assert nodes[:3] == [
        ("base/both@v2", "", 0),
        ("base/both@v1", "version", 1),
        ("base/mnli@v2", "merged, 0.5", 2),
    ]
    assert ("base/sst2@v1", "merged, -0.25", 2) in nodes
    once = [ref for ref, via, _ in nodes if not via.startswith("merged")]
    assert len(set(once)) == len(once)


def test_a_lineage_has_every_edge_also_to_what_was_met_before(session: Session) -> None:
    story = lineage(session, "base/both@v2")
    edges = {(edge.ref, edge.parent, edge.via) for edge in story.edges}
    assert ("base/both@v2", "base/both@v1", "version") in edges
    assert ("base/both@v1", "base/mnli@v2", "merged, 0.5") in edges
    assert ("base/mnli@v2", "base/mnli@v1", "version") in edges
    refs = {node.ref for node in story.nodes}
    assert {ref for edge in story.edges for ref in (edge.ref, edge.parent)} <= refs
    assert refs - {edge.parent for edge in story.edges} == {"base/both@v2"}


def test_a_space_says_its_whole_policy(session: Session) -> None:
    from share_registry.catalog.queries.aliases import spaces

    policy = spaces(session)[0].policy
    assert (policy.refit, policy.k, policy.phi, policy.pseudo_rank) == (True, None, 0, None)
