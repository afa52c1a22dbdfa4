"""A task version as files: a plain PEFT directory, or what llama.cpp or diffusers reads instead."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from share_registry.algebra.threads import one_thread
from share_registry.errors import (
    InvalidInputError,
    RefusedError,
    ShareRegistryError,
    ensure,
)
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.attachments import README, TENSOR_FILE
from share_registry.exchange.base_config import read_base_config
from share_registry.exchange.committed_file import CommittedFile, require_committed
from share_registry.exchange.config import CONFIG_FILE, relabel
from share_registry.exchange.diffusers_adapter import TARGET as DIFFUSERS, diffusers_adapter
from share_registry.exchange.directory_digest import directory_digest
from share_registry.exchange.export_files import (
    CardFacts,
    card_text,
    digest_of_file,
    files_beside,
    place,
    place_file,
    tensor_file,
)
from share_registry.exchange.export_form import ExportForm, check_profile, form_of
from share_registry.exchange.gguf_adapter import GGUF_FILE, TARGET as LLAMA_CPP, gguf_adapter
from share_registry.exchange.pipeline_parts import PIPELINE_FILE
from share_registry.exchange.signatures import Signer, place_signature, signature_place
from share_registry.exchange.targets.servers import check_target
from share_registry.format.canonical import sha256
from share_registry.format.notes import TaskNote
from share_registry.kinds import FilePath
from share_registry.materialize.device import dtype_of
from share_registry.names import Digest
from share_registry.outside.file_content import FileContent
from share_registry.outside.files import Outside
from share_registry.registry.checkout.checkout import (
    base_label,
    rebuild,
    rebuild_in_turn,
    version_and_note,
)
from share_registry.registry.context import Context
from share_registry.values.checks import Export
from share_registry.values.task_version import TaskVersion

ExportProfile = Literal["native", "portable", "gguf", "diffusers"]
# The file that has the tensors
_TENSOR_FILES: Final[Mapping[ExportProfile, str]] = {
    "native": TENSOR_FILE,
    "portable": TENSOR_FILE,
    "gguf": GGUF_FILE,
    "diffusers": PIPELINE_FILE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """In which form a version is exported.

    Attributes:
        profile: "native" or "portable"; None for what the target reads rightly, else native.
        target: The server that it is for; None for any.
        base_model: What the config names as its base model instead of what it named.
        base_config: config.json of the base model, for llama.cpp; None for that of the Hub's cache.
        dtype: float32 or float16, for llama.cpp; None for float32.
    """

    profile: str | None = None
    target: str | None = None
    base_model: str | None = None
    base_config: FilePath | None = None
    dtype: torch.dtype | str | None = None

    def __post_init__(self) -> None:
        if self.profile is not None:
            check_profile(self.profile)
        if self.target is not None:
            check_target(self.target)
        ensure(
            self.is_gguf or (self.base_config is None and self.dtype is None),
            InvalidInputError(
                "base_config and dtype are of exports for llama.cpp alone.",
                hint=f"Give target={LLAMA_CPP!r} too, or leave them out.",
            ),
        )
        ensure(
            not self.has_own_form or self.profile is None,
            InvalidInputError(
                f"profile {self.profile!r} is given for {self.target}, which reads"
                f" {'GGUF' if self.is_gguf else 'files of its own'}.",
                hint="Leave it out. A directory of PEFT needs no target.",
            ),
        )

    @property
    def is_gguf(self) -> bool:
        """Whether it becomes one file for llama.cpp."""
        return self.target == LLAMA_CPP

    @property
    def has_own_form(self) -> bool:
        """Whether it becomes something else than a directory of PEFT."""
        return self.target in (LLAMA_CPP, DIFFUSERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What is to be exported, how, and where to.

    Attributes:
        ref: A task version.
        root: Where the directory is made; for llama.cpp also the file itself, `*.gguf`.
        space: Space of a reference that names none.
        options: In which form.
        name: Name of the directory or file; None for one with the version and its digest.
        overwrite: Whether something else there is replaced.
        sign: Private key, or "sigstore"; None for no signature.
    """

    ref: str
    root: FilePath
    space: str | None
    options: ExportOptions
    name: str | None = None
    overwrite: bool = False
    sign: FilePath | None = None


