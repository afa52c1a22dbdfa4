"""An export: an adapter as the files of a plain PEFT directory, with a model card.

What the files are is pure: the same adapter and facts give the same bytes. The directory is
complete under its name or not there at all.
"""

import errno
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.escapes import code_span
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.attachments import (
    CARD_MARK,
    MAX_NAME_BYTES,
    README,
    SOURCE_README,
    TENSOR_FILE,
)
from share_registry.exchange.base_model import base_of
from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.export_form import ExportForm, Profile, form_of
from share_registry.exchange.pipeline_parts import PIPELINE_FILE
from share_registry.exchange.tensors import item_of
from share_registry.format import safetensors_file
from share_registry.format.canonical import sha256, sha256_of_parts
from share_registry.format.layout import Layout
from share_registry.names import Digest
from share_registry.outside.file_content import FileContent
from share_registry.outside.files import Kind, Outside
from share_registry.outside.system import errno_of

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
# How a file of weights begins: GGUF's own letters, of a few others none
_MAGIC: Final = b"GGUF"
_CHANGED: Final = "Give another place, or overwrite=True to replace it."


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card says.

    Attributes:
        base_model: Label of the base model; "" where none is known.
        ref: `space/task@vN`, None for an adapter that is in no registry.
        commit_number: Position of the commit in the space's log.
        commit_id: sha256 of the commit's record.
        error: Pooled relative error of scaled dW against the committed adapter.
        budget: The largest error allowed.
        time: Time of the commit, RFC 3339.
    """

    base_model: str
    ref: str | None = None
    commit_number: int | None = None
    commit_id: str | None = None
    error: float | None = None
    budget: float | None = None
    time: str | None = None

    @classmethod
    def of(cls, adapter: Adapter) -> "CardFacts":
        """Return what an adapter itself says."""
        return cls(base_model=base_of(adapter.config).label, ref=adapter.ref, error=adapter.error)


def files_of(
    adapter: Adapter, *, profile: Profile, card: CardFacts
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the files of an export and notes on what servers would make of them.

    Args:
        adapter: The adapter.
        profile: "native" or "portable", as `form_of`.
        card: What the model card says.

    Raises:
        RefusedError: the portable form does not exist for this adapter.
    """
    form = form_of(adapter, profile=profile, target=None, base_model=card.base_model)
    files, notes = files_beside(form, card=card)
    files[TENSOR_FILE] = tensor_file(form.adapter.layout, form.adapter.tensors)
    return dict(sorted(files.items())), notes


def files_beside(form: ExportForm, *, card: CardFacts) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the files of an export in a form but that of its tensors, and notes, as `files_of`."""
    adapter = form.adapter
    files, left_out = _attached(adapter.attachments)
    files[CONFIG_FILE] = adapter.config_bytes
    files[README] = card_text(card, profile=form.profile)
    return files, (
        *form.changes,
        *(f"attachment {name!r} is left out: its name fits in no directory." for name in left_out),
        *form.notes,
    )


def digest_of_tensors(adapter: Adapter) -> Digest:
    """Return the sha256 of the tensor file that the export of an adapter would have."""
    return adapter.tensors_digest or digest_of_file(adapter.layout, adapter.tensors)


def digest_of_file(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> Digest:
    """Return the sha256 of `tensor_file`, which is not put together for it. Raises as that."""
    return sha256_of_parts(_parts(layout, tensors))


def digest_in_order(layout: Layout, tensors: Iterable[torch.Tensor]) -> Digest:
    """Return the digest of `parts_in_order`. Raises as that."""
    return sha256_of_parts(parts_in_order(layout, tensors))


def parts_in_order(layout: Layout, tensors: Iterable[torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the file of tensors that come in the order of their layout, and are as it says.

    None is kept. Raises IntegrityError where one has another size.
    """
    keyed = zip(layout.tensors, tensors, strict=True)
    contents = (item_of(spec.key, tensor).content for spec, tensor in keyed)
    yield from safetensors_file.parts(_metadata(layout), layout.tensors, contents)


def size_of_file(layout: Layout) -> int:
    """Return the size in bytes of the file of a layout."""
    head = safetensors_file.head(_metadata(layout), layout.tensors)
    return len(head) + sum(spec.size_bytes for spec in layout.tensors)


