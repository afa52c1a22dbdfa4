"""Damage to the log of one space: it is named, it stays there, and people go on working.

Every other space is read and written as ever. In the damaged one, what came before the damage is
answered, what its end decides is not, and nothing is written until the damage is given up.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries.resolution import version_of
from tests.cli.tiny import write_adapter
from tests.conftest import url_of

DAMAGED, SOUND = "damaged", "sound"
# c1 creates, c2 commits v1, c3 sets the alias to it, c4 and c5 commit v2 and v3, c6 moves the alias
EVENTS = 6
LOST = 5
Damage = Callable[[Path], None]


def _missing(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:40])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.unlink()
    path.write_bytes(content)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: tuple[Damage, ...] = (_missing, _cut, _flipped, _directory)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two spaces of the same history, and the adapters they were made of."""
    top = tmp_path_factory.mktemp("spaces")
    folders = [write_adapter(top / f"cola{seed}", seed=seed) for seed in range(1, 5)]
    with sr.Registry.open(top / "registry") as registry:
        for name in (DAMAGED, SOUND):
            space = registry.create_space(name, base_model="tiny/base", base_labels=[])
            for folder in folders[:3]:
                space.commit(folder, task="cola", allow_base_mismatch=True)
                if folder is folders[0]:
                    space.set_alias("cola@v1", "prod")
            space.set_alias("cola@v2", "prod")
    return top


@pytest.fixture(params=["sqlite", "postgresql"])
def place(
    request: pytest.FixtureRequest, written: Path, tmp_path: Path
) -> Callable[..., sr.Registry]:
    """Open a copy of it, with an empty catalog of either kind."""
    root = tmp_path / "registry"
    shutil.copytree(written / "registry", root)
    (root / "catalog.sqlite").unlink()
    url = url_of(request, tmp_path)
    identity = json.loads((root / "FORMAT").read_bytes())["store"]
    Catalog.open(url, store_id=identity).close()

    def opened(mode: str = "w") -> sr.Registry:
        return sr.Registry.open(url, store=root, mode=mode)

    return opened


def record(tmp_path: Path, number: int, space: str = DAMAGED) -> Path:
    return tmp_path / "registry" / "spaces" / space / "log" / f"{number:020}.json"


def require_unharmed(space: sr.Registry, top: Path, out: Path, *, writes: bool) -> None:
    """Use every kind of verb on the sound space."""
    assert len(space.log()) == EVENTS
    assert space.resolve("cola@prod").ref == f"{SOUND}/cola@v2"
    assert space.export("cola@prod", out).ref == f"{SOUND}/cola@v2"
    assert space.checkout("cola@latest").ref == f"{SOUND}/cola@v3"
    assert [task.ref for task in space.tasks()] == [f"{SOUND}/cola@v3"]
    if writes:
        assert space.commit(top / "cola4", task="sst2", allow_base_mismatch=True).number == 7
        assert space.set_alias("sst2@v1", "prod").number == 8
        assert space.refit(max_rank=2, force=True).number == 9


def require_answered_before(space: sr.Registry, damaged: int) -> None:
    """What came before the damage is answered, what the end of the log decides is not."""
    assert space.resolve("cola@v1").number == 2
    assert space.show("@c3").kind == "alias"
    assert space.checkout("cola@v1").ref == f"{DAMAGED}/cola@v1"
    assert [commit.number for commit in space.log(before="@c3")] == [2, 1]
    asks: list[Callable[[], object]] = [
        lambda: space.resolve("cola@prod"),
        lambda: space.resolve("cola"),
        lambda: space.checkout("cola@latest"),
        lambda: space.show("@head"),
        lambda: space.resolve("cola@v9"),
        space.log,
        space.tasks,
        space.aliases,
        space.tags,
    ]
    for ask in asks:
        with pytest.raises(sr.IntegrityError, match=f"c{damaged} of space {DAMAGED}") as refused:
            ask()
        assert f"--accept-loss {DAMAGED}/@c{damaged - 1}" in refused.value.hint


