"""Read an adapter from the Hugging Face Hub.

A location `hf://owner/repo[@revision][/folder]` is pinned to a commit hash, and its files are read
from the client's cache.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from share_registry.exchange.adapter import Adapter
from share_registry.exchange.adapter_files import MAX_TENSOR_FILE_BYTES, Files
from share_registry.exchange.attachments import MAX_ATTACHMENT_BYTES
from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.hub_client import (
    SILENT_S,
    HubLocation,
    checked_commit,
    open_client,
    translate_errors,
)
from share_registry.exchange.importers.formats import read_contents
from share_registry.exchange.places import SCHEME
from share_registry.format.notes import Source
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

# Files that are looked into to tell their format.
_CANDIDATE: Final = re.compile(r".*\.(safetensors|gguf|onnx_adapter|h5)", re.IGNORECASE)
_WHOLE_MODEL: Final = re.compile(r"(diffusion_pytorch_|pytorch_)?model[-.]", re.IGNORECASE)
_LARGEST_ADAPTER_BYTES: Final = 4 << 30


def read_hub(
    location: str, *, format: str | None = None, part: str | None = None, outside: Outside
) -> Adapter:
    """Read an adapter from the Hub.

    The revision is resolved to a commit hash once; every file is of that commit, which
    `Source.revision` records. `HF_ENDPOINT` and the client's own settings apply.

    Args:
        location: `hf://owner/repo`, with `@revision` (branch, tag or commit hash) and a folder
            where wanted.
        format: The name of its format; None where its content tells.
        part: Which of several adapters there is meant.
        outside: The file system and the environment.

    Raises:
        InvalidInputError: the location, or a file that cannot be used.
        NotFoundError: no such repository, revision or file, or no right to see it.
        RefusedError: an adapter that cannot be taken apart safely; no right to see it.
        StoreError: the Hub cannot be reached.
    """
    place = HubLocation.parse_model(location)
    api = open_client(outside)
    with translate_errors(replace(place, folder=PurePosixPath()).at(place.revision)):
        model = api.model_info(
            place.repo, revision=place.revision, files_metadata=True, timeout=SILENT_S
        )
    commit = checked_commit(model.sha, location)

    def cached(path: str) -> Path:
        with translate_errors(f"{SCHEME}{place.repo}@{commit[:8]}/{path}"):
            # The cache holds links to its own content; the link is resolved here, as reading
            # follows none.
            return outside.resolved(Path(api.hf_hub_download(place.repo, path, revision=commit)))

    copies = _Copies(cached=cached, outside=outside)
    return read_contents(
        _list_files(model, place.folder, copies),
        Source(kind="hub", location=place.at(None), revision=commit),
        format=format,
        part=part,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copies:
    """The files of a repository in the cache of its library.

    Attributes:
        cached: Downloads a file where that is due; gives where it lies.
        outside: The file system.
    """

    cached: Callable[[str], Path]
    outside: Outside

    def read(self, path: PurePosixPath, limit: int) -> bytes:
        """Return a file's bytes, at most `limit`."""
        return self.outside.read(self.cached(str(path)), limit=limit)

    def beginning(self, path: PurePosixPath, whole: int | None, size: int) -> bytes:
        """Return the first bytes of a file that may be an adapter; none of any other.

        The file is downloaded for that: not a pickle, nor a part of a whole model.
        """
        is_candidate = _CANDIDATE.fullmatch(path.name) and not _WHOLE_MODEL.match(path.name)
        if not is_candidate or (whole or 0) > _LARGEST_ADAPTER_BYTES:
            return b""
        return self.outside.read_beginning(self.cached(str(path)), size=size)


def _list_files(model: "ModelInfo", folder: PurePosixPath, copies: "_Copies") -> Files:
    siblings = {PurePosixPath(sibling.rfilename): sibling for sibling in model.siblings or []}
    if folder in siblings:
        # a single file
        size = siblings[folder].size
        return Files(
            sizes={folder.name: MAX_TENSOR_FILE_BYTES if size is None else size},
            others=(),
            read=lambda _, limit: copies.read(folder, limit),
            read_beginning=lambda _, size: copies.beginning(folder, siblings[folder].size, size),
        )
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
        read=lambda name, limit: copies.read(folder / name, limit),
        read_beginning=lambda name, size: copies.beginning(
            folder / name, siblings[folder / name].size, size
        ),
        open_folder=lambda name: _list_files(model, folder / name, copies),
        folders={
            name: _list_files(model, folder / name, copies)
            for name in (below if folder / CONFIG_FILE not in siblings else [])
            if folder / name / CONFIG_FILE in siblings
        },
    )
