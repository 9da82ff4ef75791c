"""The packed transfer of accelerators gives the same arrays as the direct one of the CPU."""

import numpy as np
import torch

from tracelake.collect.observing.transfer import packed, to_host, unpacked


def test_packing_equals_the_direct_arrays() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "flags": torch.tensor([True, False, True]),
        "ids": torch.arange(5) * 2**40,
        "odd": torch.randn(3, 7, generator=generator).half(),
        "brain": torch.randn(2, 3, 5, generator=generator).bfloat16(),
        "transposed": torch.randn(4, 6, generator=generator).T,
        "empty": torch.zeros(0, 3),
        "keys": torch.arange(6, dtype=torch.int32).view(2, 3),
    }
    direct, travelled = to_host(tensors), unpacked(packed(tensors).numpy(), tensors)
    for name, values in direct.items():
        assert travelled[name].dtype == values.dtype and travelled[name].shape == values.shape
        np.testing.assert_array_equal(travelled[name], values)
    restored = (direct["brain"].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(restored, tensors["brain"].float().numpy())
