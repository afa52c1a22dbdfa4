"""Reading: what is kept, what is left out by name, and what deserves a remark."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file

from share_registry.errors import InvalidInputError
from share_registry.exchange import attachments, peft_directory
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_directory import adapter_of
from share_registry.exchange.portable import portable
from share_registry.outside.files import Outside
from tests.exchange.edits import CONFIG, TENSORS, Q, put, set_config, set_tensors

Copied = Callable[[str], Path]


def read(source: Path) -> Adapter:
    return read_place(source, outside=Outside())


def remark(adapter: Adapter, *parts: str) -> bool:
    return any(all(part in text for part in parts) for text in adapter.remarks)


def test_other_files_ride_along_verbatim(copied: Copied) -> None:
    source = copied("plain")
    files = {
        "head.safetensors": b"\x00head",
        "chat_template.jinja": b"{{ x }}",
        "Überblick.txt": "ä".encode(),
        "empty": b"",
    }
    for name, content in files.items():
        (source / name).write_bytes(content)
    (source / ".gitattributes").write_bytes(b"* text")
    adapter = read(source)
    assert remark(adapter, "not kept", ".gitattributes (dotfile)")
    assert dict(adapter.attachments) == files | {"README.md": (source / "README.md").read_bytes()}
    assert list(adapter.attachments) == sorted(adapter.attachments)
    assert dict(adapter.original) == {
        name: (source / name).read_bytes() for name in (CONFIG, TENSORS)
    }


def test_pickles_and_training_state_are_left_out_by_name(copied: Copied) -> None:
    source = copied("plain")
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(2)}, buffer)
    files = {
        "adapter_model.bin": b"x",
        "Optimizer.PT": b"x",
        "optimizer.safetensors": b"x",
        "rng_state_0": b"x",
        "training_args.bin": b"x",
    }
    files |= {"innocent.dat": pickle.dumps([1, 2]), "archive.dat": buffer.getvalue()}
    for name, content in files.items():
        (source / name).write_bytes(content)
    adapter = read(source)
    assert set(adapter.attachments) == {"README.md"}
    for name in files:
        assert remark(adapter, "not kept", name, "pickle")


def test_folders_and_large_files_are_left_out_by_name(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = copied("plain")
    (source / "checkpoint-3").mkdir()
    (source / "big").write_bytes(b"x" * 11)
    (source / "README.md").unlink()
    for name in ("a", "b", "c"):
        (source / name).write_bytes(b"x" * 6)
    monkeypatch.setattr(attachments, "MAX_ATTACHMENT_BYTES", 10)
    monkeypatch.setattr(attachments, "MAX_ATTACHMENTS_BYTES", 13)
    adapter = read(source)
    assert set(adapter.attachments) == {"a", "b"}
    assert remark(
        adapter,
        "checkpoint-3 (no regular file)",
        "big (11 bytes, over the limit)",
        "c (6 bytes, over the limit)",
    )


def test_zero_factors_are_accepted_with_a_remark(copied: Copied) -> None:
    source = copied("plain")
    set_tensors(source, put(f"{Q}.lora_B.weight", torch.zeros(16, 4)))
    assert remark(
        read(source), "1 of 14 factor pairs have an all-zero factor", "layers.0.self_attn.q_proj"
    )


def test_defaults_that_peft_would_take_are_remarked(copied: Copied) -> None:
    source = copied("plain")
    config = json.loads((source / CONFIG).read_bytes())
    set_tensors(
        source,
        lambda tensors: tensors.update(
            {key: torch.cat([value, value]) for key, value in tensors.items() if "lora_A" in key}
        ),
    )
    set_tensors(
        source,
        lambda tensors: tensors.update(
            {key: torch.cat([value, value], 1) for key, value in tensors.items() if "lora_B" in key}
        ),
    )
    (source / CONFIG).write_text(
        json.dumps(
            {name: value for name, value in config.items() if name not in ("r", "lora_alpha")}
        )
    )
    adapter = read(source)
    assert remark(adapter, "has no r", "default 8")
    assert remark(adapter, "has no lora_alpha", "default 8")


REMARKS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown field": (
        {"future_field": 7, "future_null": None},
        ("unknown config fields", "future_field."),
    ),
    "a runtime config": ({"runtime_config": {}}, ("runtime_config is kept",)),
    "copied layers": (
        {"layer_replication": [[0, 2], [1, 2]]},
        ("layer numbers are those of the expanded model",),
    ),
    "an activated adapter": (
        {"alora_invocation_tokens": [1, 2]},
        ("acts only after its invocation tokens", "must not be merged"),
    ),
    "no scale": ({"lora_alpha": 0}, ("lora_alpha is 0",)),
    "overlapping patterns": (
        {"alpha_pattern": {"q_proj": 8, "layers.0.self_attn.q_proj": 32}},
        ("several patterns match", "layers.0.self_attn.q_proj"),
    ),
}


@pytest.mark.parametrize("remark_name", REMARKS)
def test_a_config_is_remarked_and_kept_verbatim(remark_name: str, copied: Copied) -> None:
    fields, parts = REMARKS[remark_name]
    source = copied("plain")
    set_config(source, **fields)
    adapter = read(source)
    assert remark(adapter, *parts), adapter.remarks
    assert adapter.config_bytes == (source / CONFIG).read_bytes()


def test_patterns_that_agree_are_no_remark(copied: Copied) -> None:
    source = copied("plain")
    set_config(source, alpha_pattern={"q_proj": 8, "layers.0.self_attn.q_proj": 8})
    assert read(source).remarks == ()


@pytest.mark.parametrize(
    "library", ["transformers", "transformers.models.llama.modeling_llama", None]
)
def test_a_library_of_transformers_is_accepted(library: str | None, copied: Copied) -> None:
    source = copied("plain")
    set_config(source, auto_mapping={"base_model_class": "LlamaModel", "parent_library": library})
    assert read(source).remarks == ()


def test_another_library_is_kept_with_a_remark_and_not_made_portable(copied: Copied) -> None:
    source = copied("plain")
    mapping = {"base_model_class": "Net", "parent_library": "diffusers.models.unets"}
    set_config(source, auto_mapping=mapping, task_type=None)
    adapter = read(source)
    assert remark(adapter, "auto_mapping names 'diffusers.models.unets'", "AutoPeftModel imports")
    assert adapter.config["auto_mapping"] == mapping
    assert portable(adapter, base_model="org/base")[0].config["auto_mapping"] is None


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_a_header_that_says_another_scale_than_the_config_is_remarked(
    prefix: str, copied: Copied
) -> None:
    source = copied("plain")
    tensors = load_file(source / TENSORS)

    def with_header(alpha: int) -> Adapter:
        fields = {"r": 4, "lora_alpha": alpha, "use_rslora": False, "rank_pattern": {}}
        header = json.dumps({f"{prefix}{name}": value for name, value in fields.items()})
        metadata = {"format": "pt", "lora_adapter_metadata": header}
        save_file(tensors, source / TENSORS, metadata=metadata)
        return read(source)

    assert with_header(6).remarks == ()
    assert remark(with_header(7), f"says {prefix}lora_alpha 7", "diffusers reads the header")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("{", "is not valid JSON"),
        ("[" * 60_000, "is not valid JSON"),
        ("[]", None),
        ('{"use_dora": false, "alpha_pattern": {}}', None),
        ('{"use_dora": true}', "says use_dora True"),
        (json.dumps({"rank_pattern": {"q" * 400: 2}}), "says rank_pattern"),
    ],
)
def test_a_header_is_compared_where_it_can_be(
    header: str, text: str | None, copied: Copied
) -> None:
    source = copied("plain")
    config = json.loads((source / CONFIG).read_bytes())
    del config["use_dora"], config["alpha_pattern"]
    (source / CONFIG).write_text(json.dumps(config))
    metadata = {"format": "pt", "lora_adapter_metadata": header}
    save_file(load_file(source / TENSORS), source / TENSORS, metadata=metadata)
    remarks = read(source).remarks
    assert [text in remark for remark in remarks] == [True] if text else remarks == ()
    assert all(len(remark) < 400 for remark in remarks)


def test_a_header_whose_metadata_is_null_has_none(copied: Copied) -> None:
    source = copied("plain")
    content = (source / TENSORS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size]) | {"__metadata__": None}
    text = json.dumps(header).encode()
    (source / TENSORS).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    adapter = read(source)
    assert adapter.layout.metadata == []
    assert list(adapter.tensors) == list(load_file(source / TENSORS))


@pytest.mark.parametrize(
    "name", ["a\nb", "CON", "nul.txt", "a:b", "a\\b", "dot.", "space ", "q?", "\x7f", "\udcff"]
)
def test_a_file_whose_name_is_not_safe_everywhere_is_left_out_by_name(
    name: str, copied: Copied
) -> None:
    source = copied("plain")
    with open(os.fsencode(source / name), "w") as file:
        file.write("x")
    adapter = read(source)
    assert name not in adapter.attachments
    assert remark(adapter, "not kept", "(a name that is not safe on every system)")
    assert all(text.isprintable() for text in adapter.remarks)


def test_of_names_that_differ_in_case_alone_one_is_kept(copied: Copied) -> None:
    source = copied("plain")
    (source / "head.txt").write_text("x")
    (source / "Head.txt").write_text("y")
    adapter = read(source)
    assert adapter.attachments["Head.txt"] == b"y"
    assert "head.txt" not in adapter.attachments
    assert remark(adapter, "head.txt (another name differs in case alone)")


def test_keys_without_the_prefix_are_remarked(copied: Copied) -> None:
    source = copied("plain")
    set_tensors(
        source,
        lambda tensors: [
            tensors.update({key.removeprefix("base_model.model."): tensors.pop(key)})
            for key in list(tensors)
        ],
    )
    adapter = read(source)
    assert remark(
        adapter, "without the prefix 'base_model.model.' PeftModel.from_pretrained does not load it"
    )
    assert adapter.layout.factors[0].module == "model.layers.0.mlp.down_proj"


def test_a_tensor_that_no_config_explains_is_a_passenger(copied: Copied) -> None:
    source = copied("plain")
    set_tensors(source, put("base_model.model.model.norm.weight", torch.ones(16)))
    assert list(read(source).passengers) == ["base_model.model.model.norm.weight"]


def test_a_header_in_another_form_is_remarked(copied: Copied) -> None:
    source = copied("plain")
    content = (source / TENSORS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size])).encode()
    (source / TENSORS).write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    assert remark(read(source), "an export writes it canonically")


def test_the_digest_is_of_the_adapter_and_not_of_its_place(copied: Copied, tmp_path: Path) -> None:
    source = copied("plain")
    first = read(source)
    moved = source.rename(tmp_path / "elsewhere")
    assert read(moved).source_digest == first.source_digest
    for change in (
        lambda: (moved / "new").write_text("x"),
        lambda: set_config(moved, lora_alpha=7),
        lambda: set_tensors(moved, put(f"{Q}.lora_B.weight", torch.ones(16, 4))),
    ):
        before = read(moved).source_digest
        change()
        assert read(moved).source_digest != before


def test_the_digest_is_the_same_for_several_threads(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = copied("plain")
    alone = read(source).source_digest
    monkeypatch.setattr(peft_directory, "_HASHED_SIDE_BY_SIDE", 0)
    assert read(source).source_digest == alone


def test_an_adapter_made_by_hand_equals_the_one_from_files(copied: Copied) -> None:
    adapter = read(copied("plain"))
    again = adapter_of(
        dict(reversed(list(adapter.tensors.items()))),
        adapter.config_bytes,
        attachments=adapter.attachments,
    )
    assert again.source_digest == adapter.source_digest
    assert again.raw_bytes == adapter.raw_bytes
    assert list(again.state_dict()) == list(adapter.tensors)


def test_a_config_given_as_values_is_written_as_json() -> None:
    tensors = {
        "base_model.model.x.lora_A.weight": torch.ones(2, 3),
        "base_model.model.x.lora_B.weight": torch.ones(4, 2),
    }
    adapter = adapter_of(tensors, {"peft_type": "LORA", "r": 2, "lora_alpha": 2})
    assert (
        json.loads(adapter.config_bytes)
        == adapter.config
        == {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    )
    with pytest.raises(InvalidInputError, match="not a JSON value"):
        adapter_of(tensors, {"peft_type": "LORA", "r": torch.ones(1)})


@given(name=st.text(min_size=1, max_size=300))
@settings(deadline=None)
def test_a_name_is_safe_or_refused(name: str) -> None:
    try:
        attachments.check_name(name)
    except InvalidInputError:
        return
    assert name.isprintable()
    assert not set(name) & set('/\\:*?"<>|')
    assert name not in (".", "..")
    assert len(name.encode()) <= 255
