"""What cannot be taken apart safely is refused by name.

The key or field, what was found, what was expected, and what to do.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ShareRegistryError
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_directory import adapter_of
from share_registry.outside.files import Outside
from tests.exchange.edits import CONFIG, TENSORS, Q, set_config, set_tensors
from tests.exchange.refusals import CONFIGS, FILES

Copied = Callable[[str], Path]


def test_dora_without_its_magnitudes_is_refused(copied: Copied) -> None:
    source = copied("dora")
    set_tensors(source, lambda tensors: tensors.pop(f"{Q}.lora_magnitude_vector"))
    refused(
        source,
        InvalidInputError,
        "use_dora is set and 1 of ",
        "layers.0.self_attn.q_proj', have no lora_magnitude_vector",
    )


def refused(source: Path, error: type[ShareRegistryError], *parts: str) -> None:
    with pytest.raises(ShareRegistryError) as caught:
        read_place(source, outside=Outside())
    assert type(caught.value) is error, caught.value
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_config_is_refused(fault: str, copied: Copied) -> None:
    fields, error, parts = CONFIGS[fault]
    source = copied("plain")
    set_config(source, **fields)
    refused(source, error, *parts)


@pytest.mark.parametrize("fault", FILES)
def test_a_tensor_file_is_refused(fault: str, copied: Copied) -> None:
    change, error, parts = FILES[fault]
    source = copied("plain")
    set_tensors(source, change)
    refused(source, error, *parts)


def test_a_nan_in_a_passenger_is_refused(copied: Copied) -> None:
    source = copied("modules_to_save")
    set_tensors(
        source,
        lambda tensors: (
            tensors["base_model.model.lm_head.weight"].view(-1)[0:1].fill_(float("nan"))
        ),
    )
    refused(source, InvalidInputError, "lm_head.weight", "NaN")


def test_tied_copies_that_differ_are_refused(copied: Copied) -> None:
    source = copied("tied")
    set_tensors(source, lambda tensors: tensors["base_model.model.lm_head.lora_A.weight"].add_(1))
    refused(
        source, InvalidInputError, "lm_head.lora_A.weight", "are not transposed copies", "expected"
    )


def test_parameters_of_one_module_with_two_scales_are_refused(copied: Copied) -> None:
    source = copied("experts")
    set_config(
        source, target_parameters=["mlp.experts.up", "mlp.experts.down"], alpha_pattern={"up": 3}
    )
    refused(
        source,
        RefusedError,
        "mlp.experts",
        "expected one",
        "which tensor is which parameter's stands in no file",
    )


JSON: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "is not valid JSON"),
    "a list": (b"[]", "is a JSON list, expected an object"),
    "a member twice": (b'{"r": 8, "r": 16}', "'r' stands there twice"),
    "NaN": (b'{"lora_alpha": NaN}', "NaN is not a JSON number"),
    "infinity": (b'{"lora_alpha": 1e999}', "1e999 is not finite"),
    "a huge integer": (b'{"r": ' + b"9" * 5000 + b"}", "is not below 2**53"),
    "deep nesting": (b'{"a":' * 20 + b"1" + b"}" * 20, "nested deeper"),
    "endless nesting": (b'{"a":' + b"[" * 200_000, "nested deeper"),
    "not Unicode": (b'{"a": "\xff"}', "is not valid JSON"),
    "half a character": (b'{"a": "\\ud800"}', "a text that is not Unicode"),
    "a long text": (b'{"a": "' + b"x" * 70_000 + b'"}', "a text of more than"),
    "a long file": (b'{"a": 1}' + b" " * (1 << 20), "bytes, more than the limit of 1048576"),
}


@pytest.mark.parametrize("fault", JSON)
def test_a_config_that_could_be_misread_is_refused(fault: str, copied: Copied) -> None:
    content, part = JSON[fault]
    source = copied("plain")
    (source / CONFIG).write_bytes(content)
    refused(source, InvalidInputError, CONFIG, part)


def test_a_missing_directory_or_file_is_not_found(copied: Copied, tmp_path: Path) -> None:
    refused(tmp_path / "none", NotFoundError, "none does not exist")
    source = copied("plain")
    (source / CONFIG).unlink()
    refused(source, RefusedError, f"rank and alpha stand in an {CONFIG}, which is not there")
    (source / TENSORS).unlink()
    refused(source, NotFoundError, f"has no {CONFIG}")
    source = copied("rslora")
    (source / TENSORS).unlink()
    refused(source, NotFoundError, f"has no {TENSORS}")


def test_a_file_instead_of_a_directory_is_refused(copied: Copied) -> None:
    refused(copied("plain") / TENSORS, InvalidInputError, "is a file, expected a directory")


def test_a_pickle_is_never_opened(copied: Copied, tmp_path: Path) -> None:
    source = copied("plain")
    (source / TENSORS).unlink()
    (source / "adapter_model.bin").write_bytes(pickle.dumps(_Bomb(str(tmp_path / "exploded"))))
    refused(
        source,
        InvalidInputError,
        "adapter_model.bin",
        "expected adapter_model.safetensors",
        "pickles are opened where that is asked for alone",
        "save_pretrained",
    )
    assert not (tmp_path / "exploded").exists()


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_a_git_lfs_pointer_is_named(copied: Copied) -> None:
    for name in (TENSORS, "head.safetensors"):
        source = copied("plain" if name == TENSORS else "rslora")
        (source / name).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
        )
        refused(
            source,
            InvalidInputError,
            f"{name} is a git-LFS pointer",
            "expected the file itself",
            "git lfs pull",
        )


def test_a_sharded_adapter_is_refused(copied: Copied) -> None:
    source = copied("plain")
    (source / TENSORS).rename(source / "adapter_model-00001-of-00002.safetensors")
    refused(
        source, RefusedError, "adapter_model-00001-of-00002.safetensors", f"expected one {TENSORS}"
    )


@pytest.mark.parametrize("name", [TENSORS, CONFIG, "notes.txt"])
def test_a_link_is_not_followed(name: str, copied: Copied, tmp_path: Path) -> None:
    source = copied("plain")
    (tmp_path / "elsewhere").write_text("secret")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(tmp_path / "elsewhere")
    refused(source, InvalidInputError, name, "is a symbolic link, expected a regular file")


@pytest.mark.parametrize("keep", [0, 7, 8, 9, 100, -1])
def test_a_truncated_tensor_file_is_refused(keep: int, copied: Copied) -> None:
    source = copied("plain")
    content = (source / TENSORS).read_bytes()
    (source / TENSORS).write_bytes(content[:keep])
    refused(source, InvalidInputError, TENSORS)


def test_an_element_type_that_torch_has_and_files_do_not_is_refused() -> None:
    with pytest.raises(
        InvalidInputError,
        match=r"'x.lora_A.weight' has element type torch.complex64, expected one of",
    ):
        adapter_of(
            {"x.lora_A.weight": torch.ones(8, 4, dtype=torch.complex64)}, {"peft_type": "LORA"}
        )
