"""Read an adapter from a PEFT directory, or from tensors and a config at hand.

Every way in ends in `_assemble`, which sorts the tensors into lanes; nothing is imported, unpickled
or mapped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from pydantic import ValidationError

from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    ensure,
)
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.adapter_files import (
    MAX_TENSOR_FILE_BYTES,
    Files,
    attached_files,
    has_card,
    read_file,
    require_adapter,
)
from share_registry.exchange.attachments import (
    TENSOR_FILE,
    check_names,
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
from share_registry.exchange.export_files import digest_of_file
from share_registry.exchange.normal_form import reading_remarks
from share_registry.exchange.plain_keys import key_remarks
from share_registry.exchange.selection import absent_heads, module_scales
from share_registry.exchange.tensors import check_finite, item_of, tensor_of
from share_registry.format import safetensors_file
from share_registry.format.canonical import Json, dump, sha256
from share_registry.format.layout import MAX_TENSORS, Layout, TensorSpec
from share_registry.format.notes import Source
from share_registry.format.safetensors_file import Item
from share_registry.names import Digest, first_and_more
from share_registry.parallel import MAX_THREADS, side_by_side

# What PEFT writes into the header of every tensor file.
PEFT_METADATA: Final = (("format", "pt"),)
# bytes of tensors from which on they are hashed by several threads
_HASHED_SIDE_BY_SIDE: Final = 1 << 26
_LIMITS: Final = (
    "Give names of at most 512 bytes, at most 8 dimensions, and at most 65,536 tensors."
)


def read_files(files: Files, *, source: Source) -> Adapter:
    """Read an adapter from the files of a directory, wherever they lie.

    Where they lie in its only sub-directory with an adapter, as PEFT saves a named one and MLflow
    every one, they are read from there.

    Raises:
        NotFoundError: one of the two files is missing.
        InvalidInputError: a file that cannot be used: damaged, a link, a pickle, a git-LFS pointer,
            unsafe names, wrong shapes.
        RefusedError: an adapter that cannot be lowered apart safely.
    """
    if CONFIG_FILE not in files.sizes and len(files.folders) == 1:
        ((name, inner),) = files.folders.items()
        adapter = read_files(inner, source=source)
        remark = f"read from {name}, the only directory with an adapter there."
        return replace(adapter, remarks=(remark, *adapter.remarks))
    require_adapter(files, source)
    config_bytes = read_file(files, CONFIG_FILE, MAX_CONFIG_BYTES)
    refuse_unsafe(parse_config(config_bytes))
    content = read_file(files, TENSOR_FILE, MAX_TENSOR_FILE_BYTES)
    attached, remarks = attached_files(files, (CONFIG_FILE, TENSOR_FILE))
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
        # an export may be of a version that is there
        tensors_digest=digest_of_file(adapter.layout, adapter.tensors) if has_card(files) else None,
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
        InvalidInputError, RefusedError: as `read_files`.
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


def digest_without_files(adapter: Adapter) -> Digest:
    """Return the identity that an adapter would have without its other files."""
    metadata = [(entry.name, entry.value) for entry in adapter.layout.metadata]
    items = [item_of(spec.key, adapter.tensors[spec.key]) for spec in adapter.layout.tensors]
    return source_digest(adapter.config_bytes, metadata, items, {})


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
