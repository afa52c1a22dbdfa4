"""ShareModel: what PEFT calls to put the method into a model.

A registry asks it for the plain LoRA that came out of training.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ensure
from share_registry.exchange.config import PREFIX as KEYS
from share_registry.kinds import takes, text
from share_registry.peft.layer import ShareLayer, ShareLinear
from share_registry.peft.share_config import PREFIX, ShareConfig
from share_registry.peft.subspace import Coefficients, Subspace, draw_noise, project_task

_SHARED_MEMBERS: Final = (
    "task_type",
    "base_model_name_or_path",
    "revision",
    "fan_in_fan_out",
    "modules_to_save",
)


class ShareModel(BaseTuner):  # type: ignore[misc]
    """A model with adapters trained in the subspace of a space.

    Made by `get_peft_model(model, ShareConfig(...))`.
    """

    prefix: str = PREFIX
    tuner_layer_cls = ShareLayer
    target_module_mapping: Final[dict[str, list[str]]] = {}

    @takes(adapter_name=text)
    def lora_tensors(self, adapter_name: str) -> dict[str, torch.Tensor]:
        """Return an adapter as a plain LoRA of rank p and scale 1 under PEFT's keys, float32.

        The products are formed in float64.
        """
        self._config(adapter_name)
        tensors = {}
        for path, layer in self._layers(adapter_name):
            with torch.no_grad():
                a, b = layer.factors(adapter_name, dtype=torch.float64)
            tensors[f"{KEYS}{path}.lora_A.weight"] = a.to(torch.float32).cpu().contiguous()
            tensors[f"{KEYS}{path}.lora_B.weight"] = b.mT.to(torch.float32).cpu().contiguous()
        return tensors

    @takes(adapter_name=text)
    def lora_config(self, adapter_name: str) -> LoraConfig:
        """Return the config of that LoRA."""
        config = self._config(adapter_name)
        modules = config.target_modules
        return LoraConfig(
            r=config.pseudo_rank,
            lora_alpha=config.pseudo_rank,
            # module names that mean these paths and no other
            target_modules=(
                sorted(modules)
                if isinstance(modules, set)
                else [path for path, _ in self._layers(adapter_name)]
            ),
            inference_mode=True,
            **{name: getattr(config, name) for name in _SHARED_MEMBERS},
        )

    @takes(adapter_name=text)
    def lora_basis(self, adapter_name: str) -> str:
        """Return the digest of the basis that an adapter was trained in."""
        return str(self._config(adapter_name).basis)

    @takes(adapter_name=text)
    def lora_parent(self, adapter_name: str) -> str | None:
        """Return the task version that training started from, None where it started from noise."""
        parent = self._config(adapter_name).started_from
        return parent if parent and "@v" in parent else None

    def _config(self, adapter_name: str) -> ShareConfig:
        ensure(
            adapter_name in self.peft_config,
            NotFoundError(
                f"the model has no adapter {adapter_name!r}; it has {', '.join(self.peft_config)}.",
                hint="Give the name that it was loaded under.",
            ),
        )
        config: ShareConfig = self.peft_config[adapter_name]
        return config

    def _layers(self, adapter_name: str) -> list[tuple[str, ShareLayer]]:
        return [
            (path, layer)
            for path, layer in self.model.named_modules()
            if isinstance(layer, ShareLayer) and adapter_name in layer.share_eps_a
        ]

    def _prepare_adapter_config(
        self, peft_config: ShareConfig, model_config: dict[str, object]
    ) -> ShareConfig:
        peft_config.resolve()
        return peft_config

    def _prepare_model(self, peft_config: ShareConfig, model: nn.Module) -> None:
        """Refuse before anything is replaced what would fail in the middle."""
        subspace = peft_config.resolve()
        targets = {
            path: module
            for path, module in model.named_modules()
            if self._check_target_module_exists(peft_config, path)
        }
        ensure(
            targets,
            InvalidInputError(
                f"no module of the {type(model).__name__} is among the {len(subspace.modules)} "
                f"of the basis, such as {next(iter(subspace.modules))!r}.",
                hint="Use the class of base model that the space's adapters were trained on, "
                "or pass target_modules.",
            ),
        )
        for path, module in targets.items():
            if ".base_layer" not in path:
                _check(path, module, subspace)

    def _create_and_replace(
        self,
        config: ShareConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: object,
    ) -> None:
        subspace = config.resolve()
        base = _base(target)
        layer: Any = target
        if not isinstance(target, ShareLayer):
            layer = ShareLinear(target, adapter_name, transposed=_is_transposed(base))
        layer.update_layer(
            adapter_name,
            *subspace.modules[current_key],
            _start(config, subspace, current_key, base),
            dropout=config.dropout,
            inference_mode=config.inference_mode,
        )
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: ShareConfig,
        adapter_name: str,
        state_dict: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Check names and shapes of saved coefficients against the subspace that they go into."""
        remapped: dict[str, torch.Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        own = _shapes(model.state_dict(), f".{adapter_name}")
        saved = _shapes(remapped, "")
        for key in sorted(own.keys() | saved.keys()):
            ensure(
                own.get(key) == saved.get(key),
                InvalidInputError(
                    f"{key}: the saved adapter has {saved.get(key, 'nothing')}, the subspace "
                    f"in the basis {str(config.basis)[:8]} expects {own.get(key, 'nothing')}.",
                    hint="Load it with the config that was saved beside it.",
                ),
            )
        return remapped


def _shapes(tensors: Mapping[str, torch.Tensor], ending: str) -> dict[str, str]:
    return {
        key: " x ".join(map(str, tensor.shape))
        for key, tensor in tensors.items()
        if f".{PREFIX}" in key and key.endswith(ending)
    }


def _start(config: ShareConfig, subspace: Subspace, path: str, base: Any) -> Coefficients:
    weight_norm = 1.0
    if base.weight.device.type != "meta":
        weight_norm = float(base.weight.detach().to(torch.float32).norm())
    seed = config.seed
    if seed is None:
        seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
    # of the path too: a module's start does not depend on which other modules are adapted
    module_seed = hashlib.sha256(f"{seed} {path}".encode()).digest()[:7]
    generator = torch.Generator().manual_seed(int.from_bytes(module_seed))
    factors = subspace.starts.get(path)
    start = draw_noise if factors is None else partial(project_task, factors)
    return start(
        *subspace.modules[path],
        p=subspace.pseudo_rank,
        phi=subspace.extra_directions,
        norm=config.init_scale * weight_norm,
        generator=generator,
    )


def _check(path: str, module: nn.Module, subspace: Subspace) -> None:
    base = _base(module)
    kind = type(base).__name__
    is_linear = isinstance(base, nn.Linear) and kind != "NonDynamicallyQuantizableLinear"
    ensure(
        (is_linear or _is_transposed(base)) and base.weight.is_floating_point(),
        RefusedError(
            f"module {path!r} is a {kind}, expected a linear layer with floating weights.",
            hint="Leave it out by target_modules, or load the model unquantised.",
        ),
    )
    ensure(
        path in subspace.modules,
        NotFoundError(
            f"module {path!r} is not in the basis {subspace.basis[:8]} "
            f"of space {subspace.space!r}.",
            hint="Leave it out by target_modules.",
        ),
    )
    alpha, beta = subspace.modules[path]
    shape = base.weight.shape
    out, width = reversed(shape) if _is_transposed(base) else shape
    ensure(
        (alpha.shape[1], beta.shape[1]) == (width, out),
        InvalidInputError(
            f"module {path!r} of the model is {out} x {width}, "
            f"in the basis it is {beta.shape[1]} x {alpha.shape[1]}.",
            hint="Use the base model that the space is for, or leave the module out by "
            "target_modules.",
        ),
    )
    room = min(width - len(alpha), out - len(beta))
    ensure(
        subspace.extra_directions <= room,
        InvalidInputError(
            f"module {path!r} has room for {room} directions beside the basis, "
            f"asked for {subspace.extra_directions}."
        ),
    )


def _base(module: nn.Module) -> Any:
    return module.get_base_layer() if isinstance(module, ShareLayer) else module


def _is_transposed(base: nn.Module) -> bool:
    return type(base).__name__ == "Conv1D" and type(base).__module__.startswith("transformers.")
