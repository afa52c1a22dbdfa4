"""ShareModel: what PEFT calls to put the method into a model, and what a registry asks for the plain LoRA that came out of it."""

import hashlib
from typing import Any, Final

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError
from share_registry.exchange.scales import PREFIX as KEYS
from share_registry.peft.layer import Frozen, ShareLayer, ShareLinear
from share_registry.peft.method import PREFIX
from share_registry.peft.share_config import ShareConfig
from share_registry.peft.start import Coefficients, noise, projected
from share_registry.peft.subspace import Subspace, check_shape

_CARRIED: Final = (
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

    def lora_tensors(self, adapter_name: str) -> dict[str, torch.Tensor]:
        """Return an adapter as a plain LoRA of rank p and scale 1 under PEFT's keys, float32.

        The products are formed in float64.
        """
        tensors = {}
        for path, layer in self._layers(adapter_name):
            with torch.no_grad():
                a, b = layer.factors(adapter_name, dtype=torch.float64)
            tensors[f"{KEYS}{path}.lora_A.weight"] = a.to(torch.float32).cpu().contiguous()
            tensors[f"{KEYS}{path}.lora_B.weight"] = b.mT.to(torch.float32).cpu().contiguous()
        return tensors

    def lora_config(self, adapter_name: str) -> LoraConfig:
        """Return the config of that LoRA."""
        config = self.peft_config[adapter_name]
        carried = {name: getattr(config, name) for name in _CARRIED}
        paths = [path for path, _ in self._layers(adapter_name)]
        return LoraConfig(
            r=config.pseudo_rank,
            lora_alpha=config.pseudo_rank,
            target_modules=_targets(config, paths),
            inference_mode=True,
            **carried,
        )

    def lora_basis(self, adapter_name: str) -> str:
        """Return the digest of the basis that an adapter was trained in."""
        return str(self.peft_config[adapter_name].basis)

    def lora_parent(self, adapter_name: str) -> str | None:
        """Return the task version that training started from, None where it started from noise."""
        found = self.peft_config[adapter_name].started_from
        return found if found and "@v" in found else None

    def _layers(self, adapter_name: str) -> list[tuple[str, ShareLayer]]:
        return [
            (path, layer)
            for path, layer in self.model.named_modules()
            if isinstance(layer, ShareLayer) and adapter_name in layer.share_eps_a
        ]

    def _prepare_adapter_config(
        self, peft_config: ShareConfig, model_config: dict[str, object]
    ) -> ShareConfig:
        peft_config.resolved()
        return peft_config

    def _prepare_model(self, peft_config: ShareConfig, model: nn.Module) -> None:
        """Refuse before anything is replaced what would fail in the middle."""
        subspace = peft_config.resolved()
        found = {
            path: module
            for path, module in model.named_modules()
            if self._check_target_module_exists(peft_config, path)
        }
        if not found:
            raise InvalidInputError(
                f"no module of the {type(model).__name__} is among the {len(subspace.modules)} of the basis, such as {next(iter(subspace.modules))!r}.",
                hint="Use the class of base model that the space's adapters were trained on, or pass target_modules.",
            )
        for path, module in found.items():
            if not (isinstance(module, nn.Module) and ".base_layer" in path):
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
        subspace = config.resolved()
        alpha, beta = subspace.modules[current_key]
        frozen = Frozen(alpha=alpha.to(torch.float32), beta=beta.to(torch.float32))
        layer = (
            target
            if isinstance(target, ShareLayer)
            else ShareLinear(target, adapter_name, turned=_turned(_base(target)))
        )
        start = _start(config, subspace, current_key, _base(target))
        layer.update_layer(
            adapter_name,
            frozen,
            start,
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
        own = {
            key: value.shape
            for key, value in model.state_dict().items()
            if f".{PREFIX}" in key and key.endswith(f".{adapter_name}")
        }
        given = {key: value.shape for key, value in remapped.items() if f".{PREFIX}" in key}
        for key in sorted(own.keys() | given.keys()):
            if own.get(key) != given.get(key):
                raise InvalidInputError(
                    f"{key}: the saved adapter has {_shape(given.get(key))}, the subspace in the basis {str(config.basis)[:8]} expects {_shape(own.get(key))}.",
                    hint="Load it with the config that was saved beside it.",
                )
        return remapped


def _start(config: ShareConfig, subspace: Subspace, path: str, base: Any) -> Coefficients:
    alpha, beta = subspace.modules[path]
    weight = base.weight
    norm = config.init_scale * (
        1.0 if weight.device.type == "meta" else float(weight.detach().to(torch.float32).norm())
    )
    seed = (
        config.seed
        if config.seed is not None
        else int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
    )
    generator = torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(f"{seed} {path}".encode()).digest()[:7])
    )
    p, phi = subspace.pseudo_rank, subspace.extra_directions
    known = subspace.starts.get(path)
    if known is None:
        return noise(alpha, beta, p=p, phi=phi, norm=norm, generator=generator)
    return projected(known, alpha, beta, p=p, phi=phi, norm=norm, generator=generator)


def _check(path: str, module: nn.Module, subspace: Subspace) -> None:
    base = _base(module)
    kind = type(base).__name__
    if (
        not (isinstance(base, nn.Linear) or _turned(base))
        or kind == "NonDynamicallyQuantizableLinear"
        or not base.weight.is_floating_point()
    ):
        raise RefusedError(
            f"module {path!r} is a {kind}, expected a linear layer with floating weights.",
            hint="Leave it out by target_modules, or load the model unquantised.",
        )
    if path not in subspace.modules:
        raise NotFoundError(
            f"module {path!r} is not in the basis {subspace.basis[:8]} of space {subspace.space!r}.",
            hint="Leave it out by target_modules.",
        )
    out, width = reversed(base.weight.shape) if _turned(base) else base.weight.shape
    check_shape(path, subspace.modules[path], width, out)
    least = min(width - len(subspace.modules[path][0]), out - len(subspace.modules[path][1]))
    if subspace.extra_directions > least:
        raise InvalidInputError(
            f"module {path!r} has room for {least} directions beside the basis, asked for {subspace.extra_directions}."
        )


def _base(module: nn.Module) -> Any:
    return module.get_base_layer() if isinstance(module, ShareLayer) else module


def _turned(base: nn.Module) -> bool:
    return type(base).__name__ == "Conv1D" and type(base).__module__.startswith("transformers.")


def _targets(config: ShareConfig, paths: list[str]) -> list[str]:
    """Return module names that mean these paths and no other."""
    given = config.target_modules
    return sorted(given) if isinstance(given, set) else paths


def _shape(shape: object) -> str:
    return "nothing" if shape is None else " x ".join(str(number) for number in shape)  # type: ignore[attr-defined]
