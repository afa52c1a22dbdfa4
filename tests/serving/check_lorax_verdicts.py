"""Compare the lint of LoRAX with what the code of its server does with the files of the zoo.

    git clone https://github.com/predibase/lorax && git -C lorax checkout a7394ba3
    git -C lorax archive --format=zip -o ../lorax.zip HEAD:server lorax_server
    python -m tests.serving.check_lorax_verdicts lorax.zip

It is in no package index. The modules of its models and those that read an adapter are loaded, with
empty ones in place of what they import: a model, without weights, loads config and tensors, maps them
to its modules, scales and stacks them, on a CPU. The stacks are added to the base model's weights,
whose logits are compared with PEFT's.
"""

import importlib
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from safetensors.torch import load_file

from tests.exchange import zoo
from tests.exchange.consumers import REFUSED, SERVED, Form, compare, judge_updates
from tests.serving.wheels import Anything, import_from

# Model type of the base model -> module and class that serve it, the path of its layers
MODELS: Final = {
    "llama": ("flash_llama", "FlashLlama", "model.layers"),
    "mixtral": ("flash_mixtral", "FlashMixtral", "model.layers"),
    "gpt2": ("flash_gpt2", "FlashGPT2", "transformer.h"),
    "bert": ("flash_bert", "FlashBert", "layers"),
}
MEMBERS: Final = (
    *(f"lorax_server/adapters/{name}.py" for name in ("config", "lora", "types", "weights")),
    *(f"lorax_server/utils/{name}.py" for name in ("lora", "punica", "weights")),
    "lorax_server/models/model.py",
    *(f"lorax_server/models/{module}.py" for module, _, _ in MODELS.values()),
    *(
        f"lorax_server/models/custom_modeling/flash_{name}_modeling.py"
        for name in ("mixtral", "gpt2")
    ),
)
# What its modules import that need not be installed
OTHERS: Final = (
    *("dropout_layer_norm", "loguru", "megablocks", "megablocks.ops", "opentelemetry", "stk"),
)
ADAPTER: Final = 1


class Part:
    """A part of a model on one device: it has every part that is asked for, and no weights."""

    weight = torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def main() -> None:
    """Load each adapter as LoRAX does, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        messages = Anything("lorax_server.pb.generate_pb2")
        sys.modules["lorax_server.pb"] = SimpleNamespace(generate_pb2=messages)  # type: ignore[assignment]
        sys.modules |= {name: Anything(name) for name in OTHERS}
        sys.modules[messages.__name__] = messages
        vars(messages)["PreloadedAdapter"] = messages.AdapterParameters
        vars(sys.modules["loguru"])["logger"] = SimpleNamespace(
            info=lambda _: None, warning=lambda _: None
        )
        tracer = SimpleNamespace(start_as_current_span=lambda _: lambda function: function)
        trace = SimpleNamespace(get_tracer=lambda _: tracer)
        vars(sys.modules["opentelemetry"])["trace"] = trace
        import_from(Path(sys.argv[1]), MEMBERS, root / "sources")
        for name in ("adapters", "models", "utils"):
            package = importlib.import_module(f"lorax_server.{name}")
            vars(package)["__getattr__"] = Anything(name).__getattr__
        _stand_in()
        compare("lorax", SERVED, root, _behave)


def _stand_in() -> None:
    """Say what its models ask of others: where an adapter lies, and one process."""
    model = importlib.import_module("lorax_server.models.model")
    models: Any = sys.modules["lorax_server.models"]
    # between the two stands nothing that concerns adapters
    models.Model = models.FlashCausalLM = model.Model
    lora = importlib.import_module("lorax_server.adapters.lora")

    def load_and_merge_adapters(*arguments: Any) -> tuple[Any, ...]:
        _, parameters, _, _, names, *_ = arguments
        config = lora.LoraConfig.load(parameters.adapter_ids[0], None)
        tensors = load_file(Path(parameters.adapter_ids[0]) / "adapter_model.safetensors")
        modules, used = config.map_weights_for_model(tensors, names)
        return modules, config, used, None

    vars(model)["load_and_merge_adapters"] = load_and_merge_adapters
    vars(model)["shard_on_dim"] = lambda tensor, **_: tensor


def _behave(form: Form) -> tuple[str, str]:
    """Return what LoRAX makes of an adapter."""
    base: Any = zoo.CASES[form.name].base()
    server = _serve(base.config)
    request = SimpleNamespace(adapter_ids=[str(form.directory)])
    try:
        server.load_adapter(request, None, ADAPTER, None)
    except (KeyError, RuntimeError, ValueError) as error:
        return REFUSED, str(error).strip()[:90]
    return judge_updates(form, _updates(server))


def _serve(config: Any) -> Any:
    """Return its model for a base model, without weights."""
    module, name, path = MODELS[config.model_type]
    cls = getattr(importlib.import_module(f"lorax_server.models.{module}"), name)
    # what generates is left out
    cls.__abstractmethods__ = frozenset()
    server = cls.__new__(cls)
    part: Any = Part()
    server.model = part
    *owners, last = path.split(".")
    for owner in owners:
        setattr(part, owner, Part())
        part = getattr(part, owner)
    setattr(part, last, [Part() for _ in range(config.num_hidden_layers)])
    weights = importlib.import_module("lorax_server.adapters.weights")
    server.layer_to_adapter_weights = defaultdict(weights.LayerAdapterWeights)
    server.target_to_layer = server.adapter_target_to_layer()
    server.loaded_adapters, server.dynamic_adapter_loading_enabled = set(), True
    server.model_id, server.trust_remote_code = "", False
    server.dtype, server.world_size, server.process_group = torch.float32, 1, None
    return server


def _updates(server: Any) -> dict[str, torch.Tensor]:
    """Return dW of every module that is placed."""
    deltas = {}
    for kind, layers in server.layer_to_adapter_weights.items():
        stacked = layers.adapter_weights[ADAPTER]
        for layer, (a, b) in enumerate(zip(stacked.weights_a, stacked.weights_b, strict=True)):
            rows = a if a.shape[0] == b.shape[0] else a.T
            deltas[server.target_to_layer[layer, kind][0]] = (rows.T @ b).T
    return deltas


if __name__ == "__main__":
    main()
