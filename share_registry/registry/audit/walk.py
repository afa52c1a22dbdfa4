"""What a verification has seen, and what is wrong with it.

Which versions an object's damage reaches is known only once every adapter object has said what it
builds on. So what is wrong with an object is kept, and becomes a finding at the end.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from share_registry.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
)
from share_registry.format.records import AbsorbedTask
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.store.protocol import Store
from share_registry.values.checks import Finding, Outcome
from share_registry.values.shards import Shard

# By what it means: the clause that says so, whatever was checked
_CODES: Final = {Outcome.NEWER: "EVO-05", Outcome.LARGE: "DEC-13", Outcome.REMOVED: "NOT-06"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with an object: the clause, and the error; without one it is not there."""

    code: str = "OBJ-02"
    error: ShareRegistryError | None = None


@dataclass(slots=True)
class Walk:
    """What has been seen so far.

    Attributes:
        damaged: The spaces whose log is damaged, of whatever shard.
        versions: By reference, what the record says of the version, in the order of the logs.
        adapters: By adapter object, the time of the first record that names it.
        bases: The basis objects.
        refs: Every object that records and notes refer to, with the versions or commits that need
            it, in the order of the logs.
        needed: The objects that no version can do without: not notes, nor what notes alone name.
        own: The objects of this shard.
        notes: By note, the objects that it names.
        sizes: Objects whose bytes were read already; 0 where that failed.
        uses: By adapter object, the objects that it refers to.
        faults: What is wrong with objects.
        files: By note and name of the task in it, what an export needs: its config, None where it
            names none, and its attachments.
        unexportable: The versions that lack some of it, or their note.
    """

    store: Store
    level: str
    shard: Shard
    findings: list[Finding] = field(default_factory=list)
    damaged: set[SpaceName] = field(default_factory=set)
    records: int = 0
    size_bytes: int = 0
    versions: dict[str, AbsorbedTask] = field(default_factory=dict)
    adapters: dict[Digest, str] = field(default_factory=dict)
    bases: set[Digest] = field(default_factory=set)
    refs: dict[Digest, dict[str, None]] = field(default_factory=dict)
    needed: set[Digest] = field(default_factory=set)
    own: set[Digest] = field(default_factory=set)
    notes: dict[Digest, list[Digest]] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)
    uses: dict[Digest, list[Digest]] = field(default_factory=dict)
    faults: dict[Digest, Fault] = field(default_factory=dict)
    files: dict[tuple[Digest | None, TaskName], list[Digest | None]] = field(default_factory=dict)
    unexportable: list[str] = field(default_factory=list)

    def add(
        self,
        code: str,
        subject: str,
        message: str,
        refs: Sequence[str] = (),
        *,
        outcome: Outcome = Outcome.DAMAGED,
    ) -> None:
        """Add a finding of this shard."""
        code = _CODES.get(outcome, code)
        self.findings.append(
            Finding(code=code, what=subject, message=message, refs=tuple(refs), outcome=outcome)
        )

    def add_of_log(
        self,
        space: SpaceName,
        code: str,
        subject: str,
        message: str,
        refs: Sequence[str] = (),
        *,
        outcome: Outcome = Outcome.DAMAGED,
    ) -> None:
        """Add a finding about the log of a space, which another shard may have to tell."""
        if outcome is Outcome.DAMAGED:
            self.damaged.add(space)
        if self.shard.has_space(space):
            self.add(code, subject, message, refs, outcome=outcome)

    def unsound_spaces(self) -> set[SpaceName]:
        """Return the spaces whose log, or a note of it, is damaged."""
        notes = {
            digest
            for digest, fault in self.faults.items()
            if fault.error is not None and outcome_of(fault.error) is Outcome.DAMAGED
        }
        return self.damaged | self._spaces_of(notes)

    def without_notes(self) -> set[SpaceName]:
        """Return the spaces of which a note is not there, or cannot be read."""
        return self._spaces_of(self.faults)

    def _spaces_of(self, digests: Iterable[Digest]) -> set[SpaceName]:
        return {
            SpaceName(ref.partition("/")[0])
            for digest in digests
            for ref in self.refs.get(digest, ())
        }

    def refer(self, digest: Digest, refs: Iterable[str], *, needed: bool = True) -> None:
        """Note that versions or commits need an object, or that notes alone name it."""
        if needed:
            self.needed.add(digest)
        self.refs.setdefault(digest, {}).update(dict.fromkeys(refs))

    def read(self, digest: Digest) -> bytes | None:
        """Return an object's bytes; None, and a fault, where they are not what its name says."""
        self.sizes[digest] = 0
        try:
            content = self.store.get(digest)
        except NotFoundError:
            self.faults[digest] = Fault()
        except (IntegrityError, StoreError) as error:
            self.faults[digest] = Fault(code="OBJ-01", error=error)
        else:
            self.sizes[digest] = len(content)
            return content
        return None

    def tell_faults(self) -> None:
        """Turn what is wrong with the objects of this shard into findings."""
        users = self._users()
        for digest in sorted(self.faults, key=lambda digest: (digest not in self.needed, digest)):
            if digest in self.own:
                self._tell(digest, self.faults[digest], self._needed_by(digest, users))

    def _users(self) -> dict[Digest, list[Digest]]:
        """Return by object the adapter objects that refer to it, in the order of the logs."""
        users: dict[Digest, list[Digest]] = defaultdict(list)
        for adapter in self.adapters:
            for digest in self.uses.get(adapter, ()):
                users[digest].append(adapter)
        self.needed.update(users)
        return users

    def _needed_by(self, digest: Digest, users: dict[Digest, list[Digest]]) -> list[str]:
        """Return what cannot be trusted without an object, directly or by what builds on it."""
        reached = {digest: None}
        pending = [digest]
        for user in pending:
            further = [next_ for next_ in users.get(user, ()) if next_ not in reached]
            reached.update(dict.fromkeys(further))
            pending += further
        return list(dict.fromkeys(ref for user in reached for ref in self.refs.get(user, ())))

    def _tell(self, digest: Digest, fault: Fault, refs: Sequence[str]) -> None:
        subject, error = f"object {digest}", fault.error
        if error is not None:
            self.add(fault.code, subject, error.message, refs, outcome=outcome_of(error))
        elif digest in self.needed:
            self.add(fault.code, subject, "is not in the store.", refs)
        else:
            # spec NOT-06
            message = "is not in the store: what it said is not known."
            self.add(fault.code, subject, message, refs, outcome=Outcome.REMOVED)


def outcome_of(error: ShareRegistryError) -> Outcome:
    """Return what it means that checking something ended in an error."""
    if isinstance(error, FormatError):
        return Outcome.NEWER
    return Outcome.LARGE if isinstance(error, RefusedError) else Outcome.DAMAGED
