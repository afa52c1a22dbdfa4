"""What was done to a registry, and states of it to hold it to."""

import re
from dataclasses import dataclass
from typing import Final, Self

from typing_extensions import override

from share_registry.errors import InvalidInputError, ensure
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.values.commits import Commit
from share_registry.values.sheet import Sheet, Shown, count

_FIRST: Final = "share-registry checkpoint 1 of store "
_STORE: Final = re.compile(rf"{_FIRST}([0-9a-f-]{{36}}), spaces: (\d{{1,9}})")
_STATE: Final = re.compile(
    r"([a-z0-9][a-z0-9._-]{0,63})/@c([1-9]\d{0,15}) ([0-9a-f]{64}) (\d{4}-\S{1,40}Z)"
)
_SHAPE: Final = "Give all that `checkpoint` printed: the store, then a line for each space."


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceState:
    """The last commit of a space at some moment."""

    space: SpaceName
    number: CommitNumber
    id: Digest
    time: str

    @property
    def line(self) -> str:
        """As a line of a checkpoint."""
        return f"{self.space}/@c{self.number} {self.id} {self.time}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Checkpoint(Shown):
    """The ends of the logs of a registry, to be kept where whoever writes it cannot.

    As text, a few lines to be put into a ticket, a repository or a mail. The id of a commit stands
    for every record before it.

    Attributes:
        store: The uuid of the store.
        spaces: The last commit of each space, by name.
    """

    derived = ("text",)
    store: str
    spaces: tuple[SpaceState, ...]

    @property
    def text(self) -> str:
        """The lines."""
        first = f"{_FIRST}{self.store}, spaces: {len(self.spaces)}"
        return "\n".join([first, *(state.line for state in self.spaces)])

    @classmethod
    def of(cls, text: str) -> Self:
        """Read the lines of a checkpoint. Raises InvalidInputError."""
        first, *lines = [line.strip() for line in text.strip().splitlines()] or [""]
        store, states = _STORE.fullmatch(first), [_STATE.fullmatch(line) for line in lines if line]
        ensure(
            store is not None and all(states) and len(states) == int(store[2]),
            InvalidInputError("the text is no checkpoint.", hint=_SHAPE),
        )
        assert store is not None
        return cls(
            store=store[1],
            spaces=tuple(
                SpaceState(
                    space=SpaceName(state[1]),
                    number=CommitNumber(int(state[2])),
                    id=Digest(state[3]),
                    time=state[4],
                )
                for state in states
                if state is not None
            ),
        )

    @classmethod
    def begins(cls, text: str) -> bool:
        """Tell whether a text is meant as a checkpoint."""
        return text.lstrip().startswith(_FIRST[:25])

    @override
    def sheet(self) -> Sheet:
        return Sheet(
            title=self.text, refs=tuple(f"{state.space}/@c{state.number}" for state in self.spaces)
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AuditReport(Shown):
    """What was done, oldest first, and what was checked on the way.

    Attributes:
        checkpoint: The state that was reached: the next audit begins there.
        records: Records that were read and follow each other, of all spaces.
        commits: Those that were asked for.
    """

    checkpoint: Checkpoint
    records: int
    commits: tuple[Commit, ...]

    @override
    def sheet(self) -> Sheet:
        listing = Commit.listing(self.commits)
        return Sheet(
            title=f"{count(len(self.commits), 'commit')}; {count(self.records, 'record')} of "
            f"{count(len(self.checkpoint.spaces), 'space')} follow each other",
            tables=listing.tables,
            notes=listing.notes,
            refs=listing.refs,
        )