def require_refused(space: sr.Registry, top: Path, damaged: int) -> None:
    """Nothing is written to the damaged space."""
    writes: list[Callable[[], object]] = [
        lambda: space.commit(top / "cola4", task="sst2", allow_base_mismatch=True),
        lambda: space.set_alias("cola@v1", "next"),
        lambda: space.set_policy(sr.Policy(budget=0.1), space=DAMAGED),
        lambda: space.refit(max_rank=2, force=True),
    ]
    for write in writes:
        with pytest.raises(sr.IntegrityError, match=f"c{damaged} of space {DAMAGED}"):
            write()


@pytest.mark.parametrize("mode", ["r", "w", "c"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__[1:])
def test_damage_to_one_space_costs_the_others_nothing(
    place: Callable[..., sr.Registry],
    written: Path,
    tmp_path: Path,
    damage: Damage,
    mode: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(record(tmp_path, LOST))
    for turn in range(2):
        # the second time a catalog that writes is there, and stops before the damage
        with place(mode) as registry:
            writes = mode != "r" and turn == 1
            require_unharmed(registry.space(SOUND), written, tmp_path / "out", writes=writes)
            damaged = sr.Registry(registry.context, DAMAGED)  # type: ignore[arg-type]
            require_answered_before(damaged, LOST)
            if mode != "r":
                require_refused(damaged, written, LOST)
            report = registry.verify("quick", raise_on_damage=False)
            assert f"{DAMAGED}/@c{LOST}" in {finding.what for finding in report.findings}
            assert not any(SOUND in finding.what for finding in report.findings)
        assert f"c{LOST} of space {DAMAGED}" in caplog.text
        assert f"--accept-loss {DAMAGED}/@c{LOST - 1}" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("damage", DAMAGES[1:], ids=lambda damage: damage.__name__[1:])
def test_an_alias_is_not_answered_where_its_last_move_is_damaged(
    place: Callable[..., sr.Registry], tmp_path: Path, damage: Damage
) -> None:
    damage(record(tmp_path, EVENTS))
    for mode in ("r", "w"):
        with (
            place(mode) as registry,
            pytest.raises(sr.IntegrityError, match=f"c{EVENTS} of space {DAMAGED}"),
        ):
            registry.export(f"{DAMAGED}/cola@prod", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__[1:])
def test_a_space_is_written_again_once_its_damaged_records_are_given_up(
    place: Callable[..., sr.Registry],
    written: Path,
    tmp_path: Path,
    damage: Damage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(record(tmp_path, LOST))
    log = record(tmp_path, LOST).parent
    kept = record(tmp_path, EVENTS).read_bytes()
    with place() as registry:
        with pytest.raises(sr.IntegrityError, match=f"c{LOST} of space {DAMAGED}"):
            registry.rebuild()
        with pytest.raises(sr.RefusedError, match=f"sound up to c{LOST - 1}"):
            registry.rebuild(accept_loss=f"{DAMAGED}/@c{LOST - 2}")
        with pytest.raises(sr.RefusedError, match=f"sound up to c{LOST - 1}"):
            registry.rebuild(accept_loss=f"{DAMAGED}/@c{LOST}")
        with pytest.raises(sr.RefusedError, match=f"sound up to c{EVENTS}"):
            registry.rebuild(accept_loss=f"{SOUND}/@c1")
        assert record(tmp_path, EVENTS).exists()
        caplog.clear()
        assert registry.rebuild(accept_loss=f"{DAMAGED}@c{LOST - 1}") == LOST - 1
        assert f"given up: {DAMAGED}/@c{EVENTS} (alias" in caplog.text
        assert "another id" in caplog.text
        assert registry.resolve(f"{DAMAGED}/cola@prod").version == 1
        made = registry.commit(
            written / "cola3", task=f"{DAMAGED}/cola", allow_base_mismatch=True, budget=0
        )
        assert (made.number, made.version) == (LOST, 3)
        assert registry.verify("deep").ok
        assert len(registry.log(SOUND)) == EVENTS
    assert len([*log.iterdir()]) == LOST
    kept_files = [*(tmp_path / "registry" / "quarantine").rglob(f"*{EVENTS}.json")]
    assert [path.read_bytes() for path in kept_files] == [kept]
    assert kept_files[0].relative_to(tmp_path / "registry").parts[2:5] == ("spaces", DAMAGED, "log")


def test_all_of_a_space_can_be_given_up(
    place: Callable[..., sr.Registry], written: Path, tmp_path: Path
) -> None:
    _cut(record(tmp_path, 1))
    with place() as registry:
        assert registry.rebuild(accept_loss=f"{DAMAGED}/@c0") == 0
        assert [space.name for space in registry.spaces()] == [SOUND]
        assert registry.create_space(DAMAGED, base_model="tiny/base").summary.commits == 1
        assert registry.verify("data").ok


@pytest.mark.parametrize("moved", [1, 2])
def test_giving_up_can_be_interrupted_and_run_again(
    place: Callable[..., sr.Registry], tmp_path: Path, moved: int
) -> None:
    _cut(record(tmp_path, LOST))
    passed = 0

    def hook(point: str) -> None:
        nonlocal passed
        passed += point == "quarantine.moved"
        if point == "quarantine.moved" and passed == moved:
            raise KeyboardInterrupt

    with place() as registry:
        registry.context.outside._hook = hook
        with pytest.raises(KeyboardInterrupt):
            registry.rebuild(accept_loss=f"{DAMAGED}/@c{LOST - 1}")
        registry.context.outside._hook = None
        # the log is damaged where it was, and ends no later
        assert not record(tmp_path, EVENTS).exists()
        assert record(tmp_path, LOST).exists() == (moved == 1)
        assert registry.rebuild(accept_loss=f"{DAMAGED}/@c{LOST - 1}") == LOST - 1
        assert registry.verify("data").ok
    assert len([*(tmp_path / "registry" / "quarantine").rglob("*.json")]) == 2


def test_a_damaged_object_is_set_aside_and_comes_back_with_a_commit(
    place: Callable[..., sr.Registry], written: Path, tmp_path: Path
) -> None:
    with place() as registry:
        with registry.context.reading() as session:
            damaged, sound = (
                version_of(session, f"{SOUND}/cola@v{version}").adapter_digest for version in (1, 2)
            )
        path = tmp_path / "registry" / "objects" / damaged[:2] / damaged[2:]
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(b"rotten")
        with pytest.raises(sr.RefusedError, match=f"1 object is sound: {sound}"):
            registry.quarantine([damaged, sound])
        with pytest.raises(sr.NotFoundError, match="0000"):
            registry.quarantine("0" * 64)
        assert path.exists()
        moved = registry.quarantine(damaged)
        kept = tmp_path / "registry" / moved.place / moved.moved[0]
        assert kept.read_bytes() == b"rotten"
        with pytest.raises(sr.IntegrityError, match=damaged):
            registry.checkout(f"{SOUND}/cola@v1")
        assert damaged in {
            finding.what.removeprefix("object ")
            for finding in registry.verify(raise_on_damage=False).findings
        }
        registry.context.store.put(content, damaged)
        assert registry.checkout(f"{SOUND}/cola@v1").ref == f"{SOUND}/cola@v1"
        assert registry.verify("deep").ok
        assert registry.quarantine(sound, force=True).moved == (f"objects/{sound[:2]}/{sound[2:]}",)


def _rotten(path: Path) -> None:
    """Change one letter of the record so that it stays well-formed."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.replace(b'"time":"2', b'"time":"3'))


@pytest.mark.parametrize("damage", [_missing, _rotten], ids=lambda damage: damage.__name__[1:])
@pytest.mark.parametrize("catalog", ["lost", "kept"])
def test_damage_to_the_last_record_is_seen_without_a_catalog(
    place: Callable[..., sr.Registry],
    written: Path,
    tmp_path: Path,
    damage: Damage,
    catalog: str,
) -> None:
    if catalog == "kept":
        with place() as registry:
            assert len(registry.log(DAMAGED)) == EVENTS
    damage(record(tmp_path, EVENTS))
    for mode in ("r", "w", "w"):
        with place(mode) as registry:
            if catalog == "lost" or damage is _rotten:
                with pytest.raises(sr.IntegrityError, match=f"c{EVENTS} of space {DAMAGED}"):
                    registry.export(f"{DAMAGED}/cola@prod", tmp_path / "out")
            if mode == "w":
                with pytest.raises(sr.IntegrityError, match=f"c{EVENTS} of space {DAMAGED}"):
                    registry.set_alias(f"{DAMAGED}/cola@v1", "next")
            report = registry.verify("quick", raise_on_damage=False)
            assert [finding.what for finding in report.findings] == [f"{DAMAGED}/@c{EVENTS}"]
            assert len(registry.log(SOUND)) == EVENTS
    with place() as registry:
        with pytest.raises(sr.RefusedError if damage is _missing else sr.IntegrityError):
            registry.rebuild()
        assert registry.rebuild(accept_loss=f"{DAMAGED}/@c{EVENTS - 1}") == EVENTS - 1
        assert registry.set_alias(f"{DAMAGED}/cola@v3", "prod").number == EVENTS
        assert registry.verify("data").ok


def test_the_record_of_the_store_can_be_taken_where_a_catalog_knows_another(
    place: Callable[..., sr.Registry], tmp_path: Path
) -> None:
    with place() as registry:
        assert len(registry.log(DAMAGED)) == EVENTS
    _rotten(record(tmp_path, EVENTS))
    (tmp_path / "registry" / f"catalog.sqlite.head-{DAMAGED}").unlink()
    with place() as registry:
        with pytest.raises(sr.IntegrityError, match="catalog knows it as") as refused:
            registry.set_alias(f"{DAMAGED}/cola@v1", "next")
        assert f"--accept-loss {DAMAGED}/@c{EVENTS}" in refused.value.hint
        assert registry.rebuild(accept_loss=f"{DAMAGED}/@c{EVENTS}") == EVENTS
        assert registry.set_alias(f"{DAMAGED}/cola@v1", "next").number == EVENTS + 1
        assert registry.verify("data").ok


def test_what_is_noted_of_the_last_record_may_be_lost_or_behind(
    place: Callable[..., sr.Registry], tmp_path: Path
) -> None:
    note = tmp_path / "registry" / f"catalog.sqlite.head-{DAMAGED}"
    content = note.read_bytes()
    with place() as registry:
        registry.set_alias(f"{DAMAGED}/cola@v1", "next")
        assert note.read_bytes() != content
    for stale in (content, None, b""):
        note.unlink(missing_ok=True)
        if stale is not None:
            note.write_bytes(stale)
        with place() as registry:
            report = registry.verify("data", raise_on_damage=False)
            # one that says nothing does not belong there
            assert [finding.what for finding in report.findings] == (
                [note.name] if stale == b"" else []
            )
            assert registry.resolve(f"{DAMAGED}/cola@next").version == 1
    with place() as registry:
        registry.rebuild()
        assert registry.verify("data").ok


def _other_parent(path: Path) -> None:
    content = path.read_bytes()
    start = content.index(b'"parent":"') + 10
    path.unlink()
    path.write_bytes(content[:start] + b"0" * 64 + content[start + 64 :])


@pytest.mark.parametrize("mode", ["r", "w"])
@pytest.mark.parametrize(
    ("damage", "number", "end"),
    [(_rotten, LOST, LOST - 1), (_other_parent, LOST, LOST - 1), (_other_parent, EVENTS, LOST)],
)
def test_a_record_that_the_next_does_not_follow_is_not_answered_from(
    place: Callable[..., sr.Registry],
    tmp_path: Path,
    damage: Damage,
    number: int,
    end: int,
    mode: str,
) -> None:
    damage(record(tmp_path, number))
    for _ in range(2):
        with place(mode) as registry:
            assert registry.resolve(f"{DAMAGED}/cola@v2").number == 4
            if end < LOST:
                with pytest.raises(sr.IntegrityError, match="newest state"):
                    registry.checkout(f"{DAMAGED}/cola@v3")
            else:
                assert registry.checkout(f"{DAMAGED}/cola@v3").ref == f"{DAMAGED}/cola@v3"
            with pytest.raises(sr.IntegrityError) as refused:
                registry.resolve(f"{DAMAGED}/cola@prod")
            assert f"--accept-loss {DAMAGED}/@c{end}" in refused.value.hint
    with place() as registry:
        assert registry.rebuild(accept_loss=f"{DAMAGED}/@c{end}") == end
        assert registry.verify("data").ok
