"""Every parser of bytes or texts from outside that needs no torch, and what it is fed with."""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from share_registry.errors import ShareRegistryError
from share_registry.exchange.attachments import (
    check_names,
    is_pickle,
    is_safe_name,
    pipeline_folders,
)
from share_registry.exchange.base_model import base_of, derive_task, family_of, space_name_of
from share_registry.exchange.classify import layout_of
from share_registry.exchange.config import check_targets, parse_config, settings_of
from share_registry.exchange.config_checks import config_remarks, header_remarks, refuse_unsafe
from share_registry.exchange.import_list import read_list
from share_registry.exchange.plain_keys import key_remarks
from share_registry.exchange.selection import absent_heads, module_scales
from share_registry.exchange.signatures import Bundle
from share_registry.format import adapter_object, basis_object, safetensors_file
from share_registry.format.canonical import load, parse_foreign, sha256
from share_registry.format.format_file import parse_format
from share_registry.format.layout import DType, Layout, TensorSpec
from share_registry.format.notes import Note
from share_registry.format.records import parse_record
from share_registry.format.tensor_object import decode_tensor
from share_registry.names import (
    alias_name,
    digest,
    parse_reference,
    space_name,
    split_task,
    task_name,
)
from share_registry.outside.files import Outside
from share_registry.store.protocol import identity_of, object_of, record_of
from share_registry.times import beginning_of, end_of
from share_registry.values.audits import Checkpoint
from share_registry.values.conditions import conditions_of
from share_registry.values.shards import check_shard, check_subset
from tests.fuzz.keep import kept_inputs

VECTORS: Final = Path(__file__).parents[2] / "spec" / "vectors"
_KEYS: Final = [
    f"base_model.model.model.layers.{layer}.{name}.lora_{side}.weight"
    for layer in range(2)
    for name in ("self_attn.q_proj", "mlp.experts", "mlp.experts.base_layer")
    for side in "AB"
]
_TENSORS: Final = ((DType.BF16, 24), (DType.BF16, 18), (DType.I64, 48), (DType.F32, 24))
_CHECKPOINT: Final = (
    b"share-registry checkpoint 1 of store 01234567-89ab-cdef-0123-456789abcdef, spaces: 1\n"
    + b"s/@c12 %s 2026-11-16T20:38:00.000000Z\n" % (b"a" * 64)
)
_EXPIRING: Final = _CHECKPOINT.replace(b": 1\n", b": 1, expires: 2026-12-16T20:38:00.000000Z\n")
_STATEMENT: Final = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "x", "digest": {"sha256": "a" * 64}}],
    "predicateType": "https://model_signing/signature/v1.0",
    "predicate": {
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
        "resources": [{"name": "x", "algorithm": "sha256", "digest": "a" * 64}],
    },
}
_BUNDLE: Final = {
    "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
    "verificationMaterial": {"publicKey": {"hint": "b" * 64}, "tlogEntries": []},
    "dsseEnvelope": {
        "payload": b64encode(json.dumps(_STATEMENT).encode()).decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": "AAAA", "keyid": ""}],
    },
}
SPECS: Final = [TensorSpec(key=key, dtype=DType.F32, shape=[8, 8]) for key in _KEYS]
CONFIGS: Final[Sequence[Mapping[str, object]]] = (
    {"target_modules": ["q_proj"], "modules_to_save": ["score"], "task_type": "SEQ_CLS"},
    {"target_modules": r".*\.(q|v)_proj", "rank_pattern": {"q_proj": 8}, "use_rslora": True},
    {"target_parameters": ["mlp.experts.down_proj", "gate_up_proj"], "alpha_pattern": {"a.*": 2}},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["layers"]},
    {"exclude_modules": "(?!a).*mlp", "auto_mapping": {"parent_library": "transformers.models"}},
    {"base_model_name_or_path": "org/Model", "revision": "main", "bias": "none", "use_dora": False},
    {"layer_replication": [[0, 2]], "trainable_token_indices": {"a": [1]}, "eva_config": {"a": 1}},
)
TEXTS: Final = (
    *("cola", "space/cola@v3", "cola@latest~1", "@c412", "cola@prod~2", "cola@2026-11-16"),
    *("cola@1a2b3c4d", "2026-11-16T20:38:00", "acc>=0.8", "label.a=b*", "1/8", "a" * 64),
    *("objects/ab/" + "c" * 62, "spaces/a/log/00000000000000000001.json", "/home/a/models--o--m"),
    *(
        "checkpoint-100",
        "2026-W05",
        "metric.loss<1e-3",
        "run-" + "20" * 18,
        "..",
        "Con.txt",
        "a\\b",
        "~1",
    ),
)
LISTS: Final = (
    b"source,task,labels,metric.acc\na,b,x=1;y=2,0.5\n",
    b'\xef\xbb\xbfsource,message,derived_from\n"a","b, c",x;y\n',
)


@dataclass(frozen=True, kw_only=True)
class Parser:
    """One parser.

    Attributes:
        read: Takes bytes; only errors of the library may come out.
        corpus: What mutations begin with.
        weight: How many inputs of all, relative to the others.
    """

    read: Callable[[bytes], object]
    corpus: Sequence[bytes]
    weight: int = 2


def parsers(folder: Path) -> dict[str, Parser]:
    """Return every parser by name, also fed with what was kept of runs that coverage guided.

    Args:
        folder: Where a file may be written, for parsers that read one.
    """
    kept = kept_inputs()
    return {
        name: replace(parser, corpus=[*parser.corpus, *kept.get(name.replace(" ", "-"), [])])
        for name, parser in _parsers(folder).items()
    }


