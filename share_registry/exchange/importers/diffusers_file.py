"""LoRA as diffusers saves it: `pytorch_lora_weights.safetensors`, or another single file.

Paths have points, and begin with the part of the pipeline unless one model saved its own. How each
part's layers are scaled stands in the header as JSON since 0.35, before that nowhere: then the
scale is 1, which is what diffusers makes of such a file. Older files name the processors of
attention, not their modules.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from share_registry.errors import InvalidInputError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import PREFIX, settings_of
from share_registry.exchange.config_checks import refuse_unsafe
from share_registry.exchange.importers.assembly import ForeignAdapter, assemble
from share_registry.exchange.importers.contents import Contents, FileHeader, only
from share_registry.exchange.importers.kohya import (
    PIPELINE_PARTS,
    fields_of,
    is_kohya,
    pairs_of_file,
    part_of_pipeline,
)
from share_registry.exchange.importers.lora_keys import (
    ModuleKeys,
    is_single_file,
    modules_of,
    refuse_other_methods,
    split_key,
)
from share_registry.exchange.pipeline_parts import PIPELINE_FILE
from share_registry.exchange.selection import role_of_path
from share_registry.names import first_and_more

LABEL: Final = "a LoRA of diffusers"
METADATA: Final = "lora_adapter_metadata"
# Ends of keys that no other program writes.
_OWN: Final = (".lora.down.weight", "_lora.down.weight", ".lora_linear_layer.down.weight")
# With what the paths of models of diffusers begin.
_BEGINNINGS: Final = re.compile(
    r"(down_blocks|mid_block|up_blocks|transformer_blocks|single_transformer_blocks|blocks"
    r"|double_blocks|single_blocks|joint_blocks|time_embedding|conv_in|conv_out|x_embedder"
    r"|context_embedder|proj_out|norm_out)(\.|$)"
)
_OLD: Final = re.compile(r"(?P<owner>.*)\.to_(?P<name>q|k|v|out)")
_IN_TEXT: Final = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
_IN_ATTENTION: Final = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def is_of_diffusers(header: FileHeader) -> bool:
    """Tell whether a file is of this format by its keys and header."""
    if is_kohya(header) or not is_single_file(header.shapes):
        return False
    if any(key.startswith(PREFIX) for key in header.shapes):
        return False
    return METADATA in header.metadata or any(
        key.endswith(_OWN)
        or key.partition(".")[0] in PIPELINE_PARTS
        or _BEGINNINGS.match(key) is not None
        for key in header.shapes
    )


def matches_diffusers(contents: Contents) -> bool:
    """Tell whether there is a file of this format."""
    return bool(contents.tensor_files(is_of_diffusers))


def read_diffusers(contents: Contents, part: str | None) -> Adapter:
    """Read an adapter, or the modules of one part of a pipeline under their own paths.

    Raises InvalidInputError, RefusedError.
    """
    names = contents.tensor_files(is_of_diffusers) or contents.tensor_files(
        lambda header: is_single_file(header.shapes)
    )
    name = only(names, (PIPELINE_FILE,), contents, LABEL)
    loaded = contents.load(name)
    refuse_other_methods(list(loaded.tensors), name)
    written = {split[0] for key in loaded.tensors if (split := split_key(key)) is not None}
    modules, others = modules_of(loaded.tensors, name_of={path: _path(path) for path in written})
    parts = _configs(loaded.metadata, modules)
    pairs, remarks = pairs_of_file(modules, loaded.tensors, _scales(modules, parts))
    passengers = {f"{PREFIX}{key}": loaded.tensors[key] for key in others}
    if others:
        became = (
            "kept verbatim; the portable form has no place for it"
            if part is None
            else "left out, as it is of no part"
        )
        remarks.append(f"{first_and_more(others, 3)}: outside every LoRA layer, {became}.")
    pairs, about_parts = part_of_pipeline(pairs, part)
    attachments, left = contents.attached([name])
    return assemble(
        ForeignAdapter(
            label=LABEL,
            pairs=pairs,
            base_model=_base_model(parts, part),
            fields=fields_of(pairs),
            passengers=passengers if part is None else {},
            metadata={key: text for key, text in loaded.metadata.items() if key != METADATA},
            attachments=attachments,
            remarks=[*about_parts, *remarks, *left],
        ),
        contents.source,
    )


def _path(written: str) -> str:
    """Return the path of a module that may be named by the processor of its attention."""
    path = written.replace(".processor.", ".")
    is_text = path.startswith("text_encoder") and ".self_attn." in path
    # of `to_out_lora.down`: the ending took `_lora` along
    match = _OLD.fullmatch(path) if is_text or ".processor." in written else None
    if match is None:
        return path
    names = _IN_TEXT if is_text else _IN_ATTENTION
    return f"{match['owner']}.{names[match['name']]}"


def _configs(
    metadata: Mapping[str, str], modules: Iterable[str]
) -> dict[str, Mapping[str, object]]:
    """Return the config in the header of each part of the pipeline; "" for a model's own.

    Raises InvalidInputError where the header is not valid, RefusedError for configs that are unsafe
    to take apart.
    """
    text = metadata.get(METADATA)
    if text is None:
        return {}
    try:
        entries: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{METADATA} in the header is not valid JSON: {str(error)[:200]}.",
            hint="Save the LoRA again with diffusers.",
        ) from error
    ensure(
        isinstance(entries, dict),
        InvalidInputError(
            f"{METADATA} in the header is no JSON object.",
            hint="Save the LoRA again with diffusers.",
        ),
    )
    owners = {module.partition(".")[0] for module in modules}
    parts: dict[str, dict[str, object]] = {}
    for entry, value in entries.items():
        owner, _, field = entry.partition(".")
        if field and owner in owners:
            parts.setdefault(owner, {})[field] = value
        else:
            parts.setdefault("", {})[entry] = value
    for config in parts.values():
        refuse_unsafe({"peft_type": "LORA", **config})
    return dict(parts)


def _scales(
    modules: Mapping[str, ModuleKeys], parts: Mapping[str, Mapping[str, object]]
) -> dict[str, float]:
    """Return the scale of every module that a config in the header says one for."""
    settings = {owner: settings_of(config) for owner, config in parts.items()}
    scales = {}
    for module in modules:
        owner, _, path = module.partition(".")
        if owner in settings:
            scales[module] = role_of_path(settings[owner], path).scale
        elif "" in settings and "r" in parts[""]:
            scales[module] = role_of_path(settings[""], module).scale
    return scales


def _base_model(parts: Mapping[str, Mapping[str, object]], part: str | None) -> str | None:
    """Return the label that the configs in the header agree on."""
    labels = {
        str(config.get("base_model_name_or_path") or "")
        for owner, config in parts.items()
        if part in (None, owner)
    } - {""}
    return labels.pop() if len(labels) == 1 else None
