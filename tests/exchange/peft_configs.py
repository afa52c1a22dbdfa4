"""Random configs of PEFT over tiny models, and what PEFT itself makes of the files.

A file is saved by PEFT; then its config may be narrowed, so that it holds factors that the config
does not select.
"""

import copy
import json
import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from tests.exchange import zoo
from tests.exchange.zoo import peft

ATTENTION: Final = ["q_proj", "k_proj", "v_proj", "o_proj"]
_TRIES: Final = 100
EXPERTS: Final = ["gate_up_proj", "down_proj"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A base model and what configs may say of it.

    Attributes:
        make: Makes the model.
        modules: Names that target_modules may list.
        paths: Expressions for target_modules.
        parts: Names and expressions for patterns and exclusions.
        parameters: Lists that target_parameters may be.
        heads: Names for modules_to_save.
        layers: Whether its layers are numbered.
    """

    make: Callable[[], torch.nn.Module]
    modules: list[str]
    paths: list[str]
    parts: list[str]
    parameters: list[list[str]]
    heads: list[str]
    layers: bool = True


MODELS: Final = {
    "dense": Model(
        make=zoo.llama,
        modules=[*zoo.MLP, "embed_tokens", "lm_head", "layers.1.self_attn.q_proj"],
        paths=[r".*layers\.0\..*(q|v)_proj", r".*\.(up|down|o)_proj", "all-linear"],
        parts=["q_proj", "v_proj", r"layers\.1\..*", "layers.0.mlp.up_proj", r".*mlp\.\w*_proj"],
        parameters=[
            ["q_proj.weight"],
            ["mlp.down_proj.weight", "layers.1.self_attn.o_proj.weight"],
        ],
        heads=["lm_head"],
    ),
    "experts": Model(
        make=zoo.mixtral,
        modules=ATTENTION,
        paths=[r".*layers\.1\..*(q|k)_proj"],
        parts=["q_proj", "gate_up_proj", r".*\.down_proj", "experts.*", r"layers\.1\..*"],
        parameters=[
            EXPERTS,
            EXPERTS[:1],
            EXPERTS[1:],
            [f"mlp.experts.{name}" for name in EXPERTS],
            ["layers.1.mlp.experts.down_proj", "gate_up_proj"],
            ["gate.weight", *EXPERTS],
        ],
        heads=["lm_head"],
    ),
    "convolutions": Model(
        make=zoo.vision,
        modules=["line", "plane", "volume", "mha"],
        paths=[r"(line|plane)"],
        parts=["line", "plane", "vol.*", "mha"],
        parameters=[],
        heads=["volume"],
        layers=False,
    ),
    "vision-language": Model(
        make=zoo.llava,
        modules=[*ATTENTION, "fc1", "linear_1", "out_proj", "embed_tokens"],
        paths=[r".*language_model.*(q|v)_proj", r"(?!.*vision).*\.(o|up)_proj"],
        parts=["q_proj", r".*vision_tower.*", r"language_model\..*k_proj", "linear_1"],
        parameters=[["language_model.layers.0.self_attn.o_proj.weight"]],
        heads=["lm_head"],
    ),
}


@cache
def base(name: str) -> torch.nn.Module:
    """Return a base model in float64; not to be changed."""
    model = MODELS[name].make().double()
    if name == "experts":
        # its usual kernel does not take float64
        model.set_experts_implementation("eager")  # type: ignore[operator]
    return model


def fresh(name: str) -> Any:
    """Return a base model in float64."""
    return copy.deepcopy(base(name))


def options(chance: random.Random, model: Model) -> dict[str, Any]:
    """Draw options of a LoraConfig."""
    drawn: dict[str, Any] = {
        "r": chance.choice([2, 3, 4]),
        "lora_alpha": chance.choice([1, 4, 6.5]),
        "use_rslora": chance.random() < 0.3,
        "target_modules": chance.sample(model.modules, chance.randint(1, len(model.modules))),
    }
    if chance.random() < 0.25:
        drawn["target_modules"] = chance.choice(model.paths)
    if model.parameters and chance.random() < 0.5:
        drawn["target_parameters"] = chance.choice(model.parameters)
    if chance.random() < 0.5:
        drawn["rank_pattern"] = {part: chance.choice([1, 5, 6]) for part in _some(chance, model)}
    if chance.random() < 0.5:
        drawn["alpha_pattern"] = {part: chance.choice([3, 20]) for part in _some(chance, model)}
    if chance.random() < 0.2:
        drawn["modules_to_save"] = model.heads
    if chance.random() < 0.2 and "target_parameters" not in drawn:
        drawn["use_dora"] = True
    return drawn | narrowing(chance, model, drawn["target_modules"])


def narrowing(chance: random.Random, model: Model, targets: str | list[str]) -> dict[str, Any]:
    """Draw options that leave modules out."""
    drawn: dict[str, Any] = {}
    if chance.random() < 0.3:
        drawn["exclude_modules"] = chance.choice([_some(chance, model), rf".*{model.parts[0]}"])
    if model.layers and isinstance(targets, list) and chance.random() < 0.3:
        drawn["layers_to_transform"] = chance.choice([0, [1], [0, 1]])
        if chance.random() < 0.5:
            drawn["layers_pattern"] = "layers"
    return drawn


def _some(chance: random.Random, model: Model) -> list[str]:
    return chance.sample(model.parts, chance.randint(1, 2))


def save(seed: int, directory: Path) -> str:
    """Save a random adapter that PEFT makes; return the name of its base model."""
    chance = random.Random(seed)
    name = chance.choice([*MODELS])
    model = next(filter(None, (_make(chance, name) for _ in range(_TRIES))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zoo.scatter(model)
        zoo.save(model.float(), directory)
    if chance.random() < 0.5:
        _narrow(chance, MODELS[name], directory / "adapter_config.json")
    return name


def _make(chance: random.Random, name: str) -> Any:
    """Return a model of a random config, None where PEFT refuses that."""
    drawn = options(chance, MODELS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return peft.get_peft_model(
                fresh(name),
                peft.LoraConfig(**drawn, task_type="FEATURE_EXTRACTION"),
                autocast_adapter_dtype=False,
            ).eval()
        except (ValueError, TypeError):
            return None


def _narrow(chance: random.Random, model: Model, path: Path) -> None:
    config = json.loads(path.read_bytes())
    targets = config["target_modules"]
    if isinstance(targets, list) and len(targets) > 1 and chance.random() < 0.5:
        config["target_modules"] = sorted(targets)[1:]
    drawn = narrowing(chance, model, targets)
    # another choice than the one trained with would widen it
    config |= {field: value for field, value in drawn.items() if config.get(field) is None}
    path.write_text(json.dumps(config))


def load(name: str, directory: Path) -> Any:
    """Load a directory by PEFT in float64, as leniently as PEFT does; raises what PEFT raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(
            fresh(name), str(directory), autocast_adapter_dtype=False
        ).eval()


def energy(model: Any) -> float:
    """Return the norm of all of PEFT's own dW."""
    layers = {id(layer): layer for layer in model.modules() if hasattr(layer, "get_delta_weight")}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        squares = [
            float(layer.get_delta_weight("default").square().sum())
            for layer in layers.values()
            if "default" in getattr(layer, "scaling", {})
        ]
    return math.sqrt(sum(squares))


def logits(model: Any, name: str) -> torch.Tensor:
    """Return what a model gives for a fixed input."""
    inputs = zoo.llava_inputs() if name == "vision-language" else {"input_ids": zoo.TOKENS}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = model(**inputs)
    return torch.as_tensor(getattr(outputs, "logits", outputs)).double()


# Expressions as tools write them, shortened to the modules that are here.
UNSLOTH = (
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|ffn)"
    r".*?(?:qkv|q_proj|k_proj|v_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attn"
    r"|mlp)\.(?:(?:qkv|q_proj|k_proj|v_proj|up_proj)))"
)
UNSLOTH_2026 = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mixer|mlp|ffn).*?\.(?:q_proj|v_proj))|"
    r"(?:\bmodel\.layers\.[\d]{1,}(?!.*\.experts\.\d)\..*?(?:self_attn|attn|mixer|mlp).*?\."
    r"(?:(?:q_proj|v_proj)))"
)
