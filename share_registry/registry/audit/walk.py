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
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.registry.ledger import KeptVersion, Ledger
from share_registry.registry.object_uses import Uses
from share_registry.store.protocol import Store
from share_registry.values.checks import Finding, Outcome
from share_registry.values.shards import Shard

# By what it means: the clause that says so, whatever was checked
SPARED: Final = " Its second copy is sound: `repair` puts that in its place."
_CODES: Final = {Outcome.NEWER: "EVO-05", Outcome.LARGE: "DEC-13"}


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
        ledgers: By space, its versions.
        versions: By reference, those that were not removed, in the order of the logs; of versions
            that repeat each other, the first.
        adapters: By adapter object, the time of the first record of a version that it is of.
        bases: The basis objects.
        refs: Every object that records and notes refer to, with the versions or commits that need
            it, in the order of the logs.
        needed: The objects that no version is decoded without: not notes, nor what notes alone
            name.
        own: The objects of this shard.
        notes: By note, the objects that it names of each task.
        sizes: Objects whose bytes were read already; 0 where that failed.
        uses: By adapter object, what it refers to.
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
    ledgers: dict[SpaceName, Ledger] = field(default_factory=dict)
    versions: dict[str, KeptVersion] = field(default_factory=dict)
    adapters: dict[Digest, str] = field(default_factory=dict)
    bases: set[Digest] = field(default_factory=set)
    refs: dict[Digest, dict[str, None]] = field(default_factory=dict)
    needed: set[Digest] = field(default_factory=set)
    own: set[Digest] = field(default_factory=set)
    notes: dict[Digest, dict[TaskName, list[Digest]]] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)
    uses: dict[Digest, Uses] = field(default_factory=dict)
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
        """Note that versions or commits need an object; or that it is a note, or notes name it."""
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

    def _users(self) -> dict[Digest, list[tuple[Digest, bool]]]:
        """Return by object the adapter objects that refer to it, in the order of the logs.

        Each with whether it cannot even be parsed without it.
        """
        users: dict[Digest, list[tuple[Digest, bool]]] = defaultdict(list)
        named = [adapter for adapter in self.adapters if adapter in self.uses]
        for adapter in (*named, *sorted(self.uses.keys() - self.adapters.keys())):
            uses = self.uses[adapter]
            for digest in uses:
                users[digest].append((adapter, digest == uses.layout))
        self.needed.update(users)
        return users

    def _needed_by(
        self, digest: Digest, users: dict[Digest, list[tuple[Digest, bool]]]
    ) -> list[str]:
        """Return what cannot be trusted without an object, directly or by what builds on it."""
        # with whether the object itself cannot be read: then its rows cannot be either
        reached = {(digest, True): None}
        pending = [*reached]
        for present, is_unread in pending:
            for user, is_layout in users.get(present, ()):
                if not is_unread and self.uses[user].previous != present:
                    continue
                state = (user, is_unread and is_layout)
                if state not in reached:
                    reached[state] = None
                    pending.append(state)
        reached_refs = (ref for user, _ in reached for ref in self.refs.get(user, ()))
        return list(dict.fromkeys(reached_refs))

    def _tell(self, digest: Digest, fault: Fault, refs: Sequence[str]) -> None:
        subject, error = f"object {digest}", fault.error
        spare = "" if self.store.spare(digest) is None else SPARED
        if error is not None:
            self.add(fault.code, subject, error.message + spare, refs, outcome=outcome_of(error))
        elif digest in self.needed or spare:
            self.add(fault.code, subject, f"is not in the store.{spare}", refs)
        else:
            message = "is not in the store, and no record removed it: what it said is not known."
            self.add("NOT-06", subject, message, refs)


def outcome_of(error: ShareRegistryError) -> Outcome:
    """Return what it means that checking something ended in an error."""
    if isinstance(error, FormatError):
        return Outcome.NEWER
    return Outcome.LARGE if isinstance(error, RefusedError) else Outcome.DAMAGED
