"""A branch of a repository on the Hub: its commit, its files, and commits on top of it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from share_registry.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.exchange.hub_client import (
    SILENT_S,
    HubLocation,
    checked_commit,
    is_commit,
    said_by,
    translate_errors,
)
from share_registry.format.canonical import sha256
from share_registry.names import first_and_more

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import RepoFile

_MOVED: Final = (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED)
MOST_NAMES: Final = 3


class BranchMovedError(ConflictError):
    """Somebody committed to a branch after it was looked at; nothing was committed."""


def check_branch(place: HubLocation, *, hint: str) -> None:
    """Refuse a location that names a commit, where a branch is needed. Raises InvalidInputError."""
    ensure(
        not is_commit(place.revision or ""),
        InvalidInputError(
            f"location {place.at(place.revision)!r} names a commit, expected a branch or nothing.",
            hint=hint,
        ),
    )


def is_same(entry: "RepoFile | None", content: bytes) -> bool:
    """Tell whether a file on the Hub has these bytes, by the digest that the Hub gives."""
    if entry is None:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == sha256(content)
    return entry.blob_id == blob_id(content)


def blob_id(content: bytes) -> str:
    """Return git's name of bytes."""
    blob = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    blob.update(content)
    return blob.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class HubBranch:
    """A folder of a branch.

    Every method raises StoreError where the Hub cannot be reached or fails, and RefusedError where
    there is no token or no right.

    Attributes:
        api: The client.
        location: Repository, branch and folder.
    """

    api: "HfApi"
    location: HubLocation

    @property
    def place(self) -> str:
        """The location as messages name it."""
        return self.location.at(self.location.branch)

    def head(self, *, create: bool) -> str | None:
        """Return the commit that the branch is at, None where it is to be created.

        Raises NotFoundError, or InvalidInputError for a tag.
        """
        return (self._commits(create=create) or {}).get(self.location.branch)

    def create(self, *, private: bool) -> str:
        """Create the repository and the branch where they are not there; return its commit."""
        repo, kind, name = self.location.repo, self.location.kind, self.location.branch
        with translate_errors(self.place, done="created"):
            if self._commits(create=True) is None:
                self.api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
            if name not in (self._commits(create=True) or {}):
                self.api.create_branch(repo, repo_type=kind, branch=name, exist_ok=True)
        head = self.head(create=True)
        if head is None:
            raise StoreError(
                f"{self.place} was created, and the Hub does not list it.", hint="Run it again."
            )
        return head

    def resolve(self) -> str:
        """Return the commit that the revision names, which may be a tag or a commit.

        Raises NotFoundError, also where nobody may see it without a right to.
        """
        with translate_errors(self.place, done="read"):
            named = self.api.repo_info(
                self.location.repo,
                repo_type=self.location.kind,
                revision=self.location.revision,
                timeout=SILENT_S,
                expand=["sha"],  # type: ignore[arg-type]  # declared as a single one
            )
        return checked_commit(named.sha, self.place)

    def read(self, commit: str, name: str) -> bytes:
        """Return a file of the folder at a commit, by one request that is made again where due.

        Raises NotFoundError.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
            http_backoff,
        )

        path = str(self.location.folder / name)
        address = hf_hub_url(
            self.location.repo,
            path,
            repo_type=self.location.kind,
            revision=commit,
            endpoint=self.api.endpoint,
        )
        with translate_errors(f"{path} of {self.place}"):
            answer = http_backoff(
                "GET", address, headers=build_hf_headers(token=self.api.token), timeout=SILENT_S
            )
            hf_raise_for_status(answer)
        return answer.content

    def files(self, commit: str, *, is_deep: bool) -> "dict[str, RepoFile]":
        """Return the files of the folder at a commit, by name.

        Args:
            commit: One that is there.
            is_deep: Whether those in folders of it, too; else with who changed each last.
        """
        from huggingface_hub.hf_api import RepoFile

        folder = self.location.folder
        try:
            with translate_errors(self.place, done="read"):
                entries = [
                    *self.api.list_repo_tree(
                        self.location.repo,
                        None if folder == PurePosixPath() else str(folder),
                        repo_type=self.location.kind,
                        revision=commit,
                        recursive=is_deep,
                        expand=not is_deep,
                    )
                ]
        except NotFoundError:
            # the commit is there, so it is the folder that is not
            return {}
        return {
            PurePosixPath(entry.path).relative_to(folder).as_posix(): entry
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    def send(
        self, files: Mapping[str, bytes], *, frees: bool = False
    ) -> "list[CommitOperationAdd]":
        """Send the large ones of some files; return what a commit of all of these adds.

        Args:
            files: By name in the folder.
            frees: Whether the bytes of what was sent are let go.
        """
        from huggingface_hub import CommitOperationAdd

        try:
            with self._refusing(), _without_bars():
                additions = [
                    CommitOperationAdd(str(self.location.folder / name), content)
                    for name, content in files.items()
                ]
                # what a .gitignore there names would be left out in silence
                self.api.preupload_lfs_files(
                    self.location.repo,
                    additions,
                    repo_type=self.location.kind,
                    revision=self.location.branch,
                    gitignore_content="",
                    free_memory=frees,
                )
        except StoreError as error:
            amended = error.amended()
            amended.hint = f"{error.hint} HF_HUB_DISABLE_XET=1 uploads without hf_xet."
            raise amended from error
        return additions

    def commit(
        self,
        additions: "Sequence[CommitOperationAdd]",
        *,
        removed: Iterable[str] = (),
        title: str,
        description: str,
        parent: str,
    ) -> str:
        """Commit what was sent on top of a commit; return the new one.

        Args:
            additions: From `send`.
            removed: Names of files that are removed.
            title: The first line of the message.
            description: The other lines.
            parent: The commit that the branch must be at.

        Raises:
            BranchMovedError: it is at another one.
            RefusedError: the Hub takes the files not.
        """
        from huggingface_hub import CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        removals: list[CommitOperationDelete] = [
            CommitOperationDelete(str(self.location.folder / name)) for name in removed
        ]
        try:
            with self._refusing():
                committed = self.api.create_commit(
                    self.location.repo,
                    [*removals, *additions],
                    repo_type=self.location.kind,
                    commit_message=title,
                    commit_description=description,
                    revision=self.location.branch,
                    parent_commit=parent,
                )
        except ShareRegistryError as error:
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError) and cause.response.status_code in _MOVED:
                raise BranchMovedError(
                    f"{self.place} moved from {parent} meanwhile: {said_by(cause)}",
                    hint="Look at what was committed there, and upload again.",
                ) from cause
            if not isinstance(error, StoreError):
                raise
            amended = error.amended(prefix="whether it was committed is not known: ")
            amended.hint = "Run it again: what is there is not sent again."
            raise amended from error
        return committed.oid

    def _commits(self, *, create: bool) -> dict[str, str] | None:
        """Return the commits of the branches; None for a repository that is to be created.

        Raises NotFoundError, InvalidInputError.
        """
        try:
            with translate_errors(self.place, done="read"):
                refs = self.api.list_repo_refs(self.location.repo, repo_type=self.location.kind)
        except NotFoundError as error:
            if create:
                return None
            raise error.amended() from error
        branches = {branch.name: branch.target_commit for branch in refs.branches}
        if self.location.branch in branches:
            return branches
        ensure(
            self.location.branch not in {tag.name for tag in refs.tags},
            InvalidInputError(
                f"{self.location.branch!r} of {self.place} is a tag, expected a branch.",
                hint="Name a branch, or none for main.",
            ),
        )
        ensure(
            create,
            NotFoundError(
                f"{self.place}: there is no branch {self.location.branch!r}, only "
                f"{first_and_more(sorted(branches), MOST_NAMES)}.",
                hint="Name one of them, or have it created.",
            ),
        )
        return branches

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Raise what the client raises beside its own errors, as ours."""
        with translate_errors(self.place, done="written"):
            try:
                yield
            except ValueError as error:
                # BadRequestError is both
                if isinstance(error, OSError):
                    raise
                raise RefusedError(
                    f"{self.place} cannot be written: {said_by(error)}",
                    hint="Mend what the Hub says; the base model that a card names must be a model "
                    "of the Hub: base_model='owner/name'.",
                ) from error
            except RuntimeError as error:
                # around what went wrong in a thread that uploads, and by the uploader of hf_xet
                cause = error.__cause__ or error
                if isinstance(cause, OSError):
                    raise cause from error
                raise StoreError(
                    f"{self.place} cannot be written: {said_by(cause)}",
                    hint="Check the network, and run it again.",
                ) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the client from drawing bars where ours may be, unless the environment asks for them."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
