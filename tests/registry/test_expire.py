"""Expired versions are not read any more, and nothing else changes."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from share_registry.outside.files import Outside
from share_registry.registry.maintenance import expire as module
from share_registry.registry.opening import open_context
from share_registry.values.policy import Policy
from tests.registry.conftest import Open
from tests.registry.planted import write_planted
from tests.registry.purging import continued

APART = Policy(references=False)
"""Nothing is built upon anything, so that every version can go."""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return write_planted(tmp_path / "adapters", 6, modules=2, width=96)


@pytest.fixture
def filled(open_registry: Open, folders: dict[str, Path]) -> sr.Registry:
    """A registry with five versions of `cola` and two of `mnli`, none built upon another."""
    registry = open_registry(mode="c")
    registry.create_space("tiny", base_model="acme/tiny", policy=APART)
    for name in sorted(folders)[:5]:
        registry.commit(folders[name], task="cola", labels={"run": name})
    for name in sorted(folders)[:2]:
        registry.commit(folders[name], task="mnli")
    return registry


def _digests(registry: sr.Registry, refs: list[str], root: Path) -> dict[str, str]:
    return {ref: registry.export(ref, root).digest for ref in refs}


def _refs(registry: sr.Registry) -> list[str]:
    return [task.ref for task in registry.tasks(all_versions=True)]


def test_the_newest_stay_and_nothing_else_changes(filled: sr.Registry, tmp_path: Path) -> None:
    kept = ["tiny/cola@v4", "tiny/cola@v5", "tiny/mnli@v1", "tiny/mnli@v2"]
    before = _digests(filled, kept, tmp_path / "before")
    foreseen = filled.expire(keep_last=2)
    assert foreseen.expired == ("tiny/cola@v1", "tiny/cola@v2", "tiny/cola@v3")
    assert (foreseen.dry_run, foreseen.commits) == (True, ())
    assert foreseen.freed_bytes > 0
    assert filled.log()[0].kind == "absorb"
    report = filled.expire(keep_last=2, dry_run=False, reason="old", author="ann")
    assert (report.expired, report.freed_bytes) == (foreseen.expired, foreseen.freed_bytes)
    commit = filled.log()[0]
    assert (commit.kind, commit.message, commit.author) == ("expire", "old", "ann")
    assert commit.detail == "expired cola@v1-v3"
    for ref in report.expired:
        with pytest.raises(sr.NotFoundError, match=f"c{commit.number} expired it"):
            filled.checkout(ref)
    assert _digests(filled, kept, tmp_path / "after") == before
    assert filled.verify("deep").ok
    # mnli holds two of the adapters under the same objects
    assert filled.gc(grace_days=0, dry_run=False).freed_bytes == report.freed_bytes
    assert filled.verify("deep").ok
    assert _digests(filled, kept, tmp_path / "collected") == before
    filled.rebuild()
    assert filled.verify("deep").ok
    assert _digests(filled, kept, tmp_path / "rebuilt") == before


def test_what_was_said_of_a_version_stays(filled: sr.Registry) -> None:
    filled.expire("cola", dry_run=False)
    listed = {task.ref: task for task in filled.tasks(all_versions=True)}
    assert listed["tiny/cola@v1"].labels["run"] == "t00"
    assert listed["tiny/cola@v1"].removed == filled.log()[0].number
    assert listed["tiny/cola@v5"].removed is None
    assert "removed in" in str(sr.Task.listing(list(listed.values())))
    nodes = filled.lineage("cola").nodes
    assert [node.removed is None for node in nodes] == [True, False, False, False, False]


@pytest.mark.parametrize("how", ["alias", "tag", "newest", "days"])
def test_what_stands_for_something_stays(filled: sr.Registry, how: str) -> None:
    if how == "alias":
        filled.set_alias("cola@v2", "prod")
    if how == "tag":
        filled.tag("release", "@c3")
    report = filled.expire("cola", keep_last=0, keep_days=1 if how == "days" else 0)
    stays = {
        "alias": {"v2": "alias prod"},
        "tag": {"v2": "tag release"},
        "newest": {},
        "days": {f"v{number}": "committed in the last 1 days" for number in range(1, 5)},
    }[how] | {"v5": "the newest of a live task"}
    assert {f"v{each.version}": each.kept for each in report.versions if each.kept} == stays
    if how == "tag":
        assert "tiny/cola@v2" in filled.expire(keep_tagged=False).expired


def test_what_others_are_built_upon_stays(open_registry: Open, folders: dict[str, Path]) -> None:
    registry = open_registry(mode="c")
    registry.create_space("tiny", base_model="acme/tiny")
    for name in sorted(folders):
        registry.commit(folders[name], task="cola", allow_duplicate=True)
    report = registry.expire()
    assert {each.kept for each in report.versions} >= {"others are built upon it"}
    # by name it goes: it is not read any more, and its object stays as long as it is needed
    needed = next(each.ref for each in report.versions if each.kept.startswith("others"))
    assert registry.expire(needed, dry_run=False).freed_bytes < 1024
    registry.gc(grace_days=0, dry_run=False)
    assert registry.verify("deep").ok
    with pytest.raises(sr.NotFoundError, match="expired it"):
        registry.export(needed, folders["t00"].parent / "out")
    # nothing new is built upon it
    registry.commit(folders["t00"], task="new")
    assert registry.verify("deep").ok


@pytest.mark.parametrize("ref", ["cola", "cola@v5", "cola@prod", "cola@v2", "nothing", "cola@v9"])
def test_a_version_that_must_stay_is_refused_by_name(filled: sr.Registry, ref: str) -> None:
    filled.set_alias("cola@v2", "prod")
    if ref == "cola":
        assert "tiny/cola@v2" not in filled.expire(ref, dry_run=False).expired
        with pytest.raises(sr.NotFoundError, match="expired it"):
            filled.expire("cola@v1")
        return
    number = len(filled.log())
    with pytest.raises((sr.RefusedError, sr.NotFoundError)):
        filled.expire(["cola@v1", ref], dry_run=False)
    assert len(filled.log()) == number


@pytest.mark.parametrize(
    "use",
    [
        lambda registry: registry.set_alias("cola@v1", "prod"),
        lambda registry: registry.restore("cola@v1"),
        lambda registry: registry.annotate("cola@v1", labels={"a": "b"}),
        lambda registry: registry.merge({"cola@v1": 1.0, "cola@v5": 1.0}, task="merged"),
        lambda registry: registry.checkout("cola@v1"),
        lambda registry: registry.diff("cola@v1", "cola@v5"),
        lambda registry: registry.similar("cola@v1"),
        lambda registry: sr.Materializer(registry).materialize("cola@v1"),
    ],
    ids=["alias", "restore", "annotate", "merge", "checkout", "diff", "similar", "materialize"],
)
def test_a_removed_version_is_not_used(
    filled: sr.Registry, use: Callable[[sr.Registry], object]
) -> None:
    filled.expire("cola", dry_run=False)
    number = len(filled.log())
    with pytest.raises(sr.NotFoundError, match=r"tiny/@c9 expired it on \d{4}-\d\d-\d\d"):
        use(filled)
    assert len(filled.log()) == number
    assert filled.verify("deep").ok


def test_a_version_that_was_trained_from_a_removed_one_says_so(
    filled: sr.Registry, folders: dict[str, Path]
) -> None:
    filled.expire("cola", dry_run=False)
    filled.gc(grace_days=0, dry_run=False)
    commit = filled.commit(folders["t05"], task="child", derived_from=["cola@v1"])
    assert [node.ref for node in filled.lineage(commit.ref).nodes][1] == "tiny/cola@v1"
    assert filled.verify("deep").ok


def test_a_restored_version_keeps_what_it_repeats(filled: sr.Registry, tmp_path: Path) -> None:
    digest = filled.export("cola@v1", tmp_path / "before", name="x").digest
    filled.restore("cola@v1")
    filled.set_policy(APART)
    filled.expire(["cola@v1", "mnli@v1"], dry_run=False)
    filled.gc(grace_days=0, dry_run=False)
    assert filled.checkout("cola@v6").tensors
    report = filled.verify("deep")
    assert report.ok
    assert not report.unexportable
    assert filled.export("cola@v6", tmp_path / "after", name="x").digest != digest
    assert "tiny/cola@v6" in _refs(filled)


def test_a_dropped_task_can_go_whole_and_come_again(
    filled: sr.Registry, folders: dict[str, Path]
) -> None:
    filled.drop("mnli")
    assert filled.expire("mnli", keep_last=0, dry_run=False).expired == (
        "tiny/mnli@v1",
        "tiny/mnli@v2",
    )
    with pytest.raises(sr.NotFoundError, match="expired it"):
        filled.restore("mnli@v2")
    assert filled.commit(folders["t05"], task="mnli").version == 3
    assert filled.verify("deep").ok


def test_an_alias_that_comes_meanwhile_wins(
    open_registry: Open, filled: sr.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, real = open_registry(mode="w"), module._publish

    def late(*arguments: object) -> object:
        other.set_alias("tiny/cola@v1", "prod")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_publish", late)
    with pytest.raises(sr.ConflictError, match="got an alias meanwhile"):
        filled.expire("cola", dry_run=False)
    assert filled.checkout("cola@prod").tensors
    monkeypatch.setattr(module, "_publish", real)
    assert "tiny/cola@v1" not in filled.expire("cola", dry_run=False).expired


def test_what_is_named_in_another_space_is_left_alone(
    filled: sr.Registry, folders: dict[str, Path]
) -> None:
    filled.create_space("other", base_model="acme/tiny", policy=APART)
    for name in ("t00", "t01"):
        filled.commit(folders[name], task="cola", space="other")
    assert filled.space("other").expire().expired == ("other/cola@v1",)
    assert filled.expire("other/cola").expired == ("other/cola@v1",)
    assert len(filled.expire(dry_run=False).commits) == 2
    assert filled.verify("deep").ok


def test_a_rule_that_makes_no_sense_is_refused(filled: sr.Registry) -> None:
    for options in ({"keep_last": -1}, {"keep_days": -0.5}):
        with pytest.raises(sr.InvalidInputError, match="from 0"):
            filled.expire(**options)


def test_days_are_counted_by_the_clock_of_commits(tmp_path: Path, folders: dict[str, Path]) -> None:
    class Later(Outside):
        days = 0

        def now(self) -> object:  # type: ignore[override]
            return super().now() + timedelta(days=self.days)

    outside = Later()
    context, _ = open_context(
        tmp_path / "registry", store=None, space=None, mode="c", outside=outside
    )
    registry = sr.Registry(context)
    registry.create_space("tiny", base_model="acme/tiny", policy=APART)
    for days, name in enumerate(("t00", "t01", "t02")):
        outside.days = 10 * days
        registry.commit(folders[name], task="cola")
    assert registry.expire(keep_days=15).expired == ("tiny/cola@v1",)
    assert registry.expire(keep_days=5).expired == ("tiny/cola@v1", "tiny/cola@v2")


def test_a_task_goes_on_after_what_it_is_built_upon_was_expired(
    open_registry: Open, folders: dict[str, Path]
) -> None:
    """The object is there still, as the newest version is decoded from it; nothing new is."""
    registry = open_registry(mode="c")
    registry.create_space("tiny", base_model="acme/tiny")
    registry.commit(folders["t00"], task="gone")
    registry.commit(folders["t01"], task="cola")
    with registry.context.reading() as session:
        first = version_lookups.version_row(session, "tiny", "gone", 1)
        row = version_lookups.version_row(session, "tiny", "cola", 1)
    assert first is not None
    assert row is not None
    assert first.adapter_digest in registry.context.reader().open(row.adapter_digest).stored.sources
    registry.drop("gone")
    registry.expire("gone@v1", dry_run=False)
    registry.gc(grace_days=0, dry_run=False)
    assert registry.context.store.has(first.adapter_digest)
    for name in ("t02", "t03", "t04"):
        assert registry.commit(folders[name], task="cola").created
    # the same object under another name is built upon nothing new
    assert registry.merge({"cola@v1": 1.0}, task="copy").created
    registry.set_policy(Policy(max_dependents=4), space="tiny")
    assert registry.commit(continued(folders["t01"], 9), task="cola").created
    registry.gc(grace_days=0, dry_run=False)
    assert registry.verify("deep").ok


def test_a_tag_whose_version_is_gone_keeps_no_other(filled: sr.Registry) -> None:
    filled.tag("release", "@c3")
    filled.expire("cola@v2", keep_tagged=False, dry_run=False)
    assert "tiny/cola@v1" in filled.expire("cola").expired
    with pytest.raises(sr.NotFoundError, match="expired it"):
        filled.checkout("cola@release")
