"""The Hugging Face Hub: what a location names, its client, and the client's errors as ours."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, cast

from share_registry.errors import (
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.exchange.places import SCHEME
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_LOCATION: Final = re.compile(
    rf"hf://(?:(?P<kind>dataset)s/)?(?P<repo>(?!datasets/|spaces/){_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._-]{{0,127}}))?"
    r"(?:/(?P<folder>[A-Za-z0-9][A-Za-z0-9._/-]{0,255}))?"
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MAIN: Final = "main"
# Tokens, and what signs the address that a file is uploaded to
_SECRET: Final = re.compile(r"\bhf_\w+|(?<=\?)[^\s'\"<>]+")
_NETWORK_HINT: Final = "Check the network and HF_ENDPOINT, and run it again."
_RIGHTS_HINT: Final = (
    "Log in with `hf auth login` as somebody who has the right to, or set HF_TOKEN to a token that"
    " has it."
)


_ACCESS_HINT: Final = "Ask for it on the page of the repository, and log in with `hf auth login`."
# For a connection, and for the next bytes of an answer: the client waits for ever
_CONNECT_S: Final = 30.0
SILENT_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLocation:
    """A folder of a repository on the Hub.

    Attributes:
        repo: `owner/name`.
        revision: Branch, tag or commit hash; None for the main branch.
        folder: The folder, or the only file; "." is the root.
        kind: What the Hub takes the repository for: "model" or "dataset".
    """

    repo: str
    revision: str | None
    folder: PurePosixPath
    kind: str = "model"

    @classmethod
    def parse(cls, location: str) -> "HubLocation":
        """Return what a location `hf://owner/repo[@revision][/folder]` names.

        Raises InvalidInputError.
        """
        match = _LOCATION.fullmatch(location)
        if match is None or ".." in location:
            raise InvalidInputError(
                f"location {location[:120]!r} is not hf://owner/repo[@revision][/folder].",
                hint="Example: hf://alignment-handbook/zephyr-7b-sft-lora@main.",
            )
        return cls(
            repo=match["repo"],
            revision=match["revision"],
            folder=PurePosixPath(match["folder"] or ""),
            kind=match["kind"] or "model",
        )

    @classmethod
    def parse_model(cls, location: str) -> "HubLocation":
        """Return what a location of an adapter names; see `parse`."""
        place = cls.parse(location)
        ensure(
            place.kind == "model",
            InvalidInputError(
                f"location {location!r} is of a data set, expected a repository of a model.",
                hint="Give hf://owner/repo[@revision][/folder].",
            ),
        )
        return place

    @property
    def branch(self) -> str:
        """The revision as that of a branch, main where none is named."""
        return self.revision or _MAIN

    def at(self, revision: str | None) -> str:
        """Return the location of the same folder at a revision."""
        folder = "" if self.folder == PurePosixPath() else f"/{self.folder}"
        repo = f"{'' if self.kind == 'model' else f'{self.kind}s/'}{self.repo}"
        return f"{SCHEME}{repo}{f'@{revision}' if revision else ''}{folder}"


def is_commit(revision: str) -> bool:
    """Tell whether a revision is the hash of a commit."""
    return _COMMIT.fullmatch(revision) is not None


def checked_commit(sha: str | None, place: str) -> str:
    """Return what the Hub gives as the hash of a commit. Raises StoreError where it is none."""
    if sha is None or not is_commit(sha):
        raise StoreError(
            f"the Hub gave the commit {(sha or '')[:60]!r} for {place},"
            " expected 40 hexadecimal digits.",
            hint="Check HF_ENDPOINT.",
        )
    return sha


def open_client(outside: Outside, *, signs_in: bool = False) -> "HfApi":
    """Return the client of the Hub that `HF_ENDPOINT` names.

    Args:
        outside: The environment.
        signs_in: Whether every request must carry a token, whatever `HF_HUB_DISABLE_IMPLICIT_TOKEN`
            says.

    Raises:
        RefusedError: the client is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise RefusedError(
            "huggingface_hub is not installed, expected it for hf:// locations.",
            hint="pip install huggingface_hub",
        ) from error
    return HfApi(
        endpoint=outside.environment("HF_ENDPOINT") or None, token=True if signs_in else None
    )


@contextmanager
def translate_errors(place: str, *, done: str = "fetched") -> Iterator[None]:
    """Raise the client's errors as ours, without what is secret in them.

    Args:
        place: What the errors are about.
        done: What cannot be done with it.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # the error family of the client's HTTP library
    http = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    _limit_waiting()
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise StoreError(
            f"{place} cannot be {done}: the client is in offline mode.",
            hint="Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE.",
        ) from error
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise _unreachable(place, done, error) from error
    except LocalTokenNotFoundError as error:
        raise RefusedError(
            f"{place} cannot be {done}: there is no token of the Hub here.",
            hint="Log in with `hf auth login`, or set HF_TOKEN.",
        ) from error
    except GatedRepoError as error:
        raise RefusedError(
            f"{place} cannot be {done}: its repository asks for access, and nobody is logged in "
            "who has it.",
            hint=_ACCESS_HINT,
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise NotFoundError(
            f"{place} is not on the Hub: {said_by(error)}",
            hint="Check the name and revision;"
            " for a private repository log in with `hf auth login`.",
        ) from error
    except HFValidationError as error:
        raise InvalidInputError(
            f"{place} is no Hub location: {said_by(error)}",
            hint="Write hf://owner/repo[@revision].",
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(place, done, error, error.response.status_code) from error
    except (http, OSError) as error:
        raise _unreachable(place, done, error) from error


def _limit_waiting() -> None:
    """Let the client's connections end that nobody answers, unless somebody said how long."""
    from huggingface_hub import get_session

    session = get_session()
    timeout = getattr(session, "timeout", None)
    if timeout is not None and not any(timeout.as_dict().values()):
        session.timeout = type(timeout)(SILENT_S, connect=_CONNECT_S)


def said_by(error: BaseException) -> str:
    """Return what the Hub or its client says in an error: a line, without what is secret."""
    text = str(getattr(error, "server_message", None) or error).strip()
    line = (text.splitlines() or [type(error).__name__])[0]
    return _SECRET.sub("...", line)[:300]


def _unreachable(place: str, done: str, error: Exception) -> StoreError:
    return StoreError(f"{place} cannot be {done}: {said_by(error)}", hint=_NETWORK_HINT)


def _refusal(place: str, done: str, error: Exception, status: int) -> ShareRegistryError:
    """Return what an answer of the Hub means that is an error."""
    message = f"{place} cannot be {done}: {said_by(error)}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return RefusedError(message, hint=_RIGHTS_HINT)
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return StoreError(message, hint="Wait, and run it again.")
    if status == HTTPStatus.NOT_FOUND:
        return StoreError(message, hint="Check HF_ENDPOINT.")
    return RefusedError(message, hint="Mend what the Hub says, and run it again.")
