"""Read an adapter from a PEFT directory, or from tensors and a config at hand.

Every way in ends in `_assemble`, which sorts the tensors into lanes; nothing is imported, unpickled
or mapped.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from pydantic import ValidationError

from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange import attachments as rules
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.attachments import (
    PIPELINE_FILE,
    TENSOR_FILE,
    check_names,
    is_pickle,
    is_pickle_name,
    is_safe_name,
    pipeline_folders,
    without_card,
)
from share_registry.exchange.classify import layout_of, tied_modules
from share_registry.exchange.config import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    PREFIX,
    Settings,
    check_targets,
    parse_config,
    settings_of,
)
from share_registry.exchange.config_checks import config_remarks, header_remarks, refuse_unsafe
from share_registry.exchange.normal_form import reading_remarks
from share_registry.exchange.other_formats import name_format
from share_registry.exchange.plain_keys import key_remarks
from share_registry.exchange.selection import absent_heads, module_scales
from share_registry.exchange.tensors import check_finite, item_of, tensor_of
from share_registry.format import safetensors_file
from share_registry.format.canonical import Json, dump, sha256
from share_registry.format.layout import MAX_TENSORS, Layout, TensorSpec
from share_registry.format.records import Source
from share_registry.format.safetensors_file import Item
from share_registry.names import Digest, first_and_more
from share_registry.outside.files import Kind, Outside
from share_registry.parallel import MAX_THREADS, side_by_side

MAX_TENSOR_FILE_BYTES: Final = 16 << 30
# What PEFT writes into the header of every tensor file.
PEFT_METADATA: Final = (("format", "pt"),)
# bytes of tensors from which on they are hashed by several threads
_HASHED_SIDE_BY_SIDE: Final = 1 << 26
# Of the files that are not kept, in a remark
_LISTED: Final = 20
_LIMITS: Final = (
    "Give names of at most 512 bytes, at most 8 dimensions, and at most 65,536 tensors."
)
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
    """

    sizes: Mapping[str, int]
    others: Sequence[str]
    read: Callable[[str, int], bytes]
    folders: Mapping[str, "Files"] = field(default_factory=dict)


def read_directory(path: str | Path, *, outside: Outside) -> Adapter:
    """Read a PEFT adapter directory.

    Args:
        path: The directory with adapter_config.json and adapter_model.safetensors.
        outside: The file system.

    Raises:
        NotFoundError: there is no such directory, or one of the two files is missing.
        InvalidInputError: a file that cannot be used: damaged, a link, a pickle, a git-LFS pointer,
            unsafe names, wrong shapes.
        RefusedError: an adapter that cannot be lowered apart safely.
    """
    folder = outside.absolute(Path(os.path.normpath(path)))
    location = str(folder).encode(errors="surrogateescape").decode(errors="backslashreplace")
    return read_files(
        _list_files(folder, outside), source=Source(kind="directory", location=location)
    )


def read_files(files: Files, *, source: Source) -> Adapter:
    """Read an adapter from the files of a directory, wherever they lie.

    Where they lie in its only sub-directory with an adapter, as PEFT saves a named one and MLflow
    every one, they are read from there.

    Raises as `read_directory`.
    """
    if CONFIG_FILE not in files.sizes and len(files.folders) == 1:
        ((name, inner),) = files.folders.items()
        adapter = read_files(inner, source=source)
        remark = f"read from {name}, the only directory with an adapter there."
        return replace(adapter, remarks=(remark, *adapter.remarks))
    _require(files, source)
    config_bytes = _read(files, CONFIG_FILE, MAX_CONFIG_BYTES)
    refuse_unsafe(parse_config(config_bytes))
    content = _read(files, TENSOR_FILE, MAX_TENSOR_FILE_BYTES)
    attached, remarks = _attachments(files)
    try:
        parsed = safetensors_file.read(content, subject=TENSOR_FILE)
    except IntegrityError as error:
        raise InvalidInputError(
            error.message,
            hint="The file is damaged, not a safetensors file, or of element types that adapters do"
            " not have: copy it again, or convert it.",
        ) from error
    adapter = _assemble(
        parsed.metadata, parsed.tensors, config_bytes, attached, source, len(content)
    )
    if not safetensors_file.is_canonical(content, parsed):
        remarks.append(
            f"the header of {TENSOR_FILE} is not as the safetensors library writes it:"
            " an export writes it canonically."
        )
    return replace(
        adapter,
        original={CONFIG_FILE: config_bytes, TENSOR_FILE: content},
        remarks=(*adapter.remarks, *key_remarks(adapter.config, adapter.tensors), *remarks),
    )


