"""Formats that are known and not read: what tells them, and the next step.

Each is told by its content: how a file begins, or what its keys are.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from share_registry.errors import RefusedError
from share_registry.exchange.importers.contents import Contents, FileHeader

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_ORT: Final = b"TORT"
_ORT_PLACE: Final = 4
_PICKLES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")
# Of what may be an adapter; a directory of training has many others.
_PICKLE_NAME: Final = re.compile(r".*lora.*\.(bin|pt|pth|ckpt)", re.IGNORECASE)
_LITGPT_NAME: Final = re.compile(r"lit_model\.pth(\.lora)?|lora\.pth", re.IGNORECASE)
_LITGPT: Final = re.compile(
    r"(lm_head|transformer\.h\.\d+\.(attn\.(qkv|proj)|mlp\.(fc(_[12])?|proj|gate|experts\..+)))"
    r"\.lora_[AB]"
)
_BARE: Final = re.compile(r".+\.lora_[AB]")
_MEGATRON: Final = re.compile(
    r".*\.adapter\.linear_(in|out)\.weight|.*\.(linear_qkv|linear_proj|linear_fc[12])\.lora_[AB].*"
)
_EXTRACT: Final = (
    "extract a LoRA of the merged weights (a truncated SVD of their difference from the base"
    " model's)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedFormat:
    """A format that is known and not read.

    Attributes:
        name: What `format=` calls it.
        label: What messages call its adapters.
        matches: Tells whether a file of a place is of it.
        reason: Why it is not read.
        hint: The next step.
    """

    name: str
    label: str
    matches: Callable[[Contents, str], bool]
    reason: str
    hint: str

    def error(self, contents: Contents, name: str) -> RefusedError:
        """Return what is to be said of a file of it."""
        place = contents.source.location
        where = place if place.endswith(name) else f"{place}: {name}"
        return RefusedError(f"{where} is {self.label}: {self.reason}.", hint=self.hint)


def _begins(*beginnings: bytes, place: int = 0) -> Callable[[Contents, str], bool]:
    return lambda contents, name: contents.mark(name)[place:].startswith(beginnings)


def _keys(fits: Callable[[FileHeader], bool]) -> Callable[[Contents, str], bool]:
    def matches(contents: Contents, name: str) -> bool:
        header = contents.header(name)
        return header is not None and fits(header)

    return matches


def _is_litgpt(contents: Contents, name: str) -> bool:
    if _LITGPT_NAME.fullmatch(name):
        return contents.mark(name).startswith(_PICKLES)
    header = contents.header(name)
    return header is not None and bool(header.shapes) and all(map(_LITGPT.fullmatch, header.shapes))


def _is_loralib(header: FileHeader) -> bool:
    return bool(header.shapes) and all(_BARE.fullmatch(key) for key in header.shapes)


def _is_olive(header: FileHeader) -> bool:
    """Tell whether factors are (in, r) and (r, out), the transposes of PEFT's."""
    shapes = header.shapes
    sides = [
        (shape, shapes.get(key.replace(".lora_A.", ".lora_B."), ()))
        for key, shape in shapes.items()
        if key.endswith(".lora_A.weight")
    ]
    return bool(sides) and all(
        len(a) == 2 and len(b) == 2 and a[1] == b[0] and a[1] < min(a[0], b[1]) for a, b in sides
    )


def _is_peft_alone(header: FileHeader) -> bool:
    return any(key.endswith(".lora_A.weight") for key in header.shapes)


def _is_megatron(header: FileHeader) -> bool:
    return any(_MEGATRON.fullmatch(key) for key in header.shapes)


def _is_pickle(contents: Contents, name: str) -> bool:
    is_pickle = contents.mark(name).startswith(_PICKLES)
    return is_pickle and _PICKLE_NAME.fullmatch(name) is not None


REFUSED: Final = (
    RefusedFormat(
        name="keras-hub",
        label="a LoRA of Keras",
        matches=_begins(_HDF5),
        reason="its variables have running numbers and no names of modules",
        hint=f"Merge it in KerasHub (backbone.merge_lora), and {_EXTRACT}; or train with PEFT.",
    ),
    RefusedFormat(
        name="onnx",
        label="an adapter of ONNX Runtime",
        matches=_begins(_ORT, place=_ORT_PLACE),
        reason="its parameters have the names of an exported graph, and no alpha",
        hint="Commit the PEFT directory that it was converted from.",
    ),
    RefusedFormat(
        name="litgpt",
        label="a LoRA of LitGPT",
        matches=_is_litgpt,
        reason="it has no alpha and no head sizes, which its fused attention is cut by",
        hint="Merge it (litgpt merge_lora), convert it (litgpt convert_from_litgpt), and"
        f" {_EXTRACT}; or train with PEFT.",
    ),
    RefusedFormat(
        name="loralib",
        label="a LoRA of loralib",
        matches=_keys(_is_loralib),
        reason="it has no alpha, and its merged and convolutional layers are no plain products",
        hint=f"Load it into its model, call model.eval(), which merges it, and {_EXTRACT}.",
    ),
    RefusedFormat(
        name="olive",
        label="an adapter that Olive wrote",
        matches=_keys(_is_olive),
        reason="its factors are transposed, and scales by alpha and patterns are lost",
        hint="Commit the PEFT directory that it was made from.",
    ),
    RefusedFormat(
        name="megatron",
        label="a LoRA of Megatron or NeMo",
        matches=_keys(_is_megatron),
        reason="its fused projections are cut by head sizes that stand in no file of the adapter",
        hint="Export it with Megatron Bridge (AutoBridge, export_adapter_hf), which writes a PEFT"
        " directory.",
    ),
    RefusedFormat(
        name="tensors-alone",
        label="the tensors of a LoRA alone",
        matches=_keys(_is_peft_alone),
        reason="rank and alpha stand in an adapter_config.json, which is not there",
        hint="Give the directory with both. Where its scale is 1, as of a file for diffusers,"
        " give format='diffusers'.",
    ),
    RefusedFormat(
        name="pickle",
        label="a pickle",
        matches=_is_pickle,
        reason="pickles are not opened unasked",
        hint="Convert it where you trust it: torch.load(path, weights_only=True), then"
        " safetensors.torch.save_file. An adapter_model.bin beside its adapter_config.json is read"
        " as such with format='peft-bin'.",
    ),
)
