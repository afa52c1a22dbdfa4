"""Whoever can write the catalog cannot change what a version is: records say so, and are asked."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

import share_registry as sr
from share_registry.values.checks import Outcome
from tests.cli.tiny import SPACE, write_adapter
from tests.conftest import url_of

EVIL = "(SELECT {} FROM sr_task_versions WHERE task = 2 AND version = 1)"


def _set(member: str, value: str, version: int = 1) -> str:
    """Change a version of task 1, which is good; task 2 is evil."""
    return f"UPDATE sr_task_versions SET {member} = {value} WHERE task = 1 AND version = {version}"


def _exchanged(member: str, version: int = 1) -> str:
    return _set(member, EVIL.format(member), version)


FORGERIES: dict[str, tuple[list[str], str]] = {
    "adapter": ([_exchanged("adapter_digest")], "good@v1"),
    "adapter and tensors": (
        [_exchanged("adapter_digest"), _exchanged("tensors_digest")],
        "good@prod",
    ),
    "layout": ([_set("layout_digest", "note_digest")], "good@v1"),
    "number of the commit": ([_set("number", "4")], "good@v1"),
    "commit id": (["UPDATE sr_commits SET id = 'f' WHERE number = 2"], "good@v1"),
    "time": (["UPDATE sr_commits SET time = '2001-01-01' WHERE number = 2"], "good@v1"),
    "note": ([_exchanged("note_digest"), _set("note_task", "'evil'")], "good@v1"),
    "config": ([_set("config_digest", "note_digest")], "good@v1"),
    "error": ([_set("error", "0")], "good@v1"),
    "adapter of a restored version": ([_exchanged("adapter_digest", 3)], "good@v3"),
    "origin of a restored version": ([_set("restored_from", "2", 3)], "good@v3"),
    "origin of a plain version": ([_set("restored_from", "1", 2)], "good@v2"),
    "alias": (["UPDATE sr_aliases SET version = 2 WHERE name = 'prod'"], "good@prod"),
    "alias of another task": (["UPDATE sr_aliases SET task = 1 WHERE name = 'live'"], "good@live"),
    "tag": (["UPDATE sr_tags SET number = 5"], "good@release"),
    "name": (["UPDATE sr_task_names SET task = 2, until = 9 WHERE name = 'good'"], "good@v1"),
    "name in place of another": (
        [
            "DELETE FROM sr_task_names WHERE name IN ('evil', 'worse')",
            "UPDATE sr_task_names SET task = 2 WHERE name = 'good'",
        ],
        "good@v1",
    ),
}
# Of a task that has no second version then
OF_ANOTHER_TASK = ("name", "name in place of another")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("forged")
    folders = [write_adapter(top / f"a{seed}", seed=seed) for seed in range(4)]
    with sr.Registry.open(top / "registry") as registry:
        registry.commit(folders[0], task="good")
        registry.commit(folders[1], task="good")
        registry.commit(folders[2], task="evil")
        registry.restore("good@v1")
        registry.set_alias("good@v1", "prod")
        registry.set_alias("evil@v1", "live")
        registry.tag("release", "@c3")
        registry.rename("evil", "worse")
        registry.rename("worse", "evil")
    return top


@pytest.fixture(params=["sqlite", "postgresql"])
def forged(
    request: pytest.FixtureRequest, written: Path, tmp_path: Path
) -> tuple[Callable[..., sr.Registry], Callable[[list[str]], None]]:
    """Open a copy of the registry over a catalog, and change that behind its back."""
    root = Path(shutil.copytree(written / "registry", tmp_path / "registry"))
    url = url_of(request, tmp_path)
    if url.startswith("sqlite"):
        url = f"sqlite:///{root}/catalog.sqlite"

    def opened(mode: str = "c") -> sr.Registry:
        return sr.Registry.open(url, store=root, mode=mode)

    def forge(statements: list[str]) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            for statement in statements:
                assert connection.execute(text(statement)).rowcount >= 1
        engine.dispose()

    with opened() as registry:
        assert registry.log()
    return opened, forge


Forged = tuple[Callable[..., sr.Registry], Callable[[list[str]], None]]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_catalog_never_gives_other_bytes_and_is_named(
    forged: Forged, tmp_path: Path, forgery: str
) -> None:
    opened, forge = forged
    statements, ref = FORGERIES[forgery]
    with opened() as registry:
        registry.checkout(ref.replace("@live", "@prod"))
        assert registry.verify("quick").ok
    forge(statements)
    for mode in ("r", "w"):
        with opened(mode) as registry:
            reads: list[Callable[[], object]] = [
                partial(registry.checkout, ref),
                partial(registry.export, ref, tmp_path / "out"),
                partial(sr.Materializer(registry).materialize, [ref]),
                partial(registry.diff, ref, "good@v2" if ref != "good@v2" else "good@v1"),
                partial(registry.merge, {ref: 0.5, "good@v2~0": 0.5}, task="m"),
            ]
            most = 3 if forgery in OF_ANOTHER_TASK else 4 + (mode == "w")
            for read in reads[:most]:
                with pytest.raises(sr.IntegrityError) as refused:
                    read()
                assert "verify" in refused.value.hint or "rebuild" in refused.value.hint
            report = registry.verify("quick", raise_on_damage=False)
            assert {finding.outcome for finding in report.findings} == {Outcome.CATALOG}
            with pytest.raises(sr.IntegrityError, match=r"CATALOG.*the catalog") as wrong:
                registry.verify("quick")
            assert "rebuild" in wrong.value.hint
    assert not (tmp_path / "out").exists()
    with opened("w") as registry:
        registry.rebuild()
        assert registry.verify("quick").ok
        assert str(registry.checkout(ref.replace("@live", "@prod")).ref).startswith(f"{SPACE}/good")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM sr_aliases WHERE name = 'prod'",
        "UPDATE sr_tags SET name = 'later'",
        "UPDATE sr_spaces SET budget = 0.5",
        "UPDATE sr_commits SET author = 'somebody' WHERE number = 2",
        "DELETE FROM sr_touches WHERE number = 3",
        "DELETE FROM sr_objects",
        "UPDATE sr_modules SET experts = 2",
        "UPDATE sr_task_lives SET until = 6 WHERE task = 2",
        "UPDATE sr_commits SET detail = 'other' WHERE number = 8",
    ],
)
def test_verify_compares_every_table_with_the_log(forged: Forged, statement: str) -> None:
    opened, forge = forged
    forge([statement])
    with opened("w") as registry:
        report = registry.verify("quick", raise_on_damage=False)
        table = statement.split()[2 if statement.startswith("DELETE") else 1]
        assert {finding.what.split()[0] for finding in report.findings} == {table}
        assert {(finding.code, finding.outcome) for finding in report.findings} == {
            ("CATALOG", Outcome.CATALOG)
        }


def test_a_commit_is_not_left_out_because_a_catalog_says_it_is_there(
    forged: Forged, written: Path
) -> None:
    opened, forge = forged
    with opened("w") as registry:
        committed = registry.commit(written / "a3", task="new")
        assert registry.commit(written / "a3", task="new").number == committed.number
    of_new = "(SELECT source_digest FROM sr_task_versions WHERE task = 3)"
    forge([f"UPDATE sr_task_versions SET source_digest = {of_new} WHERE task = 2"])
    with opened("w") as registry, pytest.raises(sr.IntegrityError, match="source"):
        registry.commit(written / "a3", task="evil")
