"""LoRA of kohya-ss' trainers and of LyCORIS: one safetensors file, its paths with underscores.

Each module has `lora_down`, `lora_up` and `alpha`, which is divided by the rank; without it the
scale is 1, as it is where alpha is 0. LyCORIS has written an alpha that rank stabilization changed
as one that is divided by the rank, and a trained scalar into `lora_up`. The two factors of a
convolution may have a core between them (Tucker), which is multiplied into `lora_down`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.importers.assembly import ForeignAdapter, ModulePair, assemble
from share_registry.exchange.importers.contents import Contents, FileHeader, only
from share_registry.exchange.importers.lora_keys import (
    KeyRole,
    ModuleKeys,
    fold_core,
    is_single_file,
    modules_of,
    number_of,
    refuse_other_methods,
    split_key,
)
from share_registry.exchange.importers.module_paths import is_flat, paths_of
from share_registry.names import first_and_more

LABEL: Final = "a LoRA of kohya-ss or LyCORIS"
# What a trainer says of the base model; shown, as it is no name that a Hub knows.
_BASE: Final = ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")
# Companions of a pair -> the member of a config that says so, and what they are.
_FIELDS: Final = {
    "lora_magnitude_vector": ("use_dora", "magnitudes (DoRA)"),
    "lora_B.bias": ("lora_bias", "a bias of lora_B"),
}
_DORA_IN: Final = (
    "Train it with wd_on_output=True, or extract a LoRA of the merged weights (a truncated SVD of"
    " their difference from the base model's)."
)


def is_kohya(header: FileHeader) -> bool:
    """Tell whether a file is of this format by its keys."""
    return any(is_flat(key) for key in header.shapes) and is_single_file(header.shapes)


def matches_kohya(contents: Contents) -> bool:
    """Tell whether there is a file of this format."""
    return bool(contents.tensor_files(is_kohya))


def read_kohya(contents: Contents, part: str | None) -> Adapter:
    """Read an adapter, or the modules of one part of a pipeline under their own paths.

    Raises InvalidInputError, RefusedError.
    """
    name = only(contents.tensor_files(is_kohya), (), contents, LABEL)
    loaded = contents.load(name)
    refuse_other_methods(list(loaded.tensors), name)
    written = {split[0] for key in loaded.tensors if (split := split_key(key)) is not None}
    paths, unclear = paths_of(written)
    modules, strange = modules_of(loaded.tensors, name_of=paths)
    ensure(
        not strange,
        RefusedError(
            f"{name}: {first_and_more(strange, 3)} is no part of a LoRA,"
            " expected lora_down, lora_up, lora_mid, alpha and dora_scale.",
            hint="Save it again with the trainer that wrote it, as plain LoRA.",
        ),
    )
    pairs, remarks = pairs_of_file(modules, loaded.tensors)
    if unclear:
        remarks.append(
            f"{first_and_more(unclear, 3)}: which underscores part its path is not known, so the"
            " module is called as the file has it; PEFT does not find it by that name."
        )
    pairs, about_parts = part_of_pipeline(pairs, part)
    attachments, left = contents.attached([name])
    return assemble(
        ForeignAdapter(
            label=LABEL,
            pairs=pairs,
            fields=fields_of(pairs),
            metadata=loaded.metadata,
            attachments=attachments,
            remarks=[*_on_base(loaded.metadata), *about_parts, *remarks, *left],
        ),
        contents.source,
    )


def pairs_of_file(
    modules: Mapping[str, ModuleKeys],
    tensors: Mapping[str, torch.Tensor],
    scales: Mapping[str, float] | None = None,
) -> tuple[list[ModulePair], list[str]]:
    """Return the factor pairs of a single file, and remarks.

    Args:
        modules: The keys of each module's parts.
        tensors: The tensors of the file.
        scales: Module -> s of dW = s B A where it has no alpha of its own; 1 where it is not here.

    Raises InvalidInputError, RefusedError.
    """
    scales = scales or {}
    bare = [
        module
        for module, keys in modules.items()
        if KeyRole.ALPHA not in keys and module not in scales
    ]
    cores = [module for module, keys in modules.items() if KeyRole.CORE in keys]
    pairs = [
        _pair(module, keys, tensors, scales.get(module, 1.0))
        for module, keys in sorted(modules.items())
        if KeyRole.A in keys
    ]
    remarks = []
    if bare:
        remarks.append(
            f"{len(bare)} of {len(modules)} modules, such as {bare[0]}, have no alpha: their scale"
            " is taken for 1, as the programs that read such files do; one that was trained with"
            " another alpha does not say so."
        )
    if cores:
        remarks.append(
            f"{len(cores)} convolutions have a core (Tucker), such as {cores[0]}: it is multiplied"
            " into their A, which is kept in float32."
        )
    return pairs, remarks


def fields_of(pairs: Sequence[ModulePair]) -> dict[str, object]:
    """Return the members of a config that the companions of pairs call for.

    Raises RefusedError where some modules have them and others do not.
    """
    fields: dict[str, object] = {}
    for end, (field, mark) in _FIELDS.items():
        marked = [pair.module for pair in pairs if end in pair.companions]
        ensure(
            not marked or len(marked) == len(pairs),
            RefusedError(
                f"{len(marked)} of {len(pairs)} modules, such as {first_and_more(marked, 1)}, have"
                f" {mark}: PEFT has it for all modules of an adapter or for none.",
                hint="Train it with that for every module, or for none.",
            ),
        )
        fields |= {field: True} if marked else {}
    return fields


def part_of_pipeline(
    pairs: list[ModulePair], part: str | None
) -> tuple[list[ModulePair], list[str]]:
    """Return the pairs of one part of a pipeline without its name, or all of them, and a remark.

    Raises InvalidInputError where the file has none of that part.
    """
    parts = sorted({pair.module.partition(".")[0] for pair in pairs})
    if part is None:
        listed = [name for name in parts if name in PIPELINE_PARTS]
        if not listed:
            return pairs, []
        remark = (
            f"module paths begin with the part of the pipeline ({', '.join(listed)}); one part"
            f" alone, under paths that PEFT finds in it, is read by adapter name {listed[0]!r}."
        )
        return pairs, [remark]
    own = [
        replace(pair, module=pair.module.removeprefix(f"{part}."))
        for pair in pairs
        if pair.module.startswith(f"{part}.")
    ]
    ensure(
        own,
        InvalidInputError(
            f"the file has no modules of {part!r}; it has those of {', '.join(parts[:8])}.",
            hint="Give one of them as adapter_name, or leave it out for all.",
        ),
    )
    return own, []


# What pipelines of diffusers call the models that they are made of.
PIPELINE_PARTS: Final = frozenset(
    {
        *("unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2"),
        *("text_encoder_3", "prior", "controlnet", "decoder", "diffusion_model", "text_encoders"),
        *("connectors", "vae", "image_encoder", "language_model_encoder"),
    }
)


def _pair(
    module: str, keys: Mapping[KeyRole, str], tensors: Mapping[str, torch.Tensor], scale: float
) -> ModulePair:
    a, b = tensors[keys[KeyRole.A]], tensors[keys[KeyRole.B]]
    ensure(
        a.dim() >= 2 and b.dim() >= 2 and a.numel() > 0 and b.numel() > 0,
        InvalidInputError(
            f"{keys[KeyRole.A]!r} {list(a.shape)} and {keys[KeyRole.B]!r} {list(b.shape)} do not"
            " multiply, expected (r, in, ...) and (out, r, ...).",
            hint="Save the file again.",
        ),
    )
    rank = a.shape[0]
    alpha = scale * rank
    if KeyRole.ALPHA in keys:
        # the trainers take 0 for an alpha that was not given
        alpha = number_of(tensors[keys[KeyRole.ALPHA]], keys[KeyRole.ALPHA]) or float(rank)
    if KeyRole.CORE in keys:
        core = tensors[keys[KeyRole.CORE]]
        rank = core.shape[0]
        alpha *= rank / a.shape[0]
        a = fold_core(a, core, keys[KeyRole.CORE])
    companions = {}
    if KeyRole.MAGNITUDE in keys:
        magnitude = tensors[keys[KeyRole.MAGNITUDE]]
        companions["lora_magnitude_vector"] = _magnitude(keys[KeyRole.MAGNITUDE], magnitude, b)
    if KeyRole.BIAS in keys:
        companions["lora_B.bias"] = tensors[keys[KeyRole.BIAS]]
    return ModulePair(module=module, a=a, b=b, alpha=alpha, companions=companions)


def _magnitude(key: str, magnitude: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return magnitudes in PEFT's shape: one for each output. RefusedError for those of inputs."""
    out = b.shape[0]
    # LyCORIS has (out, 1 ...) or (1, in ...), PEFT (out) or (1, out, 1 ...)
    is_of_lycoris = key.endswith(".dora_scale") and magnitude.dim() > 1
    ensure(
        magnitude.numel() == out and (magnitude.shape[0] == out or not is_of_lycoris),
        RefusedError(
            f"{key!r} has shape {list(magnitude.shape)}: magnitudes of the inputs, expected one for"
            f" each of {out} outputs, which is what PEFT's DoRA has.",
            hint=_DORA_IN,
        ),
    )
    return magnitude.reshape([1, out, *[1] * (b.dim() - 2)] if b.dim() > 2 else [out])


def _on_base(metadata: Mapping[str, str]) -> list[str]:
    says = [f"{name} {metadata[name][:120]!r}" for name in _BASE if metadata.get(name)]
    return [f"its header says of the base model: {', '.join(says)}."] if says else []