def adapter_of(
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, object] | bytes,
    *,
    metadata: Sequence[tuple[str, str]] = PEFT_METADATA,
    attachments: Mapping[str, bytes] | None = None,
    source: Source | None = None,
) -> Adapter:
    """Make an adapter of tensors under their PEFT keys and a config.

    Args:
        tensors: On any device; put into the order of the safetensors library.
        config: The config, or the bytes of an adapter_config.json.
        metadata: Entries of the tensor file's header.
        attachments: Other files.
        source: Where it came from.

    Raises:
        InvalidInputError, RefusedError: as `read_directory`.
    """
    config_bytes = config if isinstance(config, bytes) else _dump_config(config)
    items = safetensors_file.usual_order(item_of(key, tensor) for key, tensor in tensors.items())
    kept = without_card(attachments or {})
    check_names(kept)
    try:
        raw_bytes = len(safetensors_file.write(metadata, items))
    except IntegrityError as error:
        raise InvalidInputError(error.message, hint=_LIMITS) from error
    source = source or Source(kind="adapter", location="")
    return _assemble(tuple(metadata), items, config_bytes, kept, source, raw_bytes)


def source_digest(
    config_bytes: bytes,
    metadata: Sequence[tuple[str, str]],
    items: Sequence[Item],
    attachments: Mapping[str, bytes],
) -> Digest:
    """Return the identity of an adapter: sha256 of canonical JSON over the digests of its parts."""
    parts: Json = {
        "config": sha256(config_bytes),
        "metadata": [{"name": name, "value": value} for name, value in metadata],
        "tensors": [
            {
                "key": item.key,
                "dtype": item.dtype,
                "shape": list(item.shape),
                "sha256": digest,
            }
            for item, digest in zip(items, _digests(items), strict=True)
        ],
        "attachments": [
            {"name": name, "sha256": sha256(content)}
            for name, content in sorted(attachments.items())
        ],
    }
    return sha256(dump(parts))