def _parsers(folder: Path) -> dict[str, Parser]:
    """Return every parser by name.

    Args:
        folder: Where a file may be written, for parsers that read one.
    """
    corpus = _vectors()
    everything = [content for contents in corpus.values() for content in contents]
    binary = [content for content in everything if content[:1] not in b"{["]
    layouts = {sha256(content): content for content in corpus["layout"]}
    configs = [json.dumps({"peft_type": "LORA", "r": 8} | dict(each)).encode() for each in CONFIGS]

    def read_adapter(content: bytes) -> None:
        # damage to the digest of its layout is not what is looked for behind it
        digest_of_layout = adapter_object.header(content).layout
        layout = layouts.get(digest_of_layout, corpus["layout"][0])
        adapter_object.decode(content, Layout.from_bytes(layout), size_of=lambda _: 1 << 20)

    def read_csv(content: bytes) -> None:
        path = folder / "list.csv"
        path.write_bytes(content)
        read_list(path, outside=Outside())

    return {
        "record": Parser(read=parse_record, corpus=corpus["record"], weight=4),
        "note": Parser(read=Note.from_bytes, corpus=corpus["note"], weight=3),
        "layout": Parser(read=Layout.from_bytes, corpus=corpus["layout"], weight=3),
        "format": Parser(read=_read_format, corpus=corpus["format"]),
        "json": Parser(read=lambda content: load(content, subject="it"), corpus=corpus["json"]),
        "foreign json": Parser(read=_read_foreign, corpus=[*corpus["json"], *configs]),
        "adapter": Parser(read=read_adapter, corpus=corpus["adapter"], weight=5),
        "basis": Parser(read=basis_object.decode, corpus=corpus["basis"], weight=3),
        "tensor": Parser(read=_read_tensor, corpus=corpus["tensor"], weight=3),
        "safetensors": Parser(read=_read_safetensors, corpus=binary, weight=3),
        "config": Parser(read=_read_config, corpus=configs, weight=6),
        "texts": Parser(read=_read_text, corpus=[text.encode() for text in TEXTS], weight=3),
        "checkpoint": Parser(
            read=lambda content: Checkpoint.of(content.decode(errors="replace")),
            corpus=[_CHECKPOINT, _EXPIRING],
            weight=1,
        ),
        "signature": Parser(read=Bundle.of, corpus=[json.dumps(_BUNDLE).encode()], weight=1),
        "list": Parser(read=read_csv, corpus=LISTS, weight=1),
        "attachments": Parser(read=_read_attachment, corpus=everything, weight=1),
    }


def _vectors() -> dict[str, list[bytes]]:
    """Return the vectors of one file, and the files of the good stores, by what they are."""
    corpus: dict[str, list[bytes]] = {}
    for path in sorted(VECTORS.rglob("*")):
        kind = _kind(path) if path.is_file() else ""
        if kind and path.stat().st_size <= 1 << 16:
            corpus.setdefault(kind, []).append(path.read_bytes())
    return corpus


def _kind(path: Path) -> str:
    """Return what a vector is, as its name or its contents say; empty for what is no input."""
    if "log" in path.parts:
        return "record"
    if path.name == "FORMAT":
        return "format"
    if "objects" in path.parts:
        head = path.read_bytes()[:4096]
        marks = {"note": b'"kind":"note"', "layout": b'"kind":"layout"'}
        marks |= {
            name: f'\\"kind\\":\\"{name}\\"'.encode() for name in ("adapter", "basis", "tensor")
        }
        return next((kind for kind, mark in marks.items() if mark in head), "")
    kind = path.name.partition(".")[2].partition(".")[0]
    return kind if kind in ("zip", "store") or path.parent.name in ("good", "bad") else ""


def _read_format(content: bytes) -> None:
    parse_format(content)
    identity_of(content, writing=True)


def _read_foreign(content: bytes) -> None:
    parse_foreign(content, subject="it", limit=1 << 20)


def _read_tensor(content: bytes) -> None:
    """Read a tensor object as each of those that the vectors hold."""
    for dtype, size in _TENSORS[:-1]:
        with suppress(ShareRegistryError):
            decode_tensor(content, dtype=dtype, size=size)
            return
    decode_tensor(content, dtype=_TENSORS[-1][0], size=_TENSORS[-1][1])


def _read_safetensors(content: bytes) -> None:
    file = safetensors_file.read(content, subject="file")
    safetensors_file.is_canonical(content, file)
    header_remarks({}, file.metadata)


def _read_config(content: bytes) -> None:
    """Read a config as a commit does, but for the tensors."""
    config = parse_config(content)
    refuse_unsafe(config)
    check_targets(config)
    layout, _ = layout_of((), SPECS, settings_of(config), keep=frozenset())
    module_scales(config, layout)
    config_remarks(config)
    header_remarks(config, [("lora_adapter_metadata", content.decode())])
    key_remarks(config, _KEYS)
    absent_heads(config, _KEYS)
    base = base_of(config)
    family_of(config, base.label)
    space_name_of(base.label)


def _read_text(content: bytes) -> None:
    """Read a text as everything that a caller may say in one; each may refuse it."""
    text = content.decode(errors="surrogateescape")
    readers: tuple[Callable[[str], object], ...] = (
        *(space_name, task_name, alias_name, digest, parse_reference, split_task, derive_task),
        *(end_of, beginning_of, conditions_of, object_of, record_of, space_name_of),
        lambda text: check_shard("shard", text),
        lambda text: check_subset("subset", text),
        lambda text: check_names([text]),
    )
    refused = 0
    for read in readers:
        try:
            read(text)
        except ShareRegistryError:
            refused += 1
    is_safe_name(text)


def _read_attachment(content: bytes) -> None:
    pipeline_folders(content)
    is_pickle(content)