@one_thread()
def export_version(context: Context, request: ExportRequest) -> Export:
    """Write one task version, atomically and under an immutable name.

    Raises:
        InvalidInputError: unusable options, name or key.
        RefusedError: the profile cannot express the adapter, the target does not serve it, or
            something else is in its place.
        NotFoundError: the base model's sizes are not known, for llama.cpp.
        IntegrityError: the rebuilt tensors are not those that were committed; nothing is written.
    """
    sign, options, outside = request.sign, request.options, context.outside
    context.require_apart(request.root)
    ensure(
        sign is None or not options.is_gguf,
        RefusedError(
            "an export for llama.cpp is one file, and signatures are of directories.",
            hint="Sign the export without a target.",
        ),
    )
    signer = None if sign is None else Signer.open(sign, outside)
    row, note = version_and_note(context, request.ref, request.space)
    rebuilt = rebuild_files(
        context, row, note, options=options, label=base_label(context, row.space)
    )
    path = _place(rebuilt, row, request, outside)
    weights = rebuilt.digests[_TENSOR_FILES[rebuilt.profile]]
    return Export(
        path=path,
        ref=row.ref,
        name=path.name,
        digest=weights if options.is_gguf else rebuilt.digest,
        notes=rebuilt.notes,
        profile=rebuilt.profile,
        target=options.target,
        tensors=weights,
        signature=None if signer is None else _sign(path, rebuilt.digests, signer, outside),
    )


def _place(
    rebuilt: "RebuiltFiles", row: TaskVersion, request: ExportRequest, outside: Outside
) -> Path:
    """Write the files where they are asked for, and return the directory or the one file."""
    root, name = Path(request.root), request.name
    version = f"{row.name}-v{row.version}"
    if not request.options.is_gguf:
        form = "" if rebuilt.profile == "native" else f"-{rebuilt.profile}"
        folder = f"{version}{form}-{rebuilt.digest[:8]}" if name is None else name
        return place(rebuilt.files, root, folder, overwrite=request.overwrite, outside=outside)[0]
    if name is None:
        is_file = root.suffix.lower() == ".gguf"
        name = "" if is_file else f"{version}-{rebuilt.digests[GGUF_FILE][:8]}.gguf"
    content = bytes(rebuilt.files[GGUF_FILE])
    return place_file(content, root, name, overwrite=request.overwrite, outside=outside)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltFiles:
    """The files that the export of a version consists of.

    Attributes:
        files: By name; the tensors that were committed are decoded as their file is read.
        digests: The sha256 of each.
        digest: The sha256 over both.
        profile: In which they are: "native", "portable", "gguf" or "diffusers".
        notes: What servers would refuse or misread, and what the profile changed.
    """

    files: Mapping[str, FileContent]
    digests: Mapping[str, Digest]
    digest: Digest
    profile: ExportProfile
    notes: tuple[str, ...]


def rebuild_files(
    context: Context, row: TaskVersion, note: TaskNote, *, options: ExportOptions, label: str
) -> RebuiltFiles:
    """Return the files of a version's export: the same version gives the same bytes.

    Args:
        context: The registry.
        row: The version.
        note: What its note says of it.
        options: In which form.
        label: Label of the space's base model, as `base_label` returns it.

    Raises:
        RefusedError: the profile cannot express the adapter, or the target does not serve it.
        NotFoundError: the base model's sizes are not known, for llama.cpp, or an object is gone.
        IntegrityError: the rebuilt tensors are not those that were committed; of the native profile
            that is known when they are read.
    """
    adapter = rebuild_for(context, row, note, options)
    return files_of_adapter(row, adapter, options=options, label=label, outside=context.outside)


def rebuild_for(
    context: Context, row: TaskVersion, note: TaskNote, options: ExportOptions
) -> Adapter:
    """Return a version as stored; in turn where it may be written as it is.

    Raises NotFoundError, IntegrityError.
    """
    is_native = not options.has_own_form and options.profile != "portable"
    return (rebuild_in_turn if is_native else rebuild)(context, row, note)