def _digests(items: Sequence[Item]) -> list[Digest]:
    """Return the digests of tensors, by several threads where there is much to hash."""

    def digests(some: Sequence[Item]) -> list[Digest]:
        return [sha256(item.content) for item in some]

    if sum(len(item.content) for item in items) < _HASHED_SIDE_BY_SIDE:
        return digests(items)
    size = -(-len(items) // MAX_THREADS)
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [digest for some in side_by_side(digests, parts) for digest in some]


def _dump_config(config: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(config, indent=2, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{CONFIG_FILE}: a value is not a JSON value: {error}.",
            hint="Give texts, numbers, lists and mappings.",
        ) from error


def _assemble(
    metadata: tuple[tuple[str, str], ...],
    items: Sequence[Item],
    config_bytes: bytes,
    attached: Mapping[str, bytes],
    source: Source,
    raw_bytes: int,
) -> Adapter:
    """Sort the tensors into lanes and build the value: the one place that accepts an adapter."""
    config = parse_config(config_bytes)
    refuse_unsafe(config)
    check_targets(config)
    settings = settings_of(config)
    tensors = {item.key: tensor_of(item) for item in items}
    check_finite(tensors)
    keep = _tied(tensors) if settings.tied else frozenset[str]()
    layout, remarks = _describe(items, metadata, settings, keep)
    # refuses what says nothing certain of its scales
    module_scales(config, layout)
    return Adapter(
        tensors=tensors,
        config=config,
        config_bytes=config_bytes,
        layout=layout,
        attachments=attached,
        source=source,
        source_digest=source_digest(config_bytes, metadata, items, attached),
        raw_bytes=raw_bytes,
        remarks=(
            *config_remarks(config),
            *header_remarks(config, metadata),
            *remarks,
            *reading_remarks(config, layout),
            *_absent_heads(config, layout),
            *_zeros(layout, tensors),
            *([f"{len(keep)} tied factor pairs are kept verbatim."] if keep else []),
        ),
    )


def _absent_heads(config: Mapping[str, object], layout: Layout) -> list[str]:
    absent = absent_heads(config, [layout.tensors[place].key for place in layout.passengers])
    return [
        f"modules_to_save names {first_and_more(absent, 3)}, of which there is no tensor: PEFT"
        " does not load the adapter into a model that has such a module."
        for _ in absent[:1]
    ]


def _describe(
    items: Sequence[Item],
    metadata: Sequence[tuple[str, str]],
    settings: Settings,
    keep: frozenset[str],
) -> tuple[Layout, list[str]]:
    ensure(
        len(items) <= MAX_TENSORS,
        InvalidInputError(
            f"the adapter has {len(items)} tensors, more than the limit of {MAX_TENSORS}.",
            hint="Train the experts of a layer as one parameter (target_parameters), or fewer"
            " modules (target_modules).",
        ),
    )
    try:
        specs = [
            TensorSpec(key=item.key, dtype=item.dtype, shape=list(item.shape)) for item in items
        ]
        layout, remarks = layout_of(metadata, specs, settings, keep=keep)
        layout.to_bytes()
    except ValidationError as error:
        raise InvalidInputError(
            f"the adapter's tensors cannot be described: {error.errors()[0]['msg']}.", hint=_LIMITS
        ) from error
    except IntegrityError as error:
        raise InvalidInputError(error.message, hint=_LIMITS) from error
    return layout, remarks


def _tied(tensors: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Return the modules that weight tying couples; their factors must stay equal bit for bit.

    They are an embedding's pair and the output head's, its transposed copy.
    """
    keep: set[str] = set()
    for table, head in tied_modules(list(tensors)):
        keys = [
            f"{table}.lora_embedding_A",
            f"{table}.lora_embedding_B",
            f"{head}.lora_A.weight",
            f"{head}.lora_B.weight",
        ]
        if not all(key in tensors for key in keys):
            continue
        a, b, head_a, head_b = (tensors[key] for key in keys)
        ensure(
            torch.equal(head_a, b.T) and torch.equal(head_b, a.T),
            InvalidInputError(
                f"{keys[2]!r} and {keys[1]!r} are not transposed copies of one another,"
                " expected that with ensure_weight_tying.",
                hint="Train or save again.",
            ),
        )
        keep |= {table.removeprefix(PREFIX), head.removeprefix(PREFIX)}
    return frozenset(keep)


def _zeros(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    zero = [
        factor.module
        for factor in layout.factors
        if any(_is_zero(tensors[layout.tensors[index].key]) for index in (factor.a, factor.b))
    ]
    return [
        f"{len(zero)} of {len(layout.factors)} factor pairs have an all-zero factor (dW = 0),"
        f" such as {module}: untrained, or a failed load."
        for module in zero[:1]
    ]


def _is_zero(tensor: torch.Tensor) -> bool:
    """Tell whether all values are zero; the first ones nearly always tell."""
    return not bool(tensor[:1].any()) and not bool(tensor.any())


def not_there(place: str) -> NotFoundError:
    """Return the error that there is no directory at a place."""
    scheme = re.match(r"([a-z][a-z0-9+]+):/", place)
    return NotFoundError(
        f"adapter directory {place} does not exist.",
        hint=f"{scheme[1]}:// is not read: download it, then give the directory."
        if scheme
        else "Check the path.",
    )


def _list_files(folder: Path, outside: Outside) -> Files:
    kind = outside.kind_behind(folder)
    ensure(
        kind is not None,
        not_there(str(folder)),
    )
    if kind is Kind.FILE:
        raise _not_a_directory(folder)
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
        folders={
            name: _list_files(folder / name, outside)
            for name in (below if CONFIG_FILE not in kinds else [])
            if outside.kind(folder / name / CONFIG_FILE) is Kind.FILE
        },
    )


def _not_a_directory(path: Path) -> InvalidInputError:
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


def _require(files: Files, source: Source) -> None:
    """Check that the two files an adapter needs are there, and say what is there instead."""
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
            " pickles are never opened.",
            hint="Convert it: load it with PEFT where you trust it and call save_pretrained,"
            " which writes safetensors.",
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


def _read(files: Files, name: str, limit: int) -> bytes:
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


def _attachments(files: Files) -> tuple[dict[str, bytes], list[str]]:
    names = sorted(files.sizes.keys() - {CONFIG_FILE, TENSOR_FILE})
    kept: dict[str, bytes] = {}
    skipped = [f"{name} (no regular file)" for name in files.others]
    lowered = {CONFIG_FILE, TENSOR_FILE}
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
        elif len(kept) == rules.MAX_ATTACHMENTS:
            skipped.append(f"{name} (over the limit of {rules.MAX_ATTACHMENTS} files)")
        elif size > min(rules.MAX_ATTACHMENT_BYTES, left):
            skipped.append(f"{name} ({size} bytes, over the limit)")
        elif is_pickle(content := _read(files, name, size)):
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
