"""Adapters on the Hugging Face Hub.

`hf://owner/repo[@revision][/folder]`, pinned to a commit hash and read from the client's cache.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, cast

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, StoreError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.attachments import MAX_ATTACHMENT_BYTES
from share_registry.exchange.peft_directory import Files, read_files
from share_registry.format.records import Source
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

SCHEME: Final = "hf://"
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_LOCATION: Final = re.compile(
    rf"hf://(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._-]{{0,127}}))?(?:/(?P<folder>[A-Za-z0-9][A-Za-z0-9._/-]{{0,255}}))?"
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def read_hub(location: str, *, outside: Outside) -> Adapter:
    """Read an adapter from the Hub.

    The revision is resolved to a commit hash once; every file is of that commit, which
    `Source.revision` records. `HF_ENDPOINT` and the client's own settings apply.

    Args:
        location: `hf://owner/repo`, with `@revision` (branch, tag or commit hash) and a folder
            where wanted.
        outside: The file system and the environment.

    Raises:
        InvalidInputError: the location, or a file that cannot be used.
        NotFoundError: no such repository, revision or file, or no right to see it.
        RefusedError: an adapter that cannot be taken apart safely.
        StoreError: the Hub cannot be reached.
    """
    match = _LOCATION.fullmatch(location)
    if match is None or ".." in location:
        raise InvalidInputError(
            f"location {location[:120]!r} is not hf://owner/repo[@revision][/folder].",
            hint="Example: hf://alignment-handbook/zephyr-7b-sft-lora@main.",
        )
    found = _info(match["repo"], match["revision"], outside)
    commit = found.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise StoreError(
            f"the Hub gave the commit {commit[:60]!r} for {location}, expected 40 hexadecimal digits.",
            hint="Check HF_ENDPOINT.",
        )
    folder = PurePosixPath(match["folder"] or "")
    files = _files(match["repo"], commit, folder, found, outside)
    return read_files(
        files,
        source=Source(
            kind="hub",
            location=f"{SCHEME}{match['repo']}{f'/{folder}' if match['folder'] else ''}",
            revision=commit,
        ),
    )


def _files(
    repo: str, commit: str, folder: PurePosixPath, found: "ModelInfo", outside: Outside
) -> Files:
    """Return the files of one folder; contents are downloaded when asked for."""
    siblings = {
        PurePosixPath(sibling.rfilename): MAX_ATTACHMENT_BYTES
        if sibling.size is None
        else sibling.size
        for sibling in found.siblings or []
    }
    sizes = {path.name: size for path, size in siblings.items() if path.parent == folder}
    below = {
        path.relative_to(folder).parts[0]
        for path in siblings
        if folder in path.parents and path.parent != folder
    }

    def read(name: str, limit: int) -> bytes:
        return outside.read(_download(repo, commit, str(folder / name), outside), limit=limit)

    return Files(sizes=sizes, others=sorted(below), read=read)


def _api(outside: Outside) -> "HfApi":
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise RefusedError(
            "huggingface_hub is not installed, expected it for hf:// locations.",
            hint="pip install huggingface_hub",
        ) from error
    return HfApi(endpoint=outside.environment("HF_ENDPOINT") or None)


def _info(repo: str, revision: str | None, outside: Outside) -> "ModelInfo":
    api = _api(outside)
    with _translated(f"{SCHEME}{repo}{f'@{revision}' if revision else ''}"):
        return api.model_info(repo, revision=revision, files_metadata=True)


def _download(repo: str, commit: str, name: str, outside: Outside) -> Path:
    api = _api(outside)
    with _translated(f"{SCHEME}{repo}@{commit[:8]}/{name}"):
        # The cache holds links to its own content; the link is resolved here, as reading follows
        # none.
        return outside.resolved(Path(api.hf_hub_download(repo, name, revision=commit)))


@contextmanager
def _translated(what: str) -> Iterator[None]:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    http = cast(
        "type[Exception]", HfHubHTTPError.__bases__[0]
    )  # the error family of the client's HTTP library
    try:
        yield
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise StoreError(
            f"{what} cannot be fetched: {_first(error)}",
            hint="Check the network and HF_ENDPOINT, and run it again.",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise NotFoundError(
            f"{what} is not on the Hub: {_first(error)}",
            hint="Check the name and revision; for a private repository log in with `hf auth login`.",
        ) from error
    except HFValidationError as error:
        raise InvalidInputError(
            f"{what} is no Hub location: {_first(error)}", hint="Write hf://owner/repo[@revision]."
        ) from error
    except (http, OSError) as error:
        raise StoreError(
            f"{what} cannot be fetched: {_first(error)}",
            hint="Check the network and HF_ENDPOINT, and run it again.",
        ) from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
