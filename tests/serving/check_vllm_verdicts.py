"""Compare the lint of vLLM with what it does itself with the files of the zoo, on a CPU.

    python -m venv vllm
    vllm/bin/pip install vllm==0.33.0 peft==0.21.2 accelerate .
    vllm/bin/python -m tests.serving.check_vllm_verdicts

Its models are built from the configs of the base models, with its layers for LoRA in place, and load
the adapters as on a request. What then stands in their buffers is added to the base model's weights,
whose logits are compared with PEFT's. Its kernels run on no CPU, so it computes nothing itself; the
layer of Mixtral's experts is made without its kernel. It takes a minute.
"""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

# before anything asks for it: the wheel is of CUDA
vllm.platforms._current_platform = CpuPlatform()

from vllm.config import (  # noqa: E402
    DeviceConfig,
    LoadConfig,
    LoRAConfig,
    ModelConfig,
    VllmConfig,
    set_current_vllm_config,
)
from vllm.distributed import (  # noqa: E402
    destroy_model_parallel,
    init_distributed_environment,
    initialize_model_parallel,
)
from vllm.lora.layers import (  # noqa: E402
    BaseLayerWithLoRA,
    FusedMoEWithLoRA,
    VocabParallelEmbeddingWithLoRA,
)
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.lora.worker_manager import WorkerLoRAManager  # noqa: E402
from vllm.model_executor.model_loader.utils import initialize_model  # noqa: E402

from tests.exchange import zoo  # noqa: E402
from tests.exchange.consumers import REFUSED, SERVED, Form, compare, judge_updates  # noqa: E402

# Llama, the one base model of the zoo with LoRA whose embedding is adapted, is one that it names
SETTLED: Final = ("refuses embedding factors but for some models",)
POOLING: Final = ("bert", "classifier")
LARGEST_RANK: Final = 512
SLOT: Final = 0


def main() -> None:
    """Load each adapter as vLLM does, and compare."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder)
        FusedMoEWithLoRA.__init__ = _init_without_kernel
        FusedMoEWithLoRA.set_mapping = BaseLayerWithLoRA.set_mapping
        servers: dict[str, WorkerLoRAManager] = {}

        def behave(form: Form) -> tuple[str, str]:
            base: Any = zoo.CASES[form.name].base()
            key = base.config.to_json_string(use_diff=False)
            try:
                if key not in servers:
                    servers[key] = _serve(base, form.name, root / f"base{len(servers)}")
                updates = dict(_updates(servers[key], form, base))
            # its refusals, of the server's start and of an adapter
            except (AssertionError, KeyError, RuntimeError, ValueError) as error:
                return REFUSED, " ".join(str(error).split())[:90]
            return judge_updates(form, updates)

        compare("vllm", SERVED, root, behave, SETTLED)


def _init_without_kernel(self: Any, base_layer: Any) -> None:
    """Make the layer of experts as it makes it, without the kernel that computes."""
    BaseLayerWithLoRA.__init__(self)
    self.base_layer, self.moe_config = base_layer, base_layer.moe_config
    parallel = self.moe_config.moe_parallel_config
    self.tp_size, self.tp_rank = parallel.tp_size, parallel.tp_rank
    self.device = torch.device("cpu")
    self._w13_slices = 2


def _serve(base: Any, name: str, folder: Path) -> WorkerLoRAManager:
    """Return what loads the adapters of a server of a base model."""
    base.save_pretrained(folder)
    is_pooling = zoo.CASES[name].base.__name__ in POOLING
    model_config = ModelConfig(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=16,
        enforce_eager=True,
        runner="pooling" if is_pooling else "auto",
    )
    config = VllmConfig(
        model_config=model_config,
        lora_config=LoRAConfig(
            max_lora_rank=LARGEST_RANK, max_loras=1, max_cpu_loras=1, lora_dtype=torch.float32
        ),
        device_config=DeviceConfig("cpu"),
        load_config=LoadConfig(load_format="dummy"),
    )
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, f"file://{folder}/ranks", 0, "gloo")
        # which groups there are depends on the model
        destroy_model_parallel()
        initialize_model_parallel(1, 1)
        model = initialize_model(vllm_config=config)
        server = WorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        server.create_lora_manager(model, config)
    return server


def _updates(
    server: WorkerLoRAManager, form: Form, base: Any
) -> Iterator[tuple[str, torch.Tensor]]:
    """Load an adapter, and yield dW of every module of the base model that it is on."""
    request = LoRARequest(lora_name="x", lora_int_id=1, lora_path=str(form.directory))
    server.remove_adapter(request.lora_int_id)
    server.add_adapter(request)
    manager = server._adapter_manager
    for path, layer in manager.modules.items():
        if isinstance(layer, FusedMoEWithLoRA):
            yield from _expert_updates(path, layer)
            continue
        owner, _, last = path.rpartition(".")
        for number, part in enumerate(manager.packed_modules_mapping.get(last, [last])):
            delta = _update(layer, number)
            if delta.any():
                yield _place(f"{owner}.{part}".removeprefix("."), base), delta
    for name, head in manager.get_adapter(request.lora_int_id).modules_to_save.items():
        rows = head.weight.shape[0]
        stacked = manager.modules[name].full_weight_stacked
        yield name, stacked[SLOT, 0, :rows] - base.get_submodule(name).weight.detach()


def _expert_updates(path: str, layer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield dW of the experts of a layer of Mixtral, which transformers 5 fuses."""
    if not layer.adapter_enabled.any():
        return
    gate, up = (
        torch.matmul(b[SLOT], a[SLOT])
        for a, b in zip(layer.w13_lora_a_stacked, layer.w13_lora_b_stacked, strict=True)
    )
    owner = path.replace("block_sparse_moe", "mlp")
    yield f"{owner}.gate_up_proj", torch.cat([gate, up], 1)
    (a,), (b,) = layer.w2_lora_a_stacked, layer.w2_lora_b_stacked
    yield f"{owner}.down_proj", torch.matmul(b[SLOT], a[SLOT])


def _place(path: str, base: Any) -> str:
    """Return what the base model calls a module: vLLM puts an encoder below `model`."""
    return path if path in dict(base.named_modules()) else path.removeprefix("model.")


def _update(layer: Any, number: int) -> torch.Tensor:
    """Return dW of a slice of a layer, from its buffers."""
    a, b = layer.lora_a_stacked, layer.lora_b_stacked
    if isinstance(layer, VocabParallelEmbeddingWithLoRA):
        return torch.matmul(a[SLOT], b[SLOT, 0].T)
    if isinstance(a, tuple):
        a, b = a[number], b[number]
    return torch.matmul(b[SLOT, 0], a[SLOT, 0])


if __name__ == "__main__":
    main()
