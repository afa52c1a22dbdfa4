"""Read an adapter from the Hugging Face Hub.

A location `hf://owner/repo[@revision][/folder]` is pinned to a commit hash, and its files are read
from the client's cache.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, cast

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, StoreError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.attachments import MAX_ATTACHMENT_BYTES
from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.peft_directory import Files, read_files
from share_registry.exchange.places import SCHEME
from share_registry.format.records import Source
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_LOCATION: Final = re.compile(
    rf"hf://(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._-]{{0,127}}))?"
    r"(?:/(?P<folder>[A-Za-z0-9][A-Za-z0-9._/-]{0,255}))?"
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
    repo, revision = match["repo"], match["revision"]
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise RefusedError(
            "huggingface_hub is not installed, expected it for hf:// locations.",
            hint="pip install huggingface_hub",
        ) from error
    api = HfApi(endpoint=outside.environment("HF_ENDPOINT") or None)
    with _translate_errors(f"{SCHEME}{repo}{f'@{revision}' if revision else ''}"):
        model = api.model_info(repo, revision=revision, files_metadata=True)
    commit = model.sha or ""
    ensure(
        _COMMIT.fullmatch(commit),
        StoreError(
            f"the Hub gave the commit {commit[:60]!r} for {location},"
            " expected 40 hexadecimal digits.",
            hint="Check HF_ENDPOINT.",
        ),
    )
    folder = PurePosixPath(match["folder"] or "")

    def read(path: str, limit: int) -> bytes:
        with _translate_errors(f"{SCHEME}{repo}@{commit[:8]}/{path}"):
            # The cache holds links to its own content; the link is resolved here, as reading
            # follows none.
            cached = outside.resolved(Path(api.hf_hub_download(repo, path, revision=commit)))
        return outside.read(cached, limit=limit)

    place = f"{SCHEME}{repo}{f'/{folder}' if match['folder'] else ''}"
    return read_files(
        _list_files(model, folder, read),
        source=Source(kind="hub", location=place, revision=commit),
    )


def _list_files(
    model: "ModelInfo", folder: PurePosixPath, read: Callable[[str, int], bytes]
) -> Files:
    siblings = {PurePosixPath(sibling.rfilename): sibling for sibling in model.siblings or []}
    below = sorted(
        {
            path.relative_to(folder).parts[0]
            for path in siblings
            if folder in path.parents and path.parent != folder
        }
    )
    return Files(
        sizes={
            path.name: MAX_ATTACHMENT_BYTES if sibling.size is None else sibling.size
            for path, sibling in siblings.items()
            if path.parent == folder
        },
        others=below,
        read=lambda name, limit: read(str(folder / name), limit),
        folders={
            name: _list_files(model, folder / name, read)
            for name in (below if folder / CONFIG_FILE not in siblings else [])
            if folder / name / CONFIG_FILE in siblings
        },
    )


@contextmanager
def _translate_errors(place: str) -> Iterator[None]:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # the error family of the client's HTTP library
    http = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    try:
        yield
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise StoreError(
            f"{place} cannot be fetched: {_first(error)}",
            hint="Check the network and HF_ENDPOINT, and run it again.",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise NotFoundError(
            f"{place} is not on the Hub: {_first(error)}",
            hint="Check the name and revision;"
            " for a private repository log in with `hf auth login`.",
        ) from error
    except HFValidationError as error:
        raise InvalidInputError(
            f"{place} is no Hub location: {_first(error)}", hint="Write hf://owner/repo[@revision]."
        ) from error
    except (http, OSError) as error:
        raise StoreError(
            f"{place} cannot be fetched: {_first(error)}",
            hint="Check the network and HF_ENDPOINT, and run it again.",
        ) from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
