"""What was done to a registry, and states of it to hold it to."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from typing_extensions import override

from share_registry import kinds
from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.kinds import FilePath
from share_registry.look.units import count
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.outside.files import Outside
from share_registry.values.commits import Commit
from share_registry.values.sheet import Sheet, Shown

_FIRST: Final = "share-registry checkpoint 1 of store "
_TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
_STORE: Final = re.compile(
    rf"{_FIRST}([0-9a-f-]{{36}}), spaces: (\d{{1,9}})(?:, expires: ({_TIME}))?", re.ASCII
)
_STATE: Final = re.compile(
    r"([a-z0-9][a-z0-9._-]{0,63})/@c([1-9]\d{0,15}) ([0-9a-f]{64}) (\d{4}-\S{1,40}Z)"
)
_MOST_BYTES: Final = 16 << 20
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
    for every record before it. A signature is of the file that holds these lines.

    Attributes:
        store: The uuid of the store.
        spaces: The last commit of each space, by name.
        expires: From when on it is refused, RFC 3339; None for never.
        signature: The bundle of model-signing, where it was signed.
    """

    derived = ("text",)
    store: str
    spaces: tuple[SpaceState, ...]
    expires: str | None = None
    signature: str | None = None

    @property
    def text(self) -> str:
        """The lines."""
        expires = "" if self.expires is None else f", expires: {self.expires}"
        first = f"{_FIRST}{self.store}, spaces: {len(self.spaces)}{expires}"
        return "\n".join([first, *(state.line for state in self.spaces)])

    @property
    def content(self) -> bytes:
        """What a file of it holds, and what is signed."""
        return f"{self.text}\n".encode()

    @classmethod
    @kinds.takes(text=kinds.text, signature=kinds.text)
    def of(cls, text: str, signature: str | None = None) -> Self:
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
            expires=store[3],
            signature=signature,
        )

    @kinds.takes(file=kinds.path)
    def save(self, file: FilePath) -> Path:
        """Write the lines into a file, and the signature into `<file>.sig` beside it.

        Raises:
            RefusedError: something is there that is no checkpoint.
            StoreError: the disk refuses.
        """
        outside = Outside()
        path = outside.absolute(Path(file))
        files = (
            {_signature_of(path): self.signature.encode(errors="replace")} if self.signature else {}
        )
        files[path] = self.content
        if any(outside.exists(place) for place in files) and not _holds_checkpoint(path, outside):
            raise RefusedError(
                f"{path} or {_signature_of(path)} is there and no checkpoint, so it is not "
                "overwritten.",
                hint="Give another file.",
            )
        # a signature without its lines is refused, lines without a signature may not be
        for place, content in files.items():
            outside.rewrite(place, content)
        return path

    @classmethod
    @kinds.takes(file=kinds.path)
    def load(cls, file: FilePath) -> Self:
        """Read a checkpoint, and its signature where `<file>.sig` is beside it.

        Raises:
            NotFoundError: there is no such file.
            InvalidInputError: it holds no checkpoint.
        """
        outside = Outside()
        path = outside.absolute(Path(file))
        content = outside.read(path, limit=_MOST_BYTES).decode(errors="replace")
        ensure(
            cls.begins(content),
            InvalidInputError(
                f"file {os.fspath(file)!r} holds no checkpoint.",
                hint="Write it with `share-registry checkpoint -o FILE`.",
            ),
        )
        signature = None
        if outside.exists(_signature_of(path)):
            signature = outside.read(_signature_of(path), limit=_MOST_BYTES).decode(
                errors="replace"
            )
        return cls.of(content, signature)

    @classmethod
    @kinds.takes(text=kinds.text)
    def begins(cls, text: str) -> bool:
        """Tell whether a text is meant as a checkpoint."""
        return text.lstrip().startswith(_FIRST[:25])

    @override
    def sheet(self) -> Sheet:
        return Sheet(
            title=self.text, refs=tuple(f"{state.space}/@c{state.number}" for state in self.spaces)
        )


def _signature_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def _holds_checkpoint(path: Path, outside: Outside) -> bool:
    try:
        content = outside.read(path, limit=_MOST_BYTES)
    except (NotFoundError, IntegrityError):
        return False
    return Checkpoint.begins(content.decode(errors="replace"))


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
