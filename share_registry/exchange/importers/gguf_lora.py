"""LoRA in GGUF, as llama.cpp's convert_lora_to_gguf.py writes it.

The file has one alpha, divided by the rank of each pair (0 stands for a scale of 1), and tensors
under llama.cpp's names, `blk.0.attn_q.weight.lora_a`. The token embedding's `lora_a` is transposed.
The architecture in the file says what transformers calls a module, for those that are known; and
whether the rows of q and k were put into llama.cpp's order, head by head. To undo that takes the
number of heads, which the file does not have, and the base model's config.json has.

The file is parsed here, with every size checked before it is used.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import torch

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.adapter_files import MAX_TENSOR_FILE_BYTES
from share_registry.exchange.base_config import BASE_CONFIG, TURNED
from share_registry.exchange.importers.assembly import ForeignAdapter, ModulePair, assemble
from share_registry.exchange.importers.contents import Contents, only
from share_registry.exchange.importers.lora_keys import KeyRole, modules_of
from share_registry.exchange.importers.mlx_lm import expert_path
from share_registry.exchange.tensors import check_finite
from share_registry.format.layout import MAX_TENSORS
from share_registry.names import first_and_more

LABEL: Final = "a LoRA in GGUF"
_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_ENTRIES: Final = 1 << 16
_MAX_TEXT: Final = 1 << 20
_MAX_DIMENSIONS: Final = 4
_ALIGNMENT: Final = 32
_TEXT, _ARRAY = 8, 9
# Kinds of values by their number, as struct spells them.
_SCALARS: Final = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
# Element types by their number: those that LoRA is converted to, without quantization.
_FLOATS: Final = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16, 28: torch.float64}
_Q8_0: Final = 8
_Q8_VALUES, _Q8_BYTES = 32, 34
_LORA: Final = re.compile(r"(?P<name>.+)\.weight\.lora_(?P<side>[ab])")
_ROLES: Final = {"a": KeyRole.A, "b": KeyRole.B}
_BLOCK: Final = re.compile(r"blk\.(?P<number>\d+)\.(?P<part>\w+)")
_PARTS: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_FUSED_PARTS: Final = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
_OUTER: Final = {"output": "lm_head", "token_embd": "model.embed_tokens"}
# Architectures with the modules of Llama, whose q and k keep their rows.
_PLAIN: Final = frozenset(
    {
        *("qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma", "gemma2", "gemma3", "olmo2"),
        *("phi3", "apertus", "command-r", "ernie4_5", "exaone4", "glm4", "hunyuan-dense"),
        *("nemotron", "seed_oss", "stablelm"),
    }
)
_FUSING: Final = frozenset({"glm4", "phi3"})
_ONE_ALPHA: Final = (
    "GGUF has one alpha for all modules: what patterns or rsLoRA gave each before it was converted"
    " is lost."
)
_COMMIT_SOURCE: Final = "Commit the PEFT directory that it was converted from."


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """What a GGUF file says of one tensor: its element type by number, its place by an offset."""

    key: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says: its entries, its tensors, and where their offsets count from."""

    entries: Mapping[str, Any]
    places: Sequence[TensorPlace]
    start: int


def matches_gguf(contents: Contents) -> bool:
    """Tell whether a file begins as GGUF does."""
    return bool(_files(contents))


def read_gguf(contents: Contents, _: str | None) -> Adapter:
    """Read an adapter. Raises InvalidInputError, RefusedError."""
    name = only(_files(contents), (), contents, LABEL)
    content = contents.files.read(name, MAX_TENSOR_FILE_BYTES)
    header = parse_gguf(content, name)
    entries = header.entries
    is_lora = entries.get("general.type") == "adapter" and entries.get("adapter.type") == "lora"
    ensure(
        is_lora,
        RefusedError(
            f"{name} is a GGUF file of type {str(entries.get('general.type'))[:40]!r}, expected an"
            " adapter of type lora.",
            hint="Commit the directory of the adapter; a merged model cannot be taken apart.",
        ),
    )
    ensure(
        not entries.get("adapter.alora.invocation_tokens"),
        RefusedError(
            f"{name} is an activated LoRA, which acts after its invocation tokens alone.",
            hint=_COMMIT_SOURCE,
        ),
    )
    architecture = str(entries.get("general.architecture", ""))
    ensure(
        architecture in _PLAIN | TURNED,
        RefusedError(
            f"{name} is for the architecture {architecture[:40]!r}: what transformers calls its"
            f" modules is not known here, expected one of {', '.join(sorted(_PLAIN | TURNED))}.",
            hint=_COMMIT_SOURCE,
        ),
    )
    tensors = decode_gguf(content, header, name)
    check_finite(tensors)
    said = entries.get("adapter.lora.alpha")
    alpha = float(said) if isinstance(said, int | float) else 0.0
    pairs, left = _pairs(tensors, architecture, alpha)
    if architecture in TURNED:
        pairs = _turn_back(pairs, contents, name)
    attachments, beside = contents.attached([name, BASE_CONFIG])
    if left:
        beside.insert(0, f"not kept: {first_and_more(left, 3)}, which llama.cpp does not apply.")
    return assemble(
        ForeignAdapter(
            label=f"{LABEL} for {architecture}",
            pairs=pairs,
            base_model=_base_model(entries),
            attachments=attachments,
            remarks=[_ONE_ALPHA, *beside],
        ),
        contents.source,
    )


