"""How much memory tensors hold in this process: what a worker compares before and after a run."""

from __future__ import annotations

import gc

import torch

LEAK_BYTES = 64 * 2**20  # what a run may leave behind: the caches of libraries are smaller


def held_bytes(device: torch.device) -> int:
    """Bytes of living tensors: what the allocator of a card has given out, or without one, what the garbage collector
    knows of."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    tensors = (found for found in gc.get_objects() if issubclass(type(found), torch.Tensor))
    storages = (tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu")
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def leaked(before_bytes: int, device: torch.device) -> bool:
    """Whether more than LEAK_BYTES are held than before; what only waits for the collector is not."""
    if held_bytes(device) - before_bytes <= LEAK_BYTES:
        return False
    gc.collect()
    return held_bytes(device) - before_bytes > LEAK_BYTES
