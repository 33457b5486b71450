"""A model made ready to answer, and afterwards as it was: evaluation mode, no work on what nobody reads, and on the CPU
weights that are unpacked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora import LoraLayer

Forward = Callable[[torch.Tensor], torch.Tensor]

LARGE = 2**19  # numbers of a matrix
ROWS = 32  # for which oneDNN chooses its blocks; good for any other number, too
RESIDUAL = ("llama", "mistral", "qwen2")  # a layer ends in x + mlp(norm(x)), each position by itself
_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


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
def newest_only(model: Any) -> Iterator[None]:
    """Of a prompt, the newest position alone goes through the last layer's feed-forward part, for only its logits are
    read; the residual sum repeats what came of it at the other positions. On two layers that is a third of a prompt's
    work, on 32 a fortieth. `model` must not be asked for logits of other positions meanwhile."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if base.config.model_type not in RESIDUAL:
        yield
        return
    mlp = base.get_decoder().layers[-1].mlp
    with mlp.register_forward_pre_hook(lambda _, given: (given[0][:, -1:],)):
        yield


@contextmanager
def unpacked(model: Any) -> Iterator[None]:
    """On the CPU, weights as a pass computes with them, made ready once and not in every pass.

    4-bit weights are unpacked to float32, with LoRA's share added to them; large matrices of float32 are laid out in
    the blocks that oneDNN multiplies. The first changes no bit of a result; the others the last ones of the logits, as
    float32 rounds them. Nothing is done where that would take more than half of the machine's memory. Nor on CUDA,
    where it seldom has the room; without gradients. `model` must not be trained meanwhile.
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
    """The linear layer that `module` is, or adds plain LoRA to; None for what there is nothing to gain with."""
    base = module
    if isinstance(module, LoraLayer):
        base = module.base_layer
        special = module.merged or module.disable_adapters or any(module.lora_bias.values()) or module.lora_variant
        if special:
            return None
    if "forward" in vars(module):
        return None
    if isinstance(base, bnb.nn.Linear4bit):
        whole = base.weight.device.type == "cpu" and base.compute_dtype in (None, torch.float32)
    else:  # of subclasses, nobody knows what they compute
        whole = base is module and type(base) is torch.nn.Linear and _blocked(base.weight)
    return base if whole else None


def _blocked(weight: torch.Tensor) -> bool:
    """Whether oneDNN's blocks make this matrix faster: measured, from half a million numbers on, most with few rows."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LARGE and _ONEDNN


def _forward(layer: Any) -> Forward:
    """What `layer` computes, with one matrix."""
    base = _base(layer)
    if isinstance(base, bnb.nn.Linear4bit):
        weight = bnb.functional.dequantize_4bit(base.weight.data, base.weight.quant_state).float()
    else:
        weight = base.weight.detach()
    for adapter in getattr(layer, "active_adapters", []):
        if adapter in layer.lora_A:
            weight = weight + layer.get_delta_weight(adapter).detach().float()
    bias = None if base.bias is None else base.bias.detach().float()
    linear = _linear(weight, bias)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return linear(x.float()).to(x.dtype)

    return forward


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Forward:
    """x -> x times the transposed weight, and the bias."""
    if not _blocked(weight):
        return lambda x: torch.nn.functional.linear(x, weight, bias)
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise  # what torch.compile makes of a linear layer on the CPU
    return lambda x: multiply(x, blocks, bias, "none", [], "")
