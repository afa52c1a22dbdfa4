"""What is finite is told for every element type, whatever the sum of the values is."""

import pytest
import torch

from share_registry.exchange.tensors import all_finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_trained", [False, True])
def test_only_infinite_and_undefined_values_are_not_finite(
    dtype: torch.dtype, *, is_trained: bool
) -> None:
    largest = torch.finfo(dtype).max
    for values in ([], [0.0], [largest, largest, -1.0], [-largest] * 3):
        assert all_finite(torch.tensor(values, dtype=dtype, requires_grad=is_trained))
    for wrong in (float("inf"), float("-inf"), float("nan")):
        assert not all_finite(
            torch.tensor([1.0, wrong, 2.0], dtype=dtype, requires_grad=is_trained)
        )
    assert not all_finite(torch.tensor([float("inf"), float("-inf")], dtype=dtype))
