"""Values that no call expects, by what they are, and adapters that are no good.

They are made anew at every use: a call may change what it is given.
"""

import itertools
import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

Make = Callable[[], Any]


class Mute:
    """Something that cannot be written as text."""

    def __repr__(self) -> str:
        raise RuntimeError("it says nothing")


class Nowhere(os.PathLike[str]):
    """A path that does not say which."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


class Shapeless:
    """Something that raises whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"it has no {name}")


def _recursive() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


def _sparse() -> Tensor:
    return torch.eye(2).to_sparse()


VALUES: Final[Mapping[str, Make]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "1": lambda: 1,
    "-1": lambda: -1,
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "-2**80": lambda: -(2**80),
    "10**5000": lambda: 10**5000,
    "0.5": lambda: 0.5,
    "-0.0": lambda: -0.0,
    "1e308": lambda: 1e308,
    "1e-320": lambda: 1e-320,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "complex": lambda: 1j,
    "Decimal": lambda: Decimal("0.1"),
    "Decimal sNaN": lambda: Decimal("sNaN"),
    "Fraction": lambda: Fraction(1, 3),
    "bytes": lambda: b"t0",
    "bytearray": lambda: bytearray(b"t0"),
    "memoryview": lambda: memoryview(b"t0"),
    "empty text": lambda: "",
    "blank": lambda: "   ",
    "NUL": lambda: "a\0b",
    "half a character": lambda: "a\ud800",
    "byte that is no text": lambda: "a\udce9",
    "newlines": lambda: "a\nb\r\tc\x1b[31m",
    "wide letters": lambda: "ｔ０é\u202e\U0001f600",
    "long": lambda: "x" * 100_000,
    "long path": lambda: "/".join(["x" * 250] * 30),
    "slash": lambda: "/",
    "dots": lambda: "../..",
    "colons": lambda: "sqlite://",
    "port": lambda: "postgresql://u:p@127.0.0.1:notaport/x",
    "brackets": lambda: "postgresql://[::1/x",
    "hub": lambda: "hf://",
    "at": lambda: "t0@",
    "tilde": lambda: "t0~999999999",
    "version": lambda: "t0@v999999999999999",
    "commit": lambda: "@c999999999999999",
    "early": lambda: "t0@0001-01-01",
    "digits": lambda: "t0@v٣",
    "device": lambda: "cuda:-1",
    "meta": lambda: "meta",
    "module": lambda: "nn",
    "percent": lambda: "%s%n{0}",
    "condition": lambda: "acc>",
    "pattern": lambda: "[!",
    "null device": lambda: "/dev/null",
    "Path": lambda: Path("nowhere"),
    "Path of bytes": lambda: Nowhere(b"x"),
    "Path of a number": lambda: Nowhere(5),
    "Path of half a character": lambda: Nowhere("\ud800"),
    "empty list": list,
    "list": lambda: [1, "x", None],
    "list of itself": _recursive,
    "deep list": lambda: json.loads("[" * 500 + "]" * 500),
    "empty dict": dict,
    "dict": lambda: {"a": 1, 2: "b", None: []},
    "set": lambda: {"a", 1},
    "frozenset": lambda: frozenset(),
    "tuple": lambda: ("t0", "t1"),
    "range": lambda: range(3),
    "long range": lambda: range(10**12),
    "generator": lambda: (x for x in ("t0", "t1")),
    "counting": itertools.count,
    "function": lambda: len,
    "lambda": lambda: lambda *_: None,
    "class": lambda: dict,
    "class of ours": lambda: Mute,
    "object": object,
    "mute": Mute,
    "shapeless": Shapeless,
    "exception": lambda: ValueError("x"),
    "module of Python": lambda: json,
    "date": lambda: date(2026, 11, 16),
    "earliest date": lambda: date.min,
    "naive time": lambda: datetime(2026, 11, 16),  # noqa: DTZ001
    "latest time": lambda: datetime.max.replace(tzinfo=UTC),
    "odd zone": lambda: datetime.min.replace(tzinfo=timezone(timedelta(hours=23, minutes=59))),
    "timedelta": lambda: timedelta(1),
    "tensor": lambda: torch.ones(2, 3),
    "scalar tensor": lambda: torch.tensor(0.5),
    "empty tensor": lambda: torch.empty(0),
    "integer tensor": lambda: torch.tensor([1, 2]),
    "bool tensor": lambda: torch.tensor(True),
    "complex tensor": lambda: torch.tensor(1j),
    "meta tensor": lambda: torch.empty(2, 2, device="meta"),
    "sparse tensor": _sparse,
    "tensor with gradient": lambda: torch.ones(2, requires_grad=True),
    "dtype": lambda: torch.int8,
    "torch device": lambda: torch.device("meta"),
    "array": lambda: np.arange(3),
    "scalar array": lambda: np.array(0.5),
    "array of texts": lambda: np.array(["t0"]),
    "array of objects": lambda: np.array([None, 1], dtype=object),
    "np.int64": lambda: np.int64(3),
    "np.float32 nan": lambda: np.float32("nan"),
    "np.bool": lambda: np.bool_(1),
    "np.str": lambda: np.str_("t0"),
    "linear layer": lambda: torch.nn.Linear(2, 2),
}

