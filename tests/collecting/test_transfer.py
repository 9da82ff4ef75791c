"""Tensors of one step in one transfer: every type and layout comes back as it was."""

import numpy as np
import pytest
import torch

from tracelake.collect.observing.transfer import packed, to_host, unpacked

LAYOUTS = {
    "plain": lambda: torch.arange(12.0).reshape(3, 4),
    "a column of one row": lambda: torch.arange(10.0)[None][:, 3],
    "a column": lambda: torch.arange(12.0).reshape(3, 4)[:, 1],
    "turned": lambda: torch.arange(12.0).reshape(3, 4).T,
    "expanded": lambda: torch.ones(1, 1).expand(3, 2),
    "behind others": lambda: torch.arange(12.0)[5:],
    "nothing": lambda: torch.zeros(0, 4),
    "a number": lambda: torch.tensor(2.5),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_what_is_packed_comes_back(layout: str, dtype: torch.dtype) -> None:
    tensors = {"before": torch.ones(3, dtype=torch.bool), "it": LAYOUTS[layout]().to(dtype), "after": torch.ones(2)}
    if layout == "a column of one row":  # `to` would copy, and so would the values a new tensor is made of
        tensors["it"] = torch.arange(10).to(dtype)[None][:, 3]
        assert tensors["it"].is_contiguous() and tensors["it"].stride() == (10,)
    back = unpacked(packed(tensors).numpy(), tensors)
    direct = to_host(tensors)
    for name, tensor in tensors.items():
        expected = tensor.contiguous().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        for array in (back[name], direct[name]):
            assert array.shape == tuple(tensor.shape)
            np.testing.assert_array_equal(
                array.astype(np.float64), expected.numpy().view(array.dtype).astype(np.float64)
            )
