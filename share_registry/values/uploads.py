"""What was uploaded to the Hub."""

from dataclasses import dataclass

from typing_extensions import override

from share_registry.look.units import count
from share_registry.names import Digest, first_and_more
from share_registry.values.sheet import Sheet, Shown

_MOST_NAMES = 4


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Upload(Shown):
    """A version in a repository of the Hub.

    Attributes:
        location: Where, with the branch: hf://owner/repo@main/folder.
        ref: The version.
        digest: sha256 over the sorted list of file names and file digests, as of its export.
        profile: "native" or "portable".
        commit: The commit of the Hub that has the files: that of this upload, or the one that the
            branch was at where it had them. None in a dry run that would make one.
        parent: The commit that the branch was at; None where there was no branch.
        written: Files that were not there, or were others.
        removed: Files of an earlier upload that this version has not.
        created: Whether the repository or the branch was created.
        dry_run: Whether nothing was written.
        notes: What servers would refuse or misread, and what the profile changed.
        recorded: The commit that says so in the log, such as minilm/@c7, where it was recorded.
    """

    derived = ("unchanged", "pinned")
    location: str
    ref: str
    digest: Digest
    profile: str
    commit: str | None
    parent: str | None
    written: tuple[str, ...]
    removed: tuple[str, ...]
    created: bool
    dry_run: bool
    notes: tuple[str, ...]
    recorded: str | None = None

    @property
    def unchanged(self) -> bool:
        """Whether the same files were there."""
        return not self.written and not self.removed

    @property
    def pinned(self) -> str | None:
        """The location with the commit in place of the branch, as `commit` reads it."""
        if self.commit is None:
            return None
        repo, _, rest = self.location.partition("@")
        _, slash, folder = rest.partition("/")
        return f"{repo}@{self.commit}{slash}{folder}"

    def __repr__(self) -> str:
        return f"<Upload {self.ref} to {self.location}>"

    @override
    def sheet(self) -> Sheet:
        said = "would upload" if self.dry_run else "uploaded"
        title = (
            f"{self.location} has {self.ref} already"
            if self.unchanged
            else f"{said} {self.ref} to {self.location}"
        )
        new = ("created", "yes") if self.created else None
        optional = (
            ("commit", self.commit),
            ("written", self._files(self.written)),
            ("removed", self._files(self.removed)),
            ("recorded", self.recorded),
        )
        return Sheet(
            title=title,
            facts=(
                ("digest", self.digest),
                *((name, value) for name, value in optional if value),
                *((new,) if new else ()),
            ),
            notes=self.notes,
            refs=(self.pinned or self.location,),
        )

    @staticmethod
    def _files(names: tuple[str, ...]) -> str:
        if len(names) <= _MOST_NAMES:
            return ", ".join(names)
        return f"{count(len(names), 'file')}: {first_and_more(names, _MOST_NAMES - 1)}"
