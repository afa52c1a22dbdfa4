"""Adapters that are refused: how to make them of a sound one, and what is said."""

from collections.abc import Callable
from typing import Any

import torch

from share_registry.errors import InvalidInputError, RefusedError, ShareRegistryError
from tests.exchange.edits import Q, move, put


def spoil(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[f"{Q}.lora_B.weight"].view(-1)[5:6].fill_(value)


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
