"""Long logs of every kind of record, and catalogs that followed them.

What the catalog is measured and tested on.

Records go through the projection as any other. A catalog of the other database is filled with
copies of the rows, which the tests compare with its own projection.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Final

from sqlalchemy import select

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.tables import TABLES, IdentityRow
from tests.catalog.logs import Log

SPACE: Final = "base"
AUTHORS: Final = tuple(f"author-{number}" for number in range(20))
RARE_AUTHOR: Final = "auditor"
STEP: Final = timedelta(minutes=1)
RARE: Final = "T7"
"""A label that one task of a hundred has."""
TEAMS: Final = tuple(f"team-{number}" for number in range(20))
HOT: Final = "task-00000"
"""A task that one commit of fifty goes to."""
_BATCH: Final = 1000
_PIECE: Final = 2000
_KINDS: Final = (
    "absorb",
    "alias",
    "annotate",
    "restore",
    "drop",
    "rename",
    "tag",
    "derive",
    "policy",
)
_WEIGHTS: Final = (910, 30, 20, 8, 2, 2, 10, 14, 4)


@dataclass(kw_only=True)
class Growing:
    """A log of one space that grows at random, the same way for the same seed.

    Attributes:
        tasks: About so many tasks are made, one after another as the log grows.
        commits: How long the log is to become: tasks are made over its first half.
    """

    commits: int
    tasks: int
    chance: Random = field(default_factory=lambda: Random(0))
    log: Log = field(default_factory=lambda: Log(space=SPACE, step=STEP))
    latest: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)

    def grow(self, catalog: Catalog, commits: int) -> None:
        """Add commits until there are so many, and apply them."""
        while self.log.length < commits:
            with catalog.begin(write=True) as session:
                for _ in range(min(_BATCH, commits - self.log.length)):
                    self.step()
                self.log.apply(session)
            self.log.forget()

    def step(self) -> None:
        """Add one commit."""
        if not self.log.length:
            self.log.create()
            return
        kind = self.chance.choices(_KINDS, _WEIGHTS)[0] if len(self.names) > 2 else "absorb"
        name = self._task(new=kind == "absorb")
        if kind not in ("absorb", "tag", "policy") and name in self.dropped:
            kind = "absorb"
        getattr(self, f"_{kind}")(name)

    def _task(self, *, new: bool) -> str:
        due = min(self.tasks, 2 + 2 * self.tasks * self.log.length // self.commits)
        if new and len(self.names) < due:
            self.names.append(f"task-{len(self.names):05d}")
            return self.names[-1]
        return self.names[
            0 if self.chance.random() < 0.02 else self.chance.randrange(len(self.names))
        ]

    def _absorb(self, name: str, **options: object) -> None:
        self.latest[name] = self.latest.get(name, 0) + 1
        self.dropped.discard(name)
        labels = {"team": self.chance.choice(TEAMS), "stage": "research"} | (
            {"ticket": RARE} if int(name[5:10]) % 100 == 7 else {}
        )
        author = RARE_AUTHOR if self.chance.random() < 0.0005 else self.chance.choice(AUTHORS)
        metrics = {"accuracy": f"{self.chance.random():.4f}"}
        self.log.absorb(
            name,
            self.latest[name],
            labels=labels,
            metrics=metrics,
            author=author,
            message="a run",
            **options,
        )

    def _derive(self, name: str) -> None:
        parents = {self.names[self.chance.randrange(len(self.names))] for _ in range(2)}
        self._absorb(
            name,
            derived_from=sorted(
                (parent, self.latest[parent]) for parent in parents if parent != name
            ),
        )

    def _alias(self, name: str) -> None:
        self.log.alias(name, "prod", self.chance.randint(1, self.latest[name]), reason="promoted")

    def _annotate(self, name: str) -> None:
        self.log.annotate(name, self.latest[name], labels={"stage": "live"}, metrics={"f1": "0.5"})

    def _restore(self, name: str) -> None:
        of = self.chance.randint(1, self.latest[name])
        self.latest[name] += 1
        self.log.restore(name, self.latest[name], of)

    def _drop(self, name: str) -> None:
        self.dropped.add(name)
        self.log.drop(name)

    def _rename(self, name: str) -> None:
        if name == HOT:
            self._absorb(name)
            return
        place, new = self.names.index(name), f"{name[:10]}-{self.log.length}"
        self.names[place] = new
        self.latest[new] = self.latest.pop(name)
        self.log.rename(name, new)

    def _tag(self, _name: str) -> None:
        self.log.tag(f"release-{self.log.length}", self.chance.randint(1, self.log.length))

    def _policy(self, _name: str) -> None:
        self.log.set_policy("0.05")


def copy(source: Catalog, target: Catalog) -> None:
    """Fill an empty catalog with the rows of another one."""
    for table in TABLES.sorted_tables:
        if table is IdentityRow.table:
            continue
        with source.begin() as reading, target.begin(write=True) as writing:
            for rows in _in_pieces(reading.execute(select(table)).mappings()):
                writing.execute(table.insert(), rows)


def _in_pieces(rows: "Iterator[object]") -> Iterator[list[dict[str, object]]]:
    piece: list[dict[str, object]] = []
    for row in rows:
        piece.append(dict(row))  # type: ignore[call-overload]
        if len(piece) == _PIECE:
            yield piece
            piece = []
    if piece:
        yield piece