def tensor_file(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return adapter_model.safetensors: metadata and tensors in layout order, written canonically.

    Raises InvalidInputError where they do not fit.
    """
    return b"".join(_parts(layout, tensors))


def _parts(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    items = [item_of(spec.key, tensors[spec.key]) for spec in layout.tensors]
    try:
        yield from safetensors_file.parts(
            _metadata(layout), items, [item.content for item in items]
        )
    except IntegrityError as error:
        raise InvalidInputError(
            error.message, hint="Give one tensor for every key of the layout, in its shape."
        ) from error


def _metadata(layout: Layout) -> list[tuple[str, str]]:
    return [(entry.name, entry.value) for entry in layout.metadata]


def card_text(card: CardFacts, *, profile: str, library: str = "peft") -> bytes:
    """Return README.md: YAML front matter and a few lines; the same facts give the same bytes."""
    front = ["---", f"library_name: {library}"]
    if card.base_model:
        front.append(f"base_model: {json.dumps(card.base_model)}")
    front += ["tags:", "- lora", "- share_registry", "---", CARD_MARK, ""]
    lines = [*front, f"# {card.ref or 'LoRA adapter'}", "", *_lines(card, profile), ""]
    return "\n".join(lines).encode()


def place(
    files: Mapping[str, FileContent], root: Path, name: str, *, overwrite: bool, outside: Outside
) -> tuple[Path, bool]:
    """Write files into the directory `root/name`, or into `root` itself where the name is empty.

    The files are written beside their place, made durable, and moved there in one step. An existing
    directory is replaced by two renames, never mixed.

    Returns:
        The directory, and whether it was written: False where the same files were there already.

    Raises:
        InvalidInputError: the name is not safe.
        RefusedError: something else is there, or what is there is no adapter directory and so is
            not overwritten.
        StoreError: the disk refuses; nothing is left behind.
    """
    _check_name(name)
    target = outside.absolute(root / name if name else root)
    # the directory may be behind a link, the place of the files themselves may not
    kind = outside.kind_behind(target.parent)
    ensure(
        kind is Kind.DIRECTORY or not outside.exists(target.parent),
        RefusedError(
            f"{target.parent} is or leads to a {kind or 'place that is not there'},"
            " expected a directory or nothing.",
            hint="Give another directory.",
        ),
    )
    occupied = _occupied(target, outside)
    if occupied and _same(files, target, outside):
        return target, False
    ensure(
        not occupied or overwrite,
        RefusedError(f"{target} holds other files than this export.", hint=_CHANGED),
    )
    if occupied:
        _check_replaceable(target, outside)
    missing = outside.make_directory(target.parent)
    try:
        _swap(files, target, occupied, outside)
    except BaseException:
        with suppress(ShareRegistryError):
            for directory in missing:
                outside.remove_empty(directory)
        raise
    return target, True


def place_file(content: bytes, root: Path, name: str, *, overwrite: bool, outside: Outside) -> Path:
    """Write the file `root/name`, or `root` itself where the name is empty, and return its path.

    The same file already there is success. Raises as `place`; nothing but a file that begins alike
    is overwritten.
    """
    _check_name(name)
    target = outside.absolute(root / name if name else root)
    kind = outside.kind(target)
    ensure(
        kind in (None, Kind.FILE),
        RefusedError(f"{target} is a {kind}, expected a file or nothing.", hint=_CHANGED),
    )
    if kind is not None and is_file(target, content, outside):
        return target
    if kind is None:
        outside.make_directory(target.parent)
        fresh = target.with_name(f".{target.name}.{outside.token()[:16]}.new")
        outside.write_new(fresh, content, point="export")
        try:
            is_new = outside.link_new(fresh, target)
        finally:
            if outside.exists(fresh):
                outside.remove(fresh)
        outside.sync_directory(target.parent)
        if is_new or is_file(target, content, outside):
            return target
    ensure(
        overwrite, RefusedError(f"{target} holds something else than this export.", hint=_CHANGED)
    )
    is_alike = outside.read_beginning(target, size=len(_MAGIC)) == content[: len(_MAGIC)]
    ensure(
        is_alike,
        RefusedError(
            f"{target} is no file of this kind, so it is not overwritten.",
            hint="Export to another file.",
        ),
    )
    outside.rewrite(target, content, point="export")
    return target


def is_file(path: Path, content: FileContent, outside: Outside) -> bool:
    """Tell whether a file has some content, which is not made for that. Raises StoreError."""
    try:
        if outside.size(path) != len(content):
            return False
        present = outside.read(path, limit=len(content))
    # the second where somebody else replaces it
    except (IntegrityError, NotFoundError):
        return False
    if isinstance(content, bytes):
        return present == content
    return sha256(present) == content.digest


def _check_name(name: str) -> None:
    ensure(
        not name or (_NAME.fullmatch(name) and not name.endswith(".") and ".." not in name),
        InvalidInputError(
            f"export name {name[:80]!r} is not allowed.",
            hint="Use letters, digits and . _ - only, at most 200.",
        ),
    )


def _lines(card: CardFacts, profile: str) -> list[str]:
    base = f" for {code_span(card.base_model)}" if card.base_model else ""
    lines = [f"A LoRA adapter{base}, exported by share_registry in the {profile} profile.", ""]
    if card.ref:
        lines.append(f"- version: `{card.ref}`")
    if card.commit_id:
        time = f" of {card.time}" if card.time else ""
        lines.append(f"- commit: c{card.commit_number} `{card.commit_id}`{time}")
    if card.error is not None:
        budget = f" (budget {card.budget:.3g})" if card.budget is not None else ""
        lines.append(
            f"- relative error of scaled dW against the committed adapter: {card.error:.3g}{budget}"
        )
    return lines


def _attached(attachments: Mapping[str, bytes]) -> tuple[dict[str, bytes], list[str]]:
    """Return attachments under the names they get, and those that cannot be files beside them.

    Nothing that is committed has such a name; a store that somebody else wrote may (spec EXP-04).
    """
    readmes = [name for name in sorted(attachments) if name.casefold() == README.casefold()]
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    present = {CONFIG_FILE, TENSOR_FILE}
    for name in sorted(attachments.keys() - {*readmes}):
        if len(name.encode()) > MAX_NAME_BYTES or name.casefold() in present:
            left_out.append(name)
            continue
        present.add(name.casefold())
        files[name] = attachments[name]
    for name in readmes:
        number, target = 1, SOURCE_README
        while target in files:
            number, target = number + 1, f"README.source.{number + 1}.md"
        files[target] = attachments[name]
    return files, left_out


def _swap(files: Mapping[str, FileContent], target: Path, occupied: bool, outside: Outside) -> None:
    fresh, old = (
        target.with_name(f".{target.name}.{outside.token()[:16]}.{part}") for part in ("new", "old")
    )
    try:
        outside.make_directory(fresh)
        for file, content in files.items():
            outside.write_new(fresh / file, content, point="export")
        outside.sync_directory(fresh)
        if occupied:
            _move_away(target, old, outside)
        outside.at("export.swap")
        ensure(
            outside.rename_directory(fresh, target),
            RefusedError(
                f"{target} was written by somebody else meanwhile.",
                hint="Export again: the same files there are success.",
            ),
        )
        outside.sync_directory(target.parent)
    except BaseException:
        if outside.exists(fresh):
            outside.remove_tree(fresh)
        if outside.exists(old) and not outside.rename_directory(old, target):
            # somebody else's is there by now, in place of this
            outside.remove_tree(old)
        raise
    if occupied:
        outside.remove_tree(old)


def _move_away(target: Path, old: Path, outside: Outside) -> None:
    """Move a directory away, unless somebody else does at the same time."""
    try:
        outside.replace(target, old)
    except StoreError as error:
        if errno_of(error) != errno.ENOENT:
            raise


def _occupied(target: Path, outside: Outside) -> bool:
    kind = outside.kind(target)
    ensure(
        kind in (None, Kind.DIRECTORY),
        RefusedError(f"{target} is a {kind}, expected a directory or nothing.", hint=_CHANGED),
    )
    return kind is Kind.DIRECTORY and bool(outside.names(target))


def _same(files: Mapping[str, FileContent], target: Path, outside: Outside) -> bool:
    return outside.names(target) == sorted(files) and all(
        is_file(target / name, content, outside) for name, content in files.items()
    )


def _check_replaceable(target: Path, outside: Outside) -> None:
    """Refuse to replace what no export, PEFT or diffusers wrote: a flat directory with its file."""
    names = outside.names(target)
    strange = [name for name in names if outside.kind(target / name) is not Kind.FILE]
    if strange or not {CONFIG_FILE, PIPELINE_FILE} & {*names}:
        reason = f"holds {strange[0]!r}" if strange else f"has no {CONFIG_FILE}"
        raise RefusedError(
            f"{target} {reason}, so it is not overwritten.", hint="Export into another directory."
        )
