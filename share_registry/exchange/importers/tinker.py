"""LoRA of Tinker: files called as PEFT's, with modules called as Tinker's.

`unembed_tokens` is the output head. Experts are three tensors each side of a layer, w1, w2 and w3,
with an expert in front, or 1 where all experts share that side. Of Qwen3.5 the parts of a fused
projection are pairs of their own; together they are one pair of their ranks' sum, whose B is zero
off its diagonal of blocks. Names that depend on the base model are told by its label.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.attachments import TENSOR_FILE
from share_registry.exchange.base_model import base_of
from share_registry.exchange.config import CONFIG_FILE, PREFIX, settings_of
from share_registry.exchange.config_checks import refuse_unsafe
from share_registry.exchange.importers.assembly import ForeignAdapter, ModulePair, assemble
from share_registry.exchange.importers.contents import Contents, FileHeader
from share_registry.exchange.importers.lora_keys import KeyRole, modules_of
from share_registry.names import first_and_more

LABEL: Final = "an adapter of Tinker"
_HEAD: Final = re.compile(r"model\.unembed_tokens$")
_EXPERTS: Final = re.compile(r"(?P<owner>.*\.experts)\.(?P<name>w[123])")
_NAMES: Final = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_NAMES_WITHOUT_GATE: Final = {"w1": "up_proj", "w2": "down_proj"}
# Base models whose experts have no gate, and that fuse what Tinker trains apart.
_NEMOTRON: Final = re.compile(r"nemotron", re.IGNORECASE)
# Those whose language model is a part of another model.
_WITHIN: Final = re.compile(r"qwen3[._-]?(5|6|vl|omni)|kimi-k2\.5", re.IGNORECASE)
_FUSED: Final = re.compile(r"(?P<owner>.*)\.in_proj_(?P<name>[qkv])")
_IN_FUSED: Final = ("q", "k", "v")
_CONVERT: Final = (
    "Convert it with tinker_cookbook.weights.build_lora_adapter, which reads the base model, and"
    " commit what that writes."
)


def is_of_tinker(header: FileHeader) -> bool:
    """Tell whether a file is of this format by its keys."""
    return any(".unembed_tokens.lora_" in key for key in header.shapes) or any(
        len(shape) == 3 and _EXPERTS.match(key) is not None
        for key, shape in header.shapes.items()
        if ".lora_" in key
    )


def matches_tinker(contents: Contents) -> bool:
    """Tell whether the directory is Tinker's: PEFT names the modules that it found."""
    is_config = contents.config.get("target_modules") == "all-linear"
    if TENSOR_FILE not in contents.files.sizes or not is_config:
        return False
    header = contents.header(TENSOR_FILE)
    return header is not None and is_of_tinker(header)


def read_tinker(contents: Contents, _: str | None) -> Adapter:
    """Read an adapter. Raises InvalidInputError, RefusedError."""
    config = contents.config
    ensure(
        "r" in config and "lora_alpha" in config,
        InvalidInputError(
            f"{contents.source.location}: {CONFIG_FILE} has no r or no lora_alpha, expected both.",
            hint="Download the checkpoint again.",
        ),
    )
    refuse_unsafe({"peft_type": "LORA", **config})
    settings = settings_of(config)
    scale = settings.alpha / settings.rank
    label = base_of(config).label
    loaded = contents.load(TENSOR_FILE)
    plain = {key: key.removeprefix(PREFIX) for key in loaded.tensors}
    tensors = {plain[key]: tensor for key, tensor in loaded.tensors.items() if tensor.numel()}
    modules, strange = modules_of(tensors)
    strange += [
        key
        for keys in modules.values()
        for role, key in keys.items()
        if role not in (KeyRole.A, KeyRole.B)
    ]
    ensure(
        not strange,
        RefusedError(
            f"{TENSOR_FILE}: {first_and_more(strange, 3)} is no factor, expected pairs of lora_A"
            " and lora_B.",
            hint=_CONVERT,
        ),
    )
    pairs = []
    for module, keys in sorted(modules.items()):
        a, b = tensors[keys[KeyRole.A]], tensors[keys[KeyRole.B]]
        pairs += list(_pairs(_path(module, label), a, b, scale=scale, label=label))
    pairs = _fuse(pairs)
    attachments, left = contents.attached([TENSOR_FILE])
    return assemble(
        ForeignAdapter(
            label=LABEL,
            pairs=pairs,
            base_model=label or None,
            metadata=loaded.metadata,
            attachments=attachments,
            remarks=[*_remarks(modules), *left],
        ),
        contents.source,
    )


