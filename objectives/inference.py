"""A model made ready to answer, and afterwards as it was: evaluation mode, and on the CPU weights that are unpacked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora import LoraLayer

Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode in which it was.

    no_grad, not inference_mode: bitsandbytes casts a bias in place at its first use, and a parameter that was made in
    inference mode cannot be trained or updated afterwards. Both are as fast.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def unpacked(model: Any) -> Iterator[None]:
    """On the CPU, 4-bit weights are unpacked to float32 once and not in every pass, with LoRA's share added to them.

    The first changes no bit of a result; the second the last ones of the logits, as float32 rounds them. Nothing is
    done where the weights would take more than half of the machine's memory. Nor on CUDA, where they seldom have the
    room; without gradients. `model` must not be trained meanwhile.
    """
    layers = [module for module in model.modules() if _base(module) is not None]
    needed = sum(4 * _base(layer).in_features * _base(layer).out_features for layer in layers)
    if needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2:
        layers = []
    for layer in layers:
        layer.forward = _forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _base(module: Any) -> Any:
    """The 4-bit layer that `module` is, or adds plain LoRA to; None for what cannot be unpacked."""
    base = module
    if isinstance(module, LoraLayer):
        base = module.base_layer
        special = module.merged or module.disable_adapters or any(module.lora_bias.values()) or module.lora_variant
        if special:
            return None
    whole = isinstance(base, bnb.nn.Linear4bit) and base.weight.device.type == "cpu"
    return base if whole and base.compute_dtype in (None, torch.float32) and "forward" not in vars(module) else None


def _forward(layer: Any) -> Forward:
    """What `layer` computes, with one matrix."""
    base = _base(layer)
    weight = bnb.functional.dequantize_4bit(base.weight.data, base.weight.quant_state).float()
    for adapter in getattr(layer, "active_adapters", []):
        if adapter in layer.lora_A:
            weight = weight + layer.get_delta_weight(adapter).detach().float()
    bias = None if base.bias is None else base.bias.detach().float()

    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x.float(), weight, bias).to(x.dtype)

    return forward