def files_of_adapter(
    row: TaskVersion, adapter: Adapter, *, options: ExportOptions, label: str, outside: Outside
) -> RebuiltFiles:
    """Return the files of a version whose adapter is rebuilt; as `rebuild_files`.

    Raises NotFoundError only where the base model's sizes are not known.
    """
    if options.is_gguf:
        return _gguf_files(row, adapter, options, label, outside)
    if options.has_own_form:
        return _diffusers_files(row, adapter, options, label)
    form = form_of(adapter, profile=options.profile, target=options.target, base_model=label)
    beside, notes = files_beside(form, card=_facts(row, label))
    if options.base_model is not None:
        beside[CONFIG_FILE] = relabel(beside[CONFIG_FILE], options.base_model)
    files: dict[str, FileContent] = {**beside, TENSOR_FILE: _weights(row, form)}
    digests = {
        name: sha256(content) if isinstance(content, bytes) else content.digest
        for name, content in files.items()
    }
    return RebuiltFiles(
        files=dict(sorted(files.items())),
        digests=digests,
        digest=directory_digest(digests),
        profile=form.profile,
        notes=notes,
    )


def _weights(row: TaskVersion, form: ExportForm) -> FileContent:
    """Return the tensor file of a form; that of the commit is made when it is read."""
    adapter = form.adapter
    if form.profile == "native":
        return CommittedFile(
            layout=adapter.layout, tensors=adapter.tensors, digest=row.tensors_digest, ref=row.ref
        )
    _require_committed(row, form.source)
    return tensor_file(adapter.layout, adapter.tensors)


def _gguf_files(
    row: TaskVersion, adapter: Adapter, options: ExportOptions, label: str, outside: Outside
) -> RebuiltFiles:
    _require_committed(row, adapter)
    written = gguf_adapter(
        adapter,
        read_base_config(options.base_config, label=label, outside=outside),
        card=_facts(row, options.base_model or label),
        dtype=dtype_of(options.dtype) or torch.float32,
        outside=outside,
    )
    digests = {GGUF_FILE: sha256(written.content)}
    return RebuiltFiles(
        files={GGUF_FILE: written.content},
        digests=digests,
        digest=directory_digest(digests),
        profile="gguf",
        notes=written.notes,
    )


def _diffusers_files(
    row: TaskVersion, adapter: Adapter, options: ExportOptions, label: str
) -> RebuiltFiles:
    _require_committed(row, adapter)
    written = diffusers_adapter(adapter)
    card = _facts(row, options.base_model or label)
    files = {
        README: card_text(card, profile="diffusers", library="diffusers"),
        PIPELINE_FILE: written.content,
    }
    digests = {name: sha256(content) for name, content in files.items()}
    return RebuiltFiles(
        files=files,
        digests=digests,
        digest=directory_digest(digests),
        profile="diffusers",
        notes=written.notes,
    )


def _require_committed(row: TaskVersion, adapter: Adapter) -> None:
    rebuilt = digest_of_file(adapter.layout, adapter.tensors)
    require_committed(rebuilt, row.tensors_digest, row.ref)


def _sign(path: Path, digests: Mapping[str, Digest], signer: Signer, outside: Outside) -> Path:
    """Sign an exported directory and return where the signature is: beside it."""
    signature = signature_place(path)
    try:
        place_signature(signer.sign(path, digests), signature, outside)
    except ShareRegistryError as error:
        raise error.amended(prefix=f"{path} was exported and not signed: ") from error
    return signature


def _facts(row: TaskVersion, label: str) -> CardFacts:
    """Return what the card says of the version alone, so that it never changes (spec EXP-03)."""
    return CardFacts(
        base_model=label,
        ref=f"{row.space}/{row.name}@v{row.version}",
        commit_number=row.number,
        commit_id=row.commit_id,
        error=row.error,
        budget=row.budget,
        time=row.time,
    )