def parse_gguf(content: bytes, name: str) -> GgufHeader:
    """Parse what stands before the tensors of a GGUF file. Raises InvalidInputError."""
    with _naming(name):
        return _GgufParser(content).parse()


def decode_gguf(content: bytes, header: GgufHeader, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a GGUF file by key.

    Raises InvalidInputError, RefusedError for elements that are quantized.
    """
    with _naming(name):
        return {place.key: _tensor(content, header.start, place, name) for place in header.places}


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Raise InvalidInputError for a file whose bytes do not fit what it says."""
    try:
        yield
    except (struct.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"{name} is no sound GGUF file: {str(error)[:200]}.", hint="Copy it again."
        ) from error


class _GgufParser:
    """Reads from left to right; a size is checked against what is left before it is used."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def parse(self) -> GgufHeader:
        magic, version, tensors, count = self._take("<4sIQQ")
        if magic != _MAGIC or version not in _VERSIONS:
            raise ValueError(f"version {version} is not 2 or 3, or its bytes are in another order")
        if tensors > MAX_TENSORS or count > _MAX_ENTRIES:
            raise ValueError(f"{tensors} tensors and {count} entries are too many")
        entries = {}
        for _ in range(count):
            key = self._text()
            (kind,) = self._take("<I")
            entries[key] = self._value(kind)
        places = [self._info() for _ in range(tensors)]
        alignment = entries.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16:
            raise ValueError("its alignment is none")
        start = -(-self._place // alignment) * alignment
        return GgufHeader(entries=entries, places=places, start=start)

    def _take(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(form)
        values = struct.unpack_from(form, self._content, self._place)
        self._place += size
        return values

    def _text(self) -> str:
        (size,) = self._take("<Q")
        if size > min(_MAX_TEXT, len(self._content) - self._place):
            raise ValueError(f"a text of {size} bytes does not fit")
        text = self._content[self._place : self._place + size].decode()
        self._place += size
        return text

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind in _SCALARS:
            return self._take(f"<{_SCALARS[kind]}")[0]
        if kind != _ARRAY:
            raise ValueError(f"a value is of kind {kind}")
        inner, count = self._take("<IQ")
        if count > len(self._content) - self._place or inner == _ARRAY:
            raise ValueError(f"a list of {count} values does not fit")
        if inner in _SCALARS:
            return list(self._take(f"<{count}{_SCALARS[inner]}"))
        return [self._value(inner) for _ in range(count)]

    def _info(self) -> TensorPlace:
        key = self._text()
        (dimensions,) = self._take("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"{key!r} has {dimensions} dimensions")
        # the fastest dimension stands first
        shape = tuple(reversed(self._take(f"<{dimensions}Q")))
        kind, offset = self._take("<IQ")
        return TensorPlace(key=key, shape=shape, kind=kind, offset=offset)


def _tensor(content: bytes, start: int, place: TensorPlace, name: str) -> torch.Tensor:
    key, shape, kind = place.key, place.shape, place.kind
    count = prod(shape)
    quantized = kind == _Q8_0 and bool(shape) and shape[-1] % _Q8_VALUES == 0
    if kind not in _FLOATS and not quantized:
        raise RefusedError(
            f"{name}: {key!r} has elements of type {kind}, expected F32, F16, BF16 or Q8_0.",
            hint=_COMMIT_SOURCE,
        )
    size = count // _Q8_VALUES * _Q8_BYTES if quantized else count * _FLOATS[kind].itemsize
    begin = start + place.offset
    if size > len(content) - begin or count == 0:
        raise ValueError(f"{key!r} {list(shape)} does not fit into the file")
    raw = torch.frombuffer(bytearray(content[begin : begin + size]), dtype=torch.uint8)
    if not quantized:
        return raw.view(_FLOATS[kind]).reshape(shape)
    blocks = raw.reshape(-1, _Q8_BYTES)
    steps = blocks[:, :2].contiguous().view(torch.float16).float()
    return (blocks[:, 2:].contiguous().view(torch.int8).float() * steps).reshape(shape)


def _files(contents: Contents) -> list[str]:
    return [name for name in sorted(contents.files.sizes) if contents.mark(name)[:4] == _MAGIC]


def _pairs(
    tensors: Mapping[str, torch.Tensor], architecture: str, alpha: float
) -> tuple[list[ModulePair], list[str]]:
    """Return the factor pairs under the names of transformers, and the keys of other tensors."""
    modules, left = modules_of(tensors, split=_split)
    ensure(
        modules,
        InvalidInputError(
            "the file has no tensors of LoRA, expected pairs of lora_a and lora_b.",
            hint="Convert it again.",
        ),
    )
    return [
        pair
        for name, keys in sorted(modules.items())
        for pair in _pairs_of(
            name, tensors[keys[KeyRole.A]], tensors[keys[KeyRole.B]], architecture, alpha
        )
    ], left


def _split(key: str) -> tuple[str, KeyRole] | None:
    """Return what llama.cpp calls the module of a key, and which factor it is of it."""
    match = _LORA.fullmatch(key)
    return None if match is None else (match["name"], _ROLES[match["side"]])


def _pairs_of(
    name: str, a: torch.Tensor, b: torch.Tensor, architecture: str, alpha: float
) -> Iterator[ModulePair]:
    ensure(
        a.dim() == b.dim() and a.dim() in (2, 3) and (a.dim() == 2 or a.shape[0] == b.shape[0]),
        InvalidInputError(
            f"{name}: lora_a {list(a.shape)} and lora_b {list(b.shape)}, expected (r, in) and"
            " (out, r), or those of each expert.",
            hint="Convert it again.",
        ),
    )
    rank = b.shape[-1]
    alpha = alpha or float(rank)
    if name == "token_embd":
        yield ModulePair(module=_OUTER[name], a=a.T, b=b, alpha=alpha, is_table=True)
        return
    path = _path(name, architecture)
    if a.dim() == 3:
        for expert in range(a.shape[0]):
            module = expert_path(path, expert, architecture)
            yield ModulePair(module=module, a=a[expert], b=b[expert], alpha=alpha)
        return
    yield ModulePair(module=path, a=a, b=b, alpha=alpha)


def _path(name: str, architecture: str) -> str:
    """Return what transformers calls a module. Raises RefusedError where that is not known."""
    if name in _OUTER:
        return _OUTER[name]
    match = _BLOCK.fullmatch(name)
    parts = _PARTS | (_FUSED_PARTS if architecture in _FUSING else {})
    part = parts.get(match["part"]) if match else None
    # of Mixtral, the router and the experts have names of their own
    is_mixtral = architecture == "llama" and part is not None and part.startswith("mlp.experts")
    if match is None or part is None or is_mixtral:
        raise RefusedError(
            f"{name!r}: what transformers calls this module of {architecture} is not known here.",
            hint=_COMMIT_SOURCE,
        )
    return f"model.layers.{match['number']}.{part}"


def _turn_back(pairs: list[ModulePair], contents: Contents, name: str) -> list[ModulePair]:
    """Return pairs with the rows of q and k as transformers has them.

    Raises RefusedError where the number of heads is not known.
    """
    turned = {
        pair.module: heads
        for pair in pairs
        for end, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads"))
        if pair.module.endswith(f"self_attn.{end}")
    }
    config = contents.json_of(BASE_CONFIG)
    result = []
    for pair in pairs:
        if pair.module not in turned:
            result.append(pair)
            continue
        heads = config.get(turned[pair.module]) or config.get("num_attention_heads")
        rows, rank = pair.b.shape
        if not isinstance(heads, int) or heads < 1 or rows % (2 * heads):
            raise RefusedError(
                f"{name}: llama.cpp has the rows of q_proj and k_proj in an order of its own, head"
                f" by head, and {BASE_CONFIG} of the base model, with the number of heads, is not"
                " beside it.",
                hint=f"Put the base model's {BASE_CONFIG} into the directory of the file. Or"
                " commit the PEFT directory that it was converted from.",
            )
        b = pair.b.reshape(heads, rows // heads // 2, 2, rank).transpose(1, 2).reshape(rows, rank)
        result.append(ModulePair(module=pair.module, a=pair.a, b=b.contiguous(), alpha=pair.alpha))
    return result


def _base_model(entries: Mapping[str, Any]) -> str | None:
    """Return the base model's repository on the Hub, where the file names one."""
    url = entries.get("general.base_model.0.repo_url")
    match = re.fullmatch(r"https://huggingface\.co/([\w.-]+/[\w.-]+)", str(url or ""))
    return match[1] if match else None
