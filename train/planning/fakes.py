"""A QLoRA model of fake tensors, which have shapes and no data, and a count of the bytes that they would take.

The classes are those of the installed transformers, peft and bitsandbytes. The fake device is the CPU, since a fake
CUDA device ends the process in a torch without CUDA; `as_on_cuda` makes the choices that a CUDA device would make.
Only `train.planning.simulate` imports this, in a process of its own: it replaces functions of other libraries for good.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import bitsandbytes as bnb
import peft
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

Category = Literal["weights", "adapters", "gradients", "optimizer", "activations", "workspace", "loss"]

_ALIGNMENT = {"cuda": 512, "cpu": 64}  # bytes to which the allocator rounds a tensor up


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are alive, by the category that was current when they were made.

    `peaks` has the largest sum in each phase, as a Counter of categories; `enter` begins a phase.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alignment = _ALIGNMENT[device]
        self.category: Category = "weights"
        self.phase = "load"
        self.live: Counter[str] = Counter()
        self.total = 0
        self.peaks: dict[str, Counter[str]] = {}
        self.transient: Callable[[Any, tuple[Any, ...], Any], int] = lambda func, args, out: 0
        self._highest: dict[str, int] = {}
        self._known: dict[int, tuple[weakref.ref[Any], list[Any]]] = {}

    def enter(self, phase: str, category: Category | None = None) -> None:
        """Begin the phase; what is alive counts in it from its first moment."""
        self.phase, self.category = phase, category or self.category
        self._look(0)

    def forget(self) -> None:
        """Begin anew: the peaks so far were of preparations."""
        self.peaks.clear()
        self._highest.clear()

    def keep(self, tensors: Iterable[torch.Tensor], category: Category) -> None:
        """Count the tensors, known or not, in this category from now on."""
        for tensor in tensors:
            entry = self._entry(tensor.untyped_storage())
            self.live[entry[1]] -= entry[0]
            entry[1] = category
            self.live[category] += entry[0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = _every_row(func, args)
        if out is None:
            out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(made, torch.Tensor):
                self._entry(made.untyped_storage())
        self._look(self.transient(func, args, out))
        return out

    def _entry(self, storage: Any) -> list[Any]:
        known = self._known.get(id(storage))
        if known is not None and known[0]() is storage:
            return known[1]
        size = self.alignment * math.ceil(storage.nbytes() / self.alignment)
        entry, key = [size, self.category], id(storage)

        def freed(_: Any) -> None:
            self.live[entry[1]] -= entry[0]
            self.total -= entry[0]
            if (there := self._known.get(key)) and there[1] is entry:
                del self._known[key]

        self._known[key] = (weakref.ref(storage, freed), entry)
        self.live[self.category] += size
        self.total += size
        return entry

    def _look(self, transient: int) -> None:
        total = self.total + transient
        if total > self._highest.get(self.phase, -1):
            self._highest[self.phase] = total
            self.peaks[self.phase] = Counter(self.live)
            self.peaks[self.phase]["workspace"] += transient


def _every_row(func: Any, args: tuple[Any, ...]) -> torch.Tensor | None:
    """The result of indexing by a mask, where every element of the mask is true: fake tensors do not know how many."""
    aten = torch.ops.aten
    if func in (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default):
        mask = args[1][0]
        if mask is not None and mask.dtype == torch.bool:
            source: torch.Tensor = args[0]
            inner = func is aten.index.Tensor
            return source.new_empty((mask.numel(), *source.shape[mask.dim() :])) if inner else source
    return None


# The model


def build(config: Mapping[str, Any], layers: int, lora: peft.LoraConfig, dtype: torch.dtype, double: bool) -> Any:
    """A PeftModel of the model that config.json describes, with that many layers, on torch's meta device."""
    made = transformers.AutoConfig.for_model(**{**config, "num_hidden_layers": layers, "use_cache": False})
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(made, dtype=dtype, attn_implementation="sdpa")
        for path, linear in list(model.base_model.named_modules()):
            if isinstance(linear, torch.nn.Linear):
                bias = linear.bias is not None
                four = bnb.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias, dtype, double, "nf4", device="meta"
                )
                model.base_model.set_submodule(path, four.to(dtype))
    model.requires_grad_(False)
    model.is_loaded_in_4bit = True  # what peft chooses its own layer by
    return peft.get_peft_model(model, lora, low_cpu_mem_usage=True)