def _path(module: str, label: str) -> str:
    """Return the path of a module in the base model."""
    path = _HEAD.sub("lm_head", module)
    path = path.replace(".attn.", ".self_attn.") if path.startswith("model.layers.") else path
    if _WITHIN.search(label) and path.startswith("model."):
        path = f"model.language_model.{path.removeprefix('model.')}"
    return path


def _pairs(
    module: str, a: torch.Tensor, b: torch.Tensor, *, scale: float, label: str
) -> Iterator[ModulePair]:
    is_nemotron = _NEMOTRON.search(label) is not None
    ensure(
        not (is_nemotron and module.endswith((".mixer.gate_proj", ".mixer.x_proj"))),
        RefusedError(
            f"{module}: part of a projection that the base model has fused with others; how many"
            " rows it has stands in no file of the adapter.",
            hint=_CONVERT,
        ),
    )
    match = _EXPERTS.fullmatch(module)
    if match is None:
        ensure(
            a.dim() == 2 and b.dim() == 2,
            InvalidInputError(
                f"{module}: lora_A {list(a.shape)} and lora_B {list(b.shape)}, expected (r, in) and"
                " (out, r).",
                hint="Download the checkpoint again.",
            ),
        )
        yield ModulePair(module=module, a=a, b=b, alpha=scale * a.shape[0])
        return
    ensure(
        a.dim() == 3 and b.dim() == 3 and len({a.shape[0], b.shape[0], 1}) <= 2,
        InvalidInputError(
            f"{module}: lora_A {list(a.shape)} and lora_B {list(b.shape)}, expected (E, r, in) and"
            " (E, out, r), E being 1 where the experts share one.",
            hint="Download the checkpoint again.",
        ),
    )
    count = max(a.shape[0], b.shape[0])
    ensure(
        count > 1,
        InvalidInputError(
            f"{module}: both factors are shared by all experts, and how many there are is not"
            " said.",
            hint=_CONVERT,
        ),
    )
    name = (_NAMES_WITHOUT_GATE if is_nemotron else _NAMES)[match["name"]]
    a, b = a.expand(count, -1, -1), b.expand(count, -1, -1)
    for expert in range(count):
        yield ModulePair(
            module=f"{match['owner']}.{expert}.{name}",
            a=a[expert],
            b=b[expert],
            alpha=scale * a.shape[1],
        )


def _fuse(pairs: Sequence[ModulePair]) -> list[ModulePair]:
    """Return pairs with those of in_proj_q, in_proj_k and in_proj_v as one of in_proj_qkv.

    Raises RefusedError where one of the three is missing: the rows of the others are not known.
    """
    fused: dict[str, dict[str, ModulePair]] = {}
    others = []
    for pair in pairs:
        if (match := _FUSED.fullmatch(pair.module)) is None:
            others.append(pair)
        else:
            fused.setdefault(match["owner"], {})[match["name"]] = pair
    for owner, parts in sorted(fused.items()):
        ensure(
            parts.keys() == {*_IN_FUSED},
            RefusedError(
                f"{owner}: of in_proj_q, in_proj_k and in_proj_v some are missing: which rows of"
                " in_proj_qkv the others are is not known.",
                hint=_CONVERT,
            ),
        )
        ordered = [parts[name] for name in _IN_FUSED]
        widths = [pair.a.shape[1] for pair in ordered]
        ensure(
            len({*widths}) == 1,
            InvalidInputError(
                f"{owner}: in_proj_q, in_proj_k and in_proj_v take {widths} inputs, expected one"
                " number.",
                hint="Download the checkpoint again.",
            ),
        )
        others.append(
            ModulePair(
                module=f"{owner}.in_proj_qkv",
                a=torch.cat([pair.a for pair in ordered]),
                b=torch.block_diag(*(pair.b for pair in ordered)),  # type: ignore[no-untyped-call]
                alpha=sum(pair.alpha for pair in ordered),
            )
        )
    return others


def _remarks(modules: Mapping[str, object]) -> list[str]:
    has_head = any(_HEAD.search(module) for module in modules)
    has_experts = any(_EXPERTS.fullmatch(module) for module in modules)
    remarks = {
        "unembed_tokens is called lm_head; where the base model ties its head to the embedding,"
        " Tinker's own merge changes the embedding.": has_head,
        "the experts of a layer are one pair each; factors that they shared are repeated.": (
            has_experts
        ),
    }
    return [remark for remark, applies in remarks.items() if applies]