# What a tensor of an adapter may turn into, by what is wrong with it
TENSORS: Final[dict[str, Callable[[Tensor], Any]]] = {
    "zeros": torch.zeros_like,
    "nan": lambda tensor: torch.full_like(tensor, float("nan")),
    "one inf": lambda tensor: tensor.clone().index_fill_(0, torch.tensor([0]), float("inf")),
    "1e20": lambda tensor: 1e20 * tensor,
    "largest": lambda tensor: torch.full_like(tensor, torch.finfo(tensor.dtype).max),
    "1e-30": lambda tensor: 1e-30 * tensor,
    "subnormal": lambda tensor: 1e-42 * tensor,
    "equal rows": lambda tensor: tensor[:1].expand_as(tensor).contiguous(),
    "equal columns": lambda tensor: tensor[:, :1].expand_as(tensor).contiguous(),
    "one row": lambda tensor: torch.cat([tensor[:1], torch.zeros_like(tensor[1:])]),
    "nearly equal rows": lambda tensor: tensor[:1] + 1e-7 * tensor,
    "uneven rows": lambda tensor: tensor * 10.0 ** torch.linspace(-18, 18, len(tensor))[:, None],
    "no rows": lambda tensor: tensor[:0],
    "no columns": lambda tensor: tensor[:, :0],
    "fewer rows": lambda tensor: tensor[1:],
    "flat": torch.flatten,
    "cube": lambda tensor: tensor[None],
    "a number": lambda tensor: tensor.flatten()[0].clone(),
    "float64": torch.Tensor.double,
    "float16": torch.Tensor.half,
    "bfloat16": torch.Tensor.bfloat16,
    "integers": lambda tensor: tensor.to(torch.int32),
    "truths": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.to(torch.complex64),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
}
# Those that only a tensor in memory can be
IN_MEMORY: Final[dict[str, Callable[[Tensor], Any]]] = {
    "meta": lambda tensor: tensor.to("meta"),
    "sparse": torch.Tensor.to_sparse,
    "transposed": lambda tensor: tensor.mT.contiguous().mT,
    "needs a gradient": lambda tensor: tensor.clone().requires_grad_(),
    "an array": torch.Tensor.numpy,
    "a list": torch.Tensor.tolist,
    "None": lambda _: None,
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
}
# What JSON may say where a config has something else
MEMBERS: Final[tuple[Any, ...]] = (
    *(None, True, -1, 0, 2, 1e400, 0.5, 1e308, 10**400, "", "x", "2", "\ud800", [], [1], [[]], {}),
    *({"x": 1}, {"": []}, {"[": 2}, ["proj", None], {"proj": -1}, {"proj": 1e400}, {"proj": "2"}),
)
CONFIG: Final = {
    "peft_type": "LORA",
    "base_model_name_or_path": "acme/tiny",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["proj"],
    "bias": "none",
}
MEMBER_NAMES: Final = (
    *CONFIG,
    *(
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "modules_to_save",
        "init_lora_weights",
    ),
    *("layers_to_transform", "layers_pattern", "exclude_modules", "target_parameters", "task_type"),
    *("fan_in_fan_out", "revision", "auto_mapping", "peft_version", "lora_bias", "eva_config"),
    *(
        "trainable_token_indices",
        "layer_replication",
        "megatron_config",
        "loftq_config",
        "arrow_config",
    ),
)


def adapter_tensors(seed: int, *, rank: int = 2, width: int = 12) -> dict[str, Tensor]:
    """Return the tensors of an adapter of two modules."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"base_model.model.layers.{layer}.proj.lora_{side}.weight": torch.randn(
            shape, generator=generator
        )
        for layer in range(2)
        for side, shape in (("A", (rank, width)), ("B", (width, rank)))
    }


def write_adapter(
    directory: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] = CONFIG
) -> Path:
    """Write a PEFT directory in place of what is there."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def spoil(
    tensors: Mapping[str, Tensor], how: Callable[[Tensor], Any], which: int
) -> dict[str, Any]:
    """Return tensors with one of them, or where `which` is past the last all, made bad."""
    return {
        key: how(tensor) if which in (position, len(tensors)) else tensor
        for position, (key, tensor) in enumerate(tensors.items())
    }
