"""Reading where the adapter lies elsewhere than asked for, or is of another program."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from share_registry.errors import InvalidInputError, ShareRegistryError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.importers.formats import read_place
from share_registry.outside.files import Outside
from tests.exchange.edits import CONFIG, TENSORS

Copied = Callable[[str], Path]


def read(source: Path) -> Adapter:
    return read_place(source, outside=Outside())


def refusal(source: Path) -> ShareRegistryError:
    with pytest.raises(ShareRegistryError) as caught:
        read(source)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("name", ["peft", "my_adapter", "checkpoint-12"])
def test_the_only_directory_with_an_adapter_is_the_one_meant(name: str, copied: Copied) -> None:
    source = copied("plain")
    expected = read(source).source_digest
    outer = source.parent / "outer"
    shutil.move(source, outer / name)
    (outer / "logs").mkdir()
    adapter = read(outer)
    assert adapter.source_digest == expected
    assert adapter.source.location == str(outer)
    assert any(f"read from {name}, the only" in text for text in adapter.remarks)


def test_of_several_directories_the_last_checkpoint_is_offered(copied: Copied) -> None:
    source = copied("plain")
    outer = source.parent / "outer"
    for step in (5, 10, 20):
        shutil.copytree(source, outer / f"checkpoint-{step}")
    error = refusal(outer)
    assert "3 directories with an adapter: checkpoint-5, checkpoint-10, checkpoint-20" in str(error)
    assert error.hint == f"Give one of them, such as {outer}/checkpoint-20."
    assert read(outer / "checkpoint-20").remarks == ()


def test_a_directory_with_an_adapter_counts_before_those_within(copied: Copied) -> None:
    source = copied("plain")
    shutil.copytree(source, source.parent / "second")
    shutil.move(source.parent / "second", source / "second")
    assert any("second (no regular file)" in text for text in read(source).remarks)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("pytorch_lora_weights.safetensors", "a LoRA of diffusers"),
        ("Pytorch_Lora_Weights.BIN", "a LoRA of diffusers"),
        ("adapters.safetensors", "an adapter of MLX"),
        ("0000500_adapters.safetensors", "an adapter of MLX"),
        ("adapters.npz", "an adapter of MLX"),
        ("pytorch_adapter.bin", "an adapter of the AdapterHub library"),
        ("adapter.safetensors", "an adapter of the AdapterHub library"),
        ("head_config.json", "an adapter of the AdapterHub library"),
        ("adapter_model.safetensors.dvc", "a DVC pointer"),
        ("model-00001-of-00002.safetensors", "a whole model"),
        ("model.safetensors.index.json", "a whole model"),
        ("pytorch_model.bin", "a whole model"),
    ],
)
def test_the_format_of_another_program_is_named(name: str, label: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / CONFIG).write_text(json.dumps({"model": "x"}))
    error = refusal(tmp_path)
    assert isinstance(error, InvalidInputError)
    assert f"has no {TENSORS}; its {name} is {label}." in error.message
    assert label in refusal(tmp_path / name).message


def test_a_file_of_an_adapter_leads_to_its_directory(copied: Copied) -> None:
    source = copied("plain")
    assert refusal(source / TENSORS).hint == f"Give the directory, {source}."


def test_a_list_of_modules_goes_where_the_modules_are_not_kept(copied: Copied) -> None:
    source = copied("plain")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}]
    (source / "modules.json").write_text(json.dumps(modules))
    adapter = read(source)
    assert "modules.json" not in adapter.attachments
    assert any(
        "1_Pooling (no regular file)" in text and "modules.json (it needs 1_Pooling)" in text
        for text in adapter.remarks
    )
    (source / "modules.json").write_text(json.dumps(modules[:1]))
    assert "modules.json" in read(source).attachments
