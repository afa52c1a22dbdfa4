"""What pages show of a task: bounded, and the newest of it."""

from pathlib import Path

from share_registry.catalog.queries.task_histories import chronicle_of
from tests.cli.tiny import write_adapter
from tests.registry.conftest import Open


def test_of_many_moves_the_newest_are_listed(open_registry: Open, tmp_path: Path) -> None:
    with open_registry() as registry:
        for seed in (1, 2):
            registry.commit(write_adapter(tmp_path / f"{seed}", seed=seed), task="cola")
        for alias, ref in (
            *(("prod", "cola@v1"), ("canary", "cola@v1"), ("prod", "cola@v2")),
            *(("canary", "cola@v2"), ("prod", "cola@v1")),
        ):
            registry.set_alias(ref, alias)
        registry.remove_alias("cola", "canary")
        registry.set_alias("cola@v2", "canary")
        registry.drop("cola")
        everything = sorted(
            (
                move
                for alias in ("canary", "prod")
                for move in registry.alias_history("cola", alias)
            ),
            key=lambda move: (-move.number, move.name),
        )
        with registry.context.reading() as session:
            space = registry.spaces()[0].name
            listed = {
                limit: chronicle_of(session, space, "cola", limit=limit).moves
                for limit in range(1, 12)
            }
    assert len(everything) == 7
    for limit, moves in listed.items():
        assert [move.number for move in moves] == [move.number for move in everything[:limit]]
        assert {*moves} <= {*everything}
