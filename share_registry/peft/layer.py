"""The adapted layer.

Y = x W^T + x A^T B with A = eps_a alpha + eps'_a alpha' and B = eps_b beta + eps'_b beta'.

alpha and beta are the frozen directions of the basis, float32 buffers that no state dict holds;
everything else is trained. The rank-p factors are formed once per call: p (k + phi) numbers per
column, far less than a batch through k directions.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from share_registry.errors import InvalidInputError, ensure
from share_registry.peft.subspace import Coefficients


class ShareLayer(BaseTunerLayer):  # type: ignore[misc]
    """The adapters of one module; the names of all their parameters begin with `share_`."""

    adapter_layer_names = (
        "share_eps_a",
        "share_eps_b",
        "share_extra_eps_a",
        "share_extra_eps_b",
        "share_extra_a",
        "share_extra_b",
    )
    other_param_names = ("share_alpha", "share_beta", "share_dropout")

    def __init__(self, base_layer: nn.Module, *, transposed: bool) -> None:
        self.base_layer = base_layer
        self.fan_in_fan_out = transposed
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict({}))
        self.share_alpha = BufferDict({}, persistent=False)
        self.share_beta = BufferDict({}, persistent=False)
        self.share_dropout = nn.ModuleDict({})
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True
        self._unmerged: torch.Tensor | None = None

    def update_layer(
        self,
        name: str,
        alpha: torch.Tensor,
        beta: torch.Tensor,
        start: Coefficients,
        *,
        dropout: float,
        inference_mode: bool,
    ) -> None:
        """Add an adapter, or give one new values.

        Args:
            name: The adapter.
            alpha: Directions (k_a, in) of the basis.
            beta: Directions (k_b, out) of the basis.
            start: What training starts with.
            dropout: Probability that an input of the trained branch is dropped.
            inference_mode: Whether the adapter is not to be trained.
        """
        k_a, k_b = len(alpha), len(beta)
        self.share_alpha[name] = alpha.to(torch.float32)
        self.share_beta[name] = beta.to(torch.float32)
        self.share_dropout[name] = nn.Dropout(dropout) if dropout else nn.Identity()
        self.share_eps_a[name] = _trained(start.eps_a[:, :k_a])
        self.share_eps_b[name] = _trained(start.eps_b[:, :k_b])
        if len(start.extra_a):
            self.share_extra_eps_a[name] = _trained(start.eps_a[:, k_a:])
            self.share_extra_eps_b[name] = _trained(start.eps_b[:, k_b:])
            self.share_extra_a[name] = _trained(start.extra_a)
            self.share_extra_b[name] = _trained(start.extra_b)
        self._move_adapter_to_device_of_base_layer(name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def factors(
        self, name: str, *, dtype: torch.dtype | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A (p, in) and B transposed (p, out) of an adapter.

        Their element type is that of the coefficients where `dtype` is None.
        """
        a = _factor(self.share_eps_a[name], self.share_alpha[name], dtype)
        b = _factor(self.share_eps_b[name], self.share_beta[name], dtype)
        if name in self.share_extra_a:
            a = a + _factor(self.share_extra_eps_a[name], self.share_extra_a[name], dtype)
            b = b + _factor(self.share_extra_eps_b[name], self.share_extra_b[name], dtype)
        return a, b

    def get_delta_weight(self, name: str) -> torch.Tensor:
        """Return what an adapter adds to the base weight, in the weight's layout.

        Its element type is that of the coefficients.
        """
        a, b = self.factors(name)
        return a.mT @ b if self.fan_in_fan_out else b.mT @ a

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base weight, of which a copy is kept until `unmerge`.

        Args:
            safe_merge: Check that the merged weight is finite. Raises InvalidInputError.
            adapter_names: Which; the active ones where None.
        """
        for name in check_adapters_to_merge(self, adapter_names) or ():
            if name not in self.share_eps_a:
                continue
            weight = self.get_base_layer().weight
            merged = (
                weight.data.to(self.share_eps_a[name].dtype) + self.get_delta_weight(name).detach()
            ).to(weight.dtype)
            ensure(
                not safe_merge or torch.isfinite(merged).all(),
                InvalidInputError(
                    f"adapter {name!r} makes a weight that is not finite.",
                    hint="Its training diverged: take an earlier checkpoint.",
                ),
            )
            if self._unmerged is None:
                self._unmerged = weight.data
            weight.data = merged
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put the base weight back, bit for bit."""
        if self._unmerged is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        weight = self.get_base_layer().weight
        weight.data = self._unmerged.to(weight.device)
        self._unmerged = None
        self.merged_adapters.clear()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Tell PEFT that what is added to the weight has low rank."""
        return True

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Follow the base layer to its device.

        The element type stays float32, unlike in PEFT: a basis rounded to bfloat16 is not
        orthonormal.
        """
        target = device if device is not None else self.get_base_layer().weight.device
        for name in (*self.adapter_layer_names, "share_alpha", "share_beta"):
            values = getattr(self, name)
            if adapter_name in values and "meta" not in {
                values[adapter_name].device.type,
                target.type,
            }:
                values[adapter_name] = values[adapter_name].to(target)


class ShareLinear(nn.Module, ShareLayer):
    """A linear layer (or the transposed Conv1D of GPT-2) with adapters."""

    active_adapters: list[str]
    share_eps_a: nn.ParameterDict
    share_dropout: nn.ModuleDict
    _cast_input_dtype: Callable[[torch.Tensor, torch.dtype], torch.Tensor]

    def __init__(self, base_layer: nn.Module, name: str, *, transposed: bool) -> None:
        nn.Module.__init__(self)
        ShareLayer.__init__(self, base_layer, transposed=transposed)
        self._active_adapter = name

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Apply the base layer and every active adapter."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        result: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        for name in self.active_adapters:
            if name in self.share_eps_a:
                a, b = self.factors(name)
                inner = nn.functional.linear(
                    self.share_dropout[name](self._cast_input_dtype(x, a.dtype)), a
                )
                result = result + inner @ b
        return result.to(dtype)

    def __repr__(self) -> str:
        return f"share.{super().__repr__()}"


def _trained(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(torch.float32).contiguous().clone())


def _factor(eps: torch.Tensor, directions: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return eps.to(dtype) @ directions.to(dtype) if dtype is not None else eps @ directions