def materialise(model: Any, dtype: torch.dtype, others: torch.dtype, double: bool, tracker: Tracker) -> None:
    """Give each parameter and buffer a fake tensor, and the 4-bit ones what bitsandbytes makes of them.

    `others` is the type of what is neither 4-bit nor an adapter.
    """
    for name, module in list(model.named_modules()):
        tracker.category = "adapters" if "lora_" in name else "weights"
        for key, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if isinstance(module, bnb.nn.Linear4bit) and key == "weight":
                module._parameters[key] = _four_bit(module, dtype, double)
                continue
            wanted = torch.float32 if tracker.category == "adapters" else others
            trains = tracker.category == "adapters"
            module._parameters[key] = torch.nn.Parameter(torch.empty(parameter.shape, dtype=wanted), trains)
        for key, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype)
    if model.get_base_model().config.tie_word_embeddings:
        model.get_base_model().tie_weights()


def _four_bit(module: Any, dtype: torch.dtype, double: bool) -> torch.nn.Parameter:
    full = torch.empty(module.out_features, module.in_features, dtype=dtype)
    packed, state = bnb.functional.quantize_4bit(full, compress_statistics=double, quant_type="nf4")
    parameter = torch.nn.Parameter(packed, requires_grad=False)
    parameter.quant_state = state  # type: ignore[attr-defined]
    module.quant_state = state
    return parameter


def patch_codes() -> None:
    """bitsandbytes makes its code tables of Python numbers, which fake tensors cannot take over."""
    bnb.functional.get_4bit_type = lambda *_, **__: torch.empty(16)
    bnb.functional.create_dynamic_map = lambda *_, **__: torch.empty(256)


# What a CUDA device does otherwise


def as_on_cuda() -> None:
    """Make the choices of a CUDA device, for good."""
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    if torch.nn.functional.dropout is _dropout:
        return  # made already
    enabled = torch.is_autocast_enabled
    torch.is_autocast_enabled = lambda device=None: enabled(device or "cpu")  # peft asks without naming a device
    torch.nn.functional.scaled_dot_product_attention = _attention
    torch.nn.functional.dropout = _dropout  # type: ignore[assignment]
    utils._use_triton = lambda device: True  # so that TRL's trainers take learned positions only
    chunked_logprob._forward_tile = chunked_logprob._backward_tile = lambda *_, **__: None  # Triton's work in place
    chunked_logprob._addmm_fp32 = lambda *_: None  # one product with an accumulator in float32


def _dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    return torch.native_dropout(x, p, training)[0] if training and p > 0 else x


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Flash attention without a mask, memory-efficient attention with one or in float32, as CUDA's dispatch has it."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (states.to(torch.get_autocast_dtype("cpu")) for states in (query, key, value))
    if attn_mask is None and query.dtype in FLASH:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]  # type: ignore[no-any-return]
    if enable_gqa and key.shape[1] != query.shape[1]:
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], 1) for states in (key, value))
    bias = None if attn_mask is None else _bias(attn_mask, query)
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]


FLASH: set[torch.dtype] = {torch.bfloat16, torch.float16}


def _bias(mask: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The mask as numbers to add, its rows padded to whole 16s, the same for every head."""
    length = mask.shape[-1]
    bias = torch.empty((*mask.shape[:-1], 16 * math.ceil(length / 16)), dtype=query.dtype)
    return bias[..., :length].expand(*query.shape[:3], length)


def inside_kernels(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Bytes that a kernel takes inside, and gives back."""
    if func is torch.ops.bitsandbytes.gemm_4bit.default:
        matrix: int = math.prod(args[2])
        return int(args[0].element_size()) * matrix + 4 * matrix // 64  # the matrix and its scales in full
    if func is torch.ops.aten._scaled_dot_product_flash_attention_backward.default:
        query, key = args[1], args[2]
        numbers = int(query.numel())
        expanded = 2 * 2 * numbers if key.shape[1] != query.shape[1] else 0
        return 4 * numbers + 4 * numbers // int(query.shape[-1]) + expanded
    return 0


def autocast(on: bool) -> torch.autocast:
    """Autocast to bfloat16, or nothing."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=on)
