"""The files at a place: which are there, what they hold, and which belong to an adapter.

Nothing is imported, unpickled or mapped.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange import attachments as rules
from share_registry.exchange.attachments import (
    PIPELINE_FILE,
    TENSOR_FILE,
    is_pickle,
    is_pickle_name,
    is_safe_name,
    pipeline_folders,
    without_card,
)
from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.other_formats import name_format
from share_registry.format.notes import Source
from share_registry.names import first_and_more
from share_registry.outside.files import Kind, Outside

MAX_TENSOR_FILE_BYTES: Final = 16 << 30
# Of the files that are not kept, in a remark
_LISTED: Final = 20
_SHORTER: Final = (
    "Name modules by the ends of their paths in target_modules, rank_pattern and alpha_pattern,"
    " as PEFT matches them."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of one directory: sizes known, contents not yet read.

    Attributes:
        sizes: Name -> bytes, regular files only.
        others: Names of what is no regular file.
        read: Gives a file's bytes, at most `limit`.
        folders: The files of each sub-directory that has a config of PEFT; empty where this
            directory has one itself.
        read_beginning: Gives a file's first bytes, at most so many.
        open_folder: Gives the files of a sub-directory.
    """

    sizes: Mapping[str, int]
    others: Sequence[str]
    read: Callable[[str, int], bytes]
    folders: Mapping[str, "Files"] = field(default_factory=dict)
    read_beginning: Callable[[str, int], bytes] | None = None
    open_folder: Callable[[str], "Files"] | None = None

    def beginning(self, name: str, size: int) -> bytes:
        """Return a file's first bytes, at most so many."""
        if self.read_beginning is not None:
            return self.read_beginning(name, size)
        return self.read(name, self.sizes[name])[:size]


