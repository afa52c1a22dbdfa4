"""Upload files into a folder of a repository on the Hub, by one commit that builds on a known one.

Whose a file is, the Hub itself says: the last commit that changed it has a title, and the titles
of uploads begin alike. So nothing has to be remembered here, and an upload replaces and removes
what uploads wrote, and nothing else.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from share_registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidInputError,
    RefusedError,
    ShareRegistryError,
    ensure,
)
from share_registry.exchange.hub_branch import MOST_NAMES, HubBranch, check_branch, is_same
from share_registry.exchange.hub_client import HubLocation, is_commit, open_client
from share_registry.format.canonical import sha256
from share_registry.names import Digest, first_and_more
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

# How the titles of uploads begin
_TITLE: Final = re.compile(r"share_registry: \S+/\S+@v\d+ \([0-9a-f]{12}\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubTarget:
    """Where files are uploaded to, and on which conditions.

    Attributes:
        location: Repository, branch and folder.
        private: Whether only its owner sees a repository that is created.
        create: Whether the repository and the branch are created where they are not there.
        expected: The commit that the branch must be at; None for any.
        ref: What the files are, `space/task@vN`.
        digest: The digest of the files.
        message: What else the commit says.
        dry_run: Whether nothing is written.
    """

    location: HubLocation
    private: bool
    create: bool
    expected: str | None
    ref: str
    digest: Digest
    message: str
    dry_run: bool

    @property
    def place(self) -> str:
        """The location as messages name it."""
        return self.location.at(self.location.branch)

    @property
    def title(self) -> str:
        """The first line of the commit's message."""
        return f"share_registry: {self.ref} ({self.digest[:12]})"

    @property
    def description(self) -> str:
        """The other lines."""
        return f"{self.message}\n\ndigest: {self.digest}".lstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class HubState:
    """What an upload came to.

    Attributes:
        commit: The commit that has the files; None in a dry run that would make it.
        parent: The commit that the branch was at; None where there was no branch.
        written: Names of the files that were not there or were others.
        removed: Names of the files of earlier uploads that are gone.
        created: Whether the repository or the branch was created.
    """

    commit: str | None
    parent: str | None
    written: tuple[str, ...]
    removed: tuple[str, ...]
    created: bool = False


def parse_target(location: str, expected: str | None) -> HubLocation:
    """Return the place of an upload. Raises InvalidInputError."""
    place = HubLocation.parse_model(location)
    check_branch(
        place,
        hint="Leave it out, and give expected='...' for the commit that the branch must be at.",
    )
    ensure(
        expected is None or is_commit(expected),
        InvalidInputError(
            f"expected commit {(expected or '')[:60]!r} is not 40 hexadecimal digits.",
            hint="The page of the repository lists its commits, and every upload returns its own.",
        ),
    )
    return place


def upload_files(files: Mapping[str, bytes], target: HubTarget, *, outside: Outside) -> HubState:
    """Make a folder hold files, by one commit; where it holds them already, by none.

    The answer of the Hub is compared with every file before this returns.

    Args:
        files: By name.
        target: Where to.
        outside: The environment.

    Raises:
        NotFoundError: no such repository or branch, and it is not to be created.
        ConflictError: the branch is not where it was expected, or moved meanwhile.
        RefusedError: no token or no right, somebody else's file is in the way, or the Hub takes
            the files not.
        IntegrityError: the Hub has other bytes than were uploaded.
        StoreError: the Hub cannot be reached, or fails.
    """
    branch = HubBranch(api=open_client(outside, signs_in=True), location=target.location)
    head, created = _head(branch, target)
    present = branch.files(head, is_deep=False) if head is not None else {}
    written = tuple(
        name for name, content in files.items() if not is_same(present.get(name), content)
    )
    _check_ours(present, written, target, head)
    removed = tuple(name for name in present if name not in files and _is_ours(present[name]))
    state = HubState(commit=None, parent=head, written=written, removed=removed, created=created)
    if not written and not removed:
        return replace(state, commit=head)
    if target.dry_run or head is None:
        return state
    commit = branch.commit(
        branch.send({name: files[name] for name in written}),
        removed=removed,
        title=target.title,
        description=target.description,
        parent=head,
    )
    with _after(f"{target.place} is at {commit} now, which could not be checked: "):
        _check_uploaded(branch.files(commit, is_deep=False), files, removed, target, commit)
    return replace(state, commit=commit)


def _head(branch: HubBranch, target: HubTarget) -> tuple[str | None, bool]:
    """Return the commit that the branch is at, None where none is made; and whether one was made.

    A dry run makes none.
    """
    head = branch.head(create=target.create)
    ensure(
        target.expected in (None, head),
        ConflictError(
            f"{target.place} is at {head or 'no commit'}, expected {target.expected}.",
            hint="Look at what was committed there, and give its commit as expected='...'.",
        ),
    )
    if head is not None or target.dry_run:
        return head, head is None
    return branch.create(private=target.private), True


def _is_ours(present: "RepoFile") -> bool:
    return present.last_commit is not None and bool(_TITLE.match(present.last_commit.title))


def _check_ours(
    present: "Mapping[str, RepoFile]", written: tuple[str, ...], target: HubTarget, head: str | None
) -> None:
    """Check that no file of somebody else would be replaced unseen. Raises RefusedError."""
    others = [name for name in written if name in present and not _is_ours(present[name])]
    ensure(
        not others or target.expected is not None,
        RefusedError(
            f"{target.place} has {first_and_more(others, MOST_NAMES)}, which no upload wrote, so "
            "nothing is replaced.",
            hint=f"Give another folder or repository, or expected='{head}' to replace what this "
            "commit has.",
        ),
    )


@contextmanager
def _after(prefix: str) -> Iterator[None]:
    """Say in every error what is done already."""
    try:
        yield
    except IntegrityError:
        raise
    except ShareRegistryError as error:
        raise error.amended(prefix=prefix) from error


def _check_uploaded(
    present: "Mapping[str, RepoFile]",
    files: Mapping[str, bytes],
    removed: tuple[str, ...],
    target: HubTarget,
    commit: str,
) -> None:
    """Check that a commit has the files that were uploaded. Raises IntegrityError."""
    for name, content in files.items():
        entry = present.get(name)
        if not is_same(entry, content):
            digest = (
                "nothing" if entry is None else entry.lfs.sha256 if entry.lfs else entry.blob_id
            )
            raise IntegrityError(
                f"{target.place}: at {commit} {name} is {digest}, expected the bytes with sha256 "
                f"{sha256(content)}.",
                hint="Upload again, and look at what the repository does with its files.",
            )
    left = [name for name in removed if name in present]
    ensure(
        not left,
        IntegrityError(
            f"{target.place}: at {commit} {first_and_more(left, MOST_NAMES)} is there still, "
            "expected it to be removed.",
            hint="Upload again.",
        ),
    )
