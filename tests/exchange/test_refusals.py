"""What cannot be taken apart safely is refused by name.

The key or field, what was found, what was expected, and what to do.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ShareRegistryError
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_directory import adapter_of
from share_registry.outside.files import Outside

Copied = Callable[[str], Path]
Q = "base_model.model.model.layers.0.self_attn.q_proj"
TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def set_config(source: Path, **fields: object) -> None:
    config = json.loads((source / CONFIG).read_bytes()) | fields
    (source / CONFIG).write_text(json.dumps(config))


def set_tensors(source: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(source / TENSORS)
    change(tensors)
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        source / TENSORS,
        metadata={"format": "pt"},
    )


def put(key: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({key: value})


def move(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def test_dora_without_its_magnitudes_is_refused(copied: Copied) -> None:
    source = copied("dora")
    set_tensors(source, lambda tensors: tensors.pop(f"{Q}.lora_magnitude_vector"))
    refused(
        source,
        InvalidInputError,
        "use_dora is set and 1 of ",
        "layers.0.self_attn.q_proj', have no lora_magnitude_vector",
    )


def spoil(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[f"{Q}.lora_B.weight"].view(-1)[5:6].fill_(value)


def refused(source: Path, error: type[ShareRegistryError], *parts: str) -> None:
    with pytest.raises(ShareRegistryError) as caught:
        read_place(source, outside=Outside())
    assert type(caught.value) is error, caught.value
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert caught.value.hint


CONFIGS: dict[str, tuple[dict[str, Any], type[ShareRegistryError], tuple[str, ...]]] = {
    "AdaLoRA": (
        {"peft_type": "ADALORA"},
        RefusedError,
        ("peft_type is 'ADALORA'", "expected 'LORA'"),
    ),
    "X-LoRA": ({"peft_type": "XLORA"}, RefusedError, ("peft_type is 'XLORA'", "expected 'LORA'")),
    "LoHa": ({"peft_type": "LOHA"}, RefusedError, ("'LOHA'", "expected 'LORA'")),
    "no type": ({"peft_type": None}, InvalidInputError, ("peft_type is None", "expected 'LORA'")),
    "PiSSA": (
        {"init_lora_weights": "pissa"},
        RefusedError,
        ("init_lora_weights is 'pissa'", "expected", "base"),
    ),
    "fast PiSSA": (
        {"init_lora_weights": "pissa_niter_4"},
        RefusedError,
        ("init_lora_weights is 'pissa_niter_4'",),
    ),
    "OLoRA": ({"init_lora_weights": "OLoRA"}, RefusedError, ("init_lora_weights is 'OLoRA'",)),
    "CorDA": ({"init_lora_weights": "corda"}, RefusedError, ("init_lora_weights is 'corda'",)),
    "LoftQ": ({"init_lora_weights": "loftq"}, RefusedError, ("init_lora_weights is 'loftq'",)),
    "LoRA-GA": (
        {"init_lora_weights": "lora_ga"},
        RefusedError,
        ("init_lora_weights is 'lora_ga'",),
    ),
    "unknown initialization": (
        {"init_lora_weights": "novel"},
        RefusedError,
        ("init_lora_weights is 'novel'", "expected true, false"),
    ),
    "initialization of a wrong type": (
        {"init_lora_weights": 3},
        RefusedError,
        ("init_lora_weights is 3",),
    ),
    "KaSA": ({"kasa_config": {"beta": 1}}, RefusedError, ("kasa_config is set", "expected none")),
    "BD-LoRA": (
        {"use_bdlora": {"nblocks": 2}},
        RefusedError,
        ("use_bdlora is set", "expected none"),
    ),
    "QALoRA": ({"use_qalora": True}, RefusedError, ("use_qalora is set", "expected none")),
    "Arrow": (
        {"arrow_config": {"top_k": 2}},
        RefusedError,
        ("arrow_config is set", "expected none"),
    ),
    "Megatron": (
        {"megatron_config": {"a": 1}},
        RefusedError,
        ("megatron_config is set", "expected none"),
    ),
    "library of a wrong type": (
        {"auto_mapping": {"parent_library": 3}},
        RefusedError,
        ("parent_library is 3", "Set auto_mapping to null"),
    ),
    "type in small letters": (
        {"peft_type": "lora"},
        RefusedError,
        ("peft_type is 'lora'", "write 'LORA' into the config"),
    ),
    "rank of another shape": (
        {"r": 5},
        InvalidInputError,
        (
            "layers.0.mlp.down_proj.lora_A.weight",
            "has 4 rows",
            "shape [4, 24]",
            "expected the rank 5",
        ),
    ),
    "rank that is no integer": (
        {"r": "4"},
        InvalidInputError,
        ("r is '4'", "expected a positive integer"),
    ),
    "rank zero": ({"r": 0}, InvalidInputError, ("r is 0", "expected a positive integer")),
    "alpha that is no number": (
        {"lora_alpha": None},
        InvalidInputError,
        ("lora_alpha is None", "expected a number"),
    ),
    "alpha that is true": (
        {"lora_alpha": True},
        InvalidInputError,
        ("lora_alpha is True", "expected a number"),
    ),
    "pattern of another shape": (
        {"rank_pattern": {"q_proj": 2}},
        InvalidInputError,
        ("q_proj.lora_A.weight", "has 4 rows", "expected the rank 2"),
    ),
    "patterns that are a list": (
        {"alpha_pattern": ["q_proj"]},
        InvalidInputError,
        ("alpha_pattern is list", "expected an object"),
    ),
    "pattern that is no expression": (
        {"alpha_pattern": {"(q_proj": 2}},
        InvalidInputError,
        ("(q_proj", "expected regular expressions"),
    ),
    "pattern that takes unbounded work": (
        {"alpha_pattern": {r"(a+)\1q": 2}},
        RefusedError,
        (r"(a+)\\1q", "expected one that can be matched in bounded work"),
    ),
    "pattern that is too long": (
        {"rank_pattern": {"a" * 513: 2}},
        RefusedError,
        ("rank_pattern has the expression 'aaa", "of 513 letters", "at most 512"),
    ),
    "pattern nested too deep": (
        {"rank_pattern": {"(" * 200 + "a" + ")" * 200: 2}},
        RefusedError,
        ("groups nested deeper than 50",),
    ),
    "pattern with a repetition that is too large": (
        {"rank_pattern": {"a{99999999999999999999}": 2}},
        InvalidInputError,
        ("the repetition number is too large", "expected regular expressions"),
    ),
    "flag that is a text": (
        {"use_rslora": "yes"},
        InvalidInputError,
        ("use_rslora is 'yes'", "expected true or false"),
    ),
    "parameters that are a text": (
        {"target_parameters": "x"},
        InvalidInputError,
        ("target_parameters is 'x'", "expected a list"),
    ),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_config_is_refused(fault: str, copied: Copied) -> None:
    fields, error, parts = CONFIGS[fault]
    source = copied("plain")
    set_config(source, **fields)
    refused(source, error, *parts)


FILES: dict[
    str,
    tuple[Callable[[dict[str, torch.Tensor]], object], type[ShareRegistryError], tuple[str, ...]],
] = {
    "NaN": (
        spoil(float("nan")),
        InvalidInputError,
        (f"{Q}.lora_B.weight", "has NaN or infinity at 1 of ", "expected finite"),
    ),
    "infinity": (
        spoil(float("inf")),
        InvalidInputError,
        (f"{Q}.lora_B.weight", "NaN or infinity at 1 of "),
    ),
    "A without B": (
        lambda t: t.pop(f"{Q}.lora_B.weight"),
        InvalidInputError,
        (f"{Q}.lora_A.weight", "[4, 16] has no counterpart", "expected both"),
    ),
    "B without A": (
        lambda t: t.pop(f"{Q}.lora_A.weight"),
        InvalidInputError,
        (f"{Q}.lora_B.weight", "[16, 4] has no counterpart", "expected both"),
    ),
    "ranks that differ": (
        put(f"{Q}.lora_B.weight", torch.ones(16, 3)),
        InvalidInputError,
        ("[4, 16]", "[16, 3]", "expected equal ranks, found 4 and 3"),
    ),
    "block-diagonal B": (
        put(f"{Q}.lora_B.weight", torch.ones(16, 2)),
        InvalidInputError,
        ("[16, 2]", "expected equal ranks"),
    ),
    "an empty shard": (
        put(f"{Q}.lora_A.weight", torch.ones(0)),
        InvalidInputError,
        (f"{Q}.lora_A.weight", "shape [0]", "expected no empty dimension"),
    ),
    "a flat shard": (
        put(f"{Q}.lora_A.weight", torch.ones(64)),
        InvalidInputError,
        (f"{Q}.lora_A.weight", "shape [64]", "ungathered shard"),
    ),
    "an empty matrix": (
        put(f"{Q}.lora_B.weight", torch.ones(16, 0)),
        InvalidInputError,
        ("shape [16, 0]", "no empty dimension"),
    ),
    "integers": (
        put(f"{Q}.lora_A.weight", torch.ones(4, 16, dtype=torch.int8)),
        InvalidInputError,
        ("element type I8", "expected one of"),
    ),
    "a pair twice": (
        put(f"{Q.removeprefix('base_model.model.')}.lora_A.weight", torch.ones(4, 16)),
        InvalidInputError,
        ("are the same factor", "expected one"),
    ),
    "a dump with adapter names": (
        move(f"{Q}.lora_A.weight", f"{Q}.lora_A.default.weight"),
        InvalidInputError,
        ("lora_A.default.weight", "holds an adapter name", "expected"),
    ),
    "KaSA's diagonal": (
        put(f"{Q}.lora_diag", torch.ones(4)),
        RefusedError,
        (f"{Q}.lora_diag", "inside the LoRA layer", "expected lora_A and lora_B"),
    ),
    "AdaLoRA's values": (
        put(f"{Q}.lora_E", torch.ones(4, 1)),
        RefusedError,
        (f"{Q}.lora_E", "expected lora_A and lora_B"),
    ),
    "a router": (
        put(f"{Q}.lora_router.weight", torch.ones(4)),
        RefusedError,
        (f"{Q}.lora_router.weight", "inside the LoRA layer"),
    ),
    "a stray LoRA tensor": (
        put("base_model.model.x.lora_new", torch.ones(4)),
        RefusedError,
        ("x.lora_new", "outside every LoRA layer"),
    ),
    "LyCORIS": (
        put("base_model.model.x.hada_w1_a", torch.ones(4)),
        RefusedError,
        ("x.hada_w1_a", "unknown method"),
    ),
    "LoKr": (put("base_model.model.x.lokr_w1", torch.ones(4)), RefusedError, ("x.lokr_w1",)),
    "IA3": (put("base_model.model.x.ia3_l", torch.ones(4)), RefusedError, ("x.ia3_l",)),
    "kohya": (
        put("lora_unet_x.lora_down.weight", torch.ones(4, 4)),
        RefusedError,
        ("lora_unet_x.lora_down.weight",),
    ),
    "kinds mixed": (
        move(f"{Q}.lora_A.weight", f"{Q}.lora_embedding_A"),
        InvalidInputError,
        ("lora_embedding_A", "different kinds", "expected a pair"),
    ),
    "no factor": (
        lambda t: [t.pop(key) for key in list(t)] and t.update(x=torch.ones(2)),
        InvalidInputError,
        ("none of the 1 tensors is a LoRA factor", "expected keys like"),
    ),
    "only another method": (
        lambda t: [t.pop(key) for key in list(t)] and t.update({"x.hada_w1_a": torch.ones(2)}),
        RefusedError,
        ("x.hada_w1_a",),
    ),
    "a strange convolution": (
        put(f"{Q}.lora_B.weight", torch.ones(16, 4, 3)),
        InvalidInputError,
        ("[16, 4, 3]", "do not multiply", "expected"),
    ),
    "an endless name": (
        put("x" * 600, torch.ones(1)),
        InvalidInputError,
        ("is not 1 to 512 printable bytes",),
    ),
}


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