def text_of_path(path: Path) -> str:
    """Return a path as a note can hold it, whatever its bytes are."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def not_there(place: str) -> NotFoundError:
    """Return the error that there is no directory at a place."""
    scheme = re.match(r"([a-z][a-z0-9+]+):/", place)
    return NotFoundError(
        f"adapter directory {place} does not exist.",
        hint=f"{scheme[1]}:// is not read: download it, then give the directory."
        if scheme
        else "Check the path.",
    )


def list_files(folder: Path, outside: Outside) -> Files:
    """Return the files of a directory. Raises NotFoundError, InvalidInputError."""
    kind = outside.kind_behind(folder)
    ensure(
        kind is not None,
        not_there(str(folder)),
    )
    if kind is Kind.FILE:
        raise not_a_directory(folder)
    ensure(
        kind is Kind.DIRECTORY,
        InvalidInputError(
            f"{folder} is a {kind}, expected a directory of PEFT.",
            hint=f"Give the directory with {CONFIG_FILE}.",
        ),
    )
    kinds = {name: outside.kind(folder / name) for name in outside.names(folder)}
    for name, entry_kind in kinds.items():
        ensure(
            entry_kind is not Kind.LINK,
            InvalidInputError(
                f"{folder / name} is a symbolic link, expected a regular file.",
                hint="Copy the directory with links resolved (cp -rL), or commit hf://owner/repo.",
            ),
        )
    below = [name for name, entry_kind in kinds.items() if entry_kind is Kind.DIRECTORY]
    return Files(
        sizes={
            name: outside.size(folder / name) or 0
            for name, entry_kind in kinds.items()
            if entry_kind is Kind.FILE
        },
        others=[name for name, entry_kind in kinds.items() if entry_kind is not Kind.FILE],
        read=lambda name, limit: outside.read(folder / name, limit=limit),
        read_beginning=lambda name, size: outside.read_beginning(folder / name, size=size),
        open_folder=lambda name: list_files(folder / name, outside),
        folders={
            name: list_files(folder / name, outside)
            for name in (below if CONFIG_FILE not in kinds else [])
            if outside.kind(folder / name / CONFIG_FILE) is Kind.FILE
        },
    )


def not_a_directory(path: Path) -> InvalidInputError:
    """Return the error that a path is a file of no use alone."""
    if path.name in (CONFIG_FILE, TENSOR_FILE):
        return InvalidInputError(
            f"{path} is a file, expected a directory.", hint=f"Give the directory, {path.parent}."
        )
    _, label, hint = name_format([path.name]) or (
        "",
        "a file",
        f"Give the directory with {CONFIG_FILE}.",
    )
    return InvalidInputError(f"{path} is {label}, expected a directory of PEFT.", hint=hint)


def require_adapter(files: Files, source: Source) -> None:
    """Check that the two files of PEFT are there.

    Raises InvalidInputError, NotFoundError or RefusedError, which say what is there instead.
    """
    if TENSOR_FILE in files.sizes and CONFIG_FILE in files.sizes:
        return
    missing = CONFIG_FILE if CONFIG_FILE not in files.sizes else TENSOR_FILE
    ensure(
        missing not in files.others,
        InvalidInputError(
            f"{source.location} has {missing}, but not as a regular file.",
            hint="Give the directory that PEFT's save_pretrained wrote.",
        ),
    )
    models = [name for name in files.sizes if name.startswith("adapter_model")]
    shards = [name for name in models if name.endswith((".safetensors", ".index.json"))]
    pickles = [name for name in models if is_pickle_name(name)]
    if missing == TENSOR_FILE and shards:
        raise RefusedError(
            f"{source.location} has {shards[0]}, expected one {TENSOR_FILE}:"
            " sharded adapters load in no server.",
            hint="Join the shards into one file.",
        )
    if missing == TENSOR_FILE and pickles:
        raise InvalidInputError(
            f"{source.location} has {pickles[0]}, expected {TENSOR_FILE}:"
            " pickles are opened where that is asked for alone.",
            hint="Where you trust it, read it as such with format='peft-bin'; or load it with PEFT"
            " and call save_pretrained, which writes safetensors.",
        )
    if files.folders:
        names = sorted(files.folders, key=_by_number)
        raise InvalidInputError(
            f"{source.location} has no {missing}, but {len(names)} directories with an adapter:"
            f" {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}.",
            hint=f"Give one of them, such as {source.location}/{names[-1]}.",
        )
    if foreign := name_format(files.sizes):
        name, label, hint = foreign
        raise InvalidInputError(
            f"{source.location} has no {missing}; its {name} is {label}.", hint=hint
        )
    raise NotFoundError(
        f"{source.location} has no {missing}.",
        hint="Give the directory that PEFT's save_pretrained wrote.",
    )


def _by_number(name: str) -> tuple[str, int, str]:
    """Order by name, checkpoints by their step."""
    digits = re.search(r"\d{1,15}$", name, re.ASCII)
    return name[: digits.start()] if digits else name, int(digits[0]) if digits else -1, name


def read_file(files: Files, name: str, limit: int) -> bytes:
    """Return the bytes of a file. Raises InvalidInputError where it cannot be used."""
    ensure(
        files.sizes[name] <= limit,
        InvalidInputError(
            f"{name} has {files.sizes[name]} bytes, more than the limit of {limit}.",
            hint=_SHORTER if name == CONFIG_FILE else "Save it in bfloat16, or with a lower rank.",
        ),
    )
    try:
        content = files.read(name, limit)
    except IntegrityError as error:
        raise InvalidInputError(
            error.message, hint="Only regular files within the limit are read."
        ) from error
    ensure(
        not content.startswith(b"version https://git-lfs.github.com/spec/"),
        InvalidInputError(
            f"{name} is a git-LFS pointer of {len(content)} bytes, expected the file itself.",
            hint="Run `git lfs pull` in the clone, or commit hf://owner/repo.",
        ),
    )
    return content


def has_card(files: Files) -> bool:
    """Tell whether an export wrote the readme there."""
    size = files.sizes.get(rules.README, rules.MAX_ATTACHMENT_BYTES + 1)
    return size <= rules.MAX_ATTACHMENT_BYTES and rules.CARD_MARK.encode() in read_file(
        files, rules.README, size
    )


def attached_files(
    files: Files, consumed: Iterable[str], *, keeps_tensors: bool = True
) -> tuple[dict[str, bytes], list[str]]:
    """Return the small files beside an adapter, and a remark on those that are not kept.

    Args:
        files: What lies there.
        consumed: The files that the adapter itself was read from.
        keeps_tensors: Whether other files of tensors may belong to it.
    """
    own = {CONFIG_FILE, *consumed}
    names = sorted(files.sizes.keys() - own)
    kept: dict[str, bytes] = {}
    skipped = [f"{name} (no regular file)" for name in files.others]
    lowered = {name.casefold() for name in own}
    left = rules.MAX_ATTACHMENTS_BYTES
    for name in names:
        size = files.sizes[name]
        if name.startswith("."):
            skipped.append(f"{name} (dotfile)")
        elif not is_safe_name(name):
            skipped.append(f"{name} (a name that is not safe on every system)")
        elif name.casefold() in lowered:
            skipped.append(f"{name} (another name differs in case alone)")
        elif is_pickle_name(name):
            skipped.append(f"{name} (pickle or training state)")
        elif not keeps_tensors and name.endswith(".safetensors"):
            skipped.append(f"{name} (other tensors)")
        elif len(kept) == rules.MAX_ATTACHMENTS:
            skipped.append(f"{name} (over the limit of {rules.MAX_ATTACHMENTS} files)")
        elif size > min(rules.MAX_ATTACHMENT_BYTES, left):
            skipped.append(f"{name} ({size} bytes, over the limit)")
        elif is_pickle(content := read_file(files, name, size)):
            skipped.append(f"{name} (pickle)")
        elif name == PIPELINE_FILE and (parts := pipeline_folders(content)):
            skipped.append(f"{name} (it needs {first_and_more(parts, 3)})")
        else:
            kept[name] = content
            lowered.add(name.casefold())
            left -= size
    # what is no Unicode cannot be written into a note
    shown = "".join(
        letter if letter.isprintable() else repr(letter)[1:-1]
        for letter in first_and_more(skipped, _LISTED)
    )
    return without_card(kept), [f"not kept: {shown}."] if skipped else []
