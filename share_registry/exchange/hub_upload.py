"""Upload files into a folder of a repository on the Hub, by one commit that builds on a known one.

Whose a file is, the Hub itself says: the last commit that changed it has a title, and the titles
of uploads begin alike. So nothing has to be remembered here, and an upload replaces and removes
what uploads wrote, and nothing else.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from share_registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.exchange.hub_client import (
    HubLocation,
    open_client,
    said_by,
    translate_errors,
)
from share_registry.format.canonical import sha256
from share_registry.names import Digest, first_and_more
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import RepoFile

_MAIN: Final = "main"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
# How the titles of uploads begin
_TITLE: Final = re.compile(r"share_registry: \S+/\S+@v\d+ \([0-9a-f]{12}\)")
_MOVED: Final = (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED)
_MOST_NAMES: Final = 3


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
    def branch(self) -> str:
        """The branch, main where none is named."""
        return self.location.revision or _MAIN

    @property
    def place(self) -> str:
        """The location as messages name it."""
        return self.location.at(self.branch)

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
    place = HubLocation.parse(location)
    ensure(
        not _COMMIT.fullmatch(place.revision or ""),
        InvalidInputError(
            f"location {location!r} names a commit, expected a branch or nothing.",
            hint="Leave it out, and give expected='...' for the commit that the branch must be at.",
        ),
    )
    ensure(
        expected is None or _COMMIT.fullmatch(expected),
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
    api = open_client(outside, signs_in=True)
    head, created = _head(api, target)
    present = _list(api, target, head) if head is not None else {}
    written = tuple(
        name for name, content in files.items() if not _is_same(present.get(name), content)
    )
    _check_ours(present, written, target, head)
    removed = tuple(name for name in present if name not in files and _is_ours(present[name]))
    state = HubState(commit=None, parent=head, written=written, removed=removed, created=created)
    if not written and not removed:
        return replace(state, commit=head)
    if target.dry_run or head is None:
        return state
    commit = _commit(api, files, target, state, head)
    with _after(f"{target.place} is at {commit} now, which could not be checked: "):
        _check_uploaded(_list(api, target, commit), files, removed, target, commit)
    return replace(state, commit=commit)


def _head(api: "HfApi", target: HubTarget) -> tuple[str | None, bool]:
    """Return the commit that the branch is at, None where none is made; and whether one was made.

    A dry run makes none.
    """
    branches = _branches(api, target)
    head = (branches or {}).get(target.branch)
    ensure(
        target.expected in (None, head),
        ConflictError(
            f"{target.place} is at {head or 'no commit'}, expected {target.expected}.",
            hint="Look at what was committed there, and give its commit as expected='...'.",
        ),
    )
    if head is not None or target.dry_run:
        return head, head is None
    with translate_errors(target.place, done="created"):
        if branches is None:
            api.create_repo(target.location.repo, private=target.private, exist_ok=True)
        if target.branch not in (_branches(api, target) or {}):
            api.create_branch(target.location.repo, branch=target.branch, exist_ok=True)
    head = (_branches(api, target) or {}).get(target.branch)
    ensure(
        head is not None,
        StoreError(
            f"{target.place} was created, and the Hub does not list it.", hint="Run it again."
        ),
    )
    return head, True


def _branches(api: "HfApi", target: HubTarget) -> dict[str, str] | None:
    """Return the commits of a repository's branches; None where it is to be created.

    Raises NotFoundError, InvalidInputError.
    """
    try:
        with translate_errors(target.place, done="read"):
            refs = api.list_repo_refs(target.location.repo)
    except NotFoundError as error:
        if target.create:
            return None
        raise error.amended() from error
    branches = {branch.name: branch.target_commit for branch in refs.branches}
    if target.branch in branches:
        return branches
    ensure(
        target.branch not in {tag.name for tag in refs.tags},
        InvalidInputError(
            f"{target.branch!r} of {target.place} is a tag, expected a branch.",
            hint="Name a branch, or none for main.",
        ),
    )
    ensure(
        target.create,
        NotFoundError(
            f"{target.place}: there is no branch {target.branch!r}, only "
            f"{first_and_more(sorted(branches), _MOST_NAMES)}.",
            hint="Give create=True to create it.",
        ),
    )
    return branches


def _list(api: "HfApi", target: HubTarget, commit: str) -> "dict[str, RepoFile]":
    """Return the files of the folder at a commit, by name, with who changed them last."""
    from huggingface_hub.hf_api import RepoFile

    folder = target.location.folder
    try:
        with translate_errors(target.place, done="read"):
            entries = [
                *api.list_repo_tree(
                    target.location.repo,
                    None if folder == PurePosixPath() else str(folder),
                    revision=commit,
                    expand=True,
                )
            ]
    except NotFoundError:
        # of a commit that is there, so it is the folder that is not
        return {}
    return {
        PurePosixPath(entry.path).name: entry for entry in entries if isinstance(entry, RepoFile)
    }


def _is_same(present: "RepoFile | None", content: bytes) -> bool:
    """Tell whether a file on the Hub has these bytes, by the digest that the Hub gives."""
    if present is None:
        return False
    if present.lfs is not None:
        return present.lfs.sha256 == sha256(content)
    # git's name of the bytes
    blob = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    blob.update(content)
    return present.blob_id == blob.hexdigest()


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
            f"{target.place} has {first_and_more(others, _MOST_NAMES)}, which no upload wrote, so "
            "nothing is replaced.",
            hint=f"Give another folder or repository, or expected='{head}' to replace what this "
            "commit has.",
        ),
    )


def _send(
    api: "HfApi", files: Mapping[str, bytes], target: HubTarget, names: tuple[str, ...]
) -> "list[CommitOperationAdd]":
    """Send the large ones of some files; return what a commit of all of these adds."""
    from huggingface_hub import CommitOperationAdd

    try:
        with _refusing(target):
            additions = [
                CommitOperationAdd(str(target.location.folder / name), files[name])
                for name in names
            ]
            # what a .gitignore there names would be left out in silence
            api.preupload_lfs_files(
                target.location.repo,
                additions,
                revision=target.branch,
                gitignore_content="",
                free_memory=False,
            )
    except StoreError as error:
        amended = error.amended()
        amended.hint = f"{error.hint} HF_HUB_DISABLE_XET=1 uploads without hf_xet."
        raise amended from error
    return additions


def _commit(
    api: "HfApi", files: Mapping[str, bytes], target: HubTarget, state: HubState, head: str
) -> str:
    """Upload what differs and commit it on top of `head`; return the new commit."""
    from huggingface_hub import CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    additions = _send(api, files, target, state.written)
    removals = [CommitOperationDelete(str(target.location.folder / name)) for name in state.removed]
    try:
        with _refusing(target):
            committed = api.create_commit(
                target.location.repo,
                [*removals, *additions],
                commit_message=target.title,
                commit_description=target.description,
                revision=target.branch,
                parent_commit=head,
            )
    except ShareRegistryError as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in _MOVED:
            raise ConflictError(
                f"{target.place} moved from {head} to "
                f"{(_branches(api, target) or {}).get(target.branch)} meanwhile: {said_by(cause)}",
                hint="Look at what was committed there, and upload again.",
            ) from cause
        if not isinstance(error, StoreError):
            raise
        amended = error.amended(prefix="whether it was committed is not known: ")
        amended.hint = "Upload again: the same files there are success."
        raise amended from error
    return committed.oid


@contextmanager
def _refusing(target: HubTarget) -> Iterator[None]:
    """Raise what the client raises beside its own errors, as ours."""
    with translate_errors(target.place, done="written"):
        try:
            yield
        except ValueError as error:
            # BadRequestError is both
            if isinstance(error, OSError):
                raise
            raise RefusedError(
                f"{target.place} cannot be written: {said_by(error)}",
                hint="Mend what the Hub says; what a card names as base_model='owner/name' must be "
                "a model of the Hub.",
            ) from error
        except RuntimeError as error:
            # around what went wrong in a thread that uploads, and by the uploader of hf_xet
            cause = error.__cause__ or error
            if isinstance(cause, OSError):
                raise cause from error
            raise StoreError(
                f"{target.place} cannot be written: {said_by(cause)}",
                hint="Check the network, and run it again.",
            ) from error


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
        if not _is_same(entry, content):
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
            f"{target.place}: at {commit} {first_and_more(left, _MOST_NAMES)} is there still, "
            "expected it to be removed.",
            hint="Upload again.",
        ),
    )
