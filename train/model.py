"""The base model in 4 bits, loaded once, and the adapters that come and go on it."""

from __future__ import annotations

import gc
import math
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import peft
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers.modeling_layers import GradientCheckpointingLayer

from train.base import check_is_base, inspect_base
from train.recipe import Base, Recipe, RecipeError
from train.rundir import write_json
from train.targets import described, picked

# On the CPU a QLoRA step (3 layers, hidden 128, 1,024 tokens, one core with AVX512-BF16) takes 82 ms in float32 and
# 78 ms in bfloat16; on a core without bfloat16 units (AVX2) 78 ms and 580 ms. float32 is never slow.
COMPUTE_DTYPE = {"cpu": torch.float32, "cuda": torch.bfloat16}

MAGNITUDE = "lora_magnitude_vector"  # DoRA's, in the names of parameters

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LoadedBase:
    """A base model in NF4 with its tokenizer, ready for adapters. The model is frozen and in evaluation mode."""

    base: Base
    model: Any
    tokenizer: Any
    device: torch.device

    @property
    def context(self) -> int | None:
        """The largest number of tokens that the model takes; None where its configuration does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def autocast(self) -> AbstractContextManager[Any]:
        """What every forward pass runs in: autocast where a bfloat16 base meets float32 adapters (so on CUDA)."""
        if self.model.dtype == torch.bfloat16:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def load_base(base: Base, threads: int, device: str, *, quantize: bool = True) -> LoadedBase:
    """Load `base` in NF4 with double quantization on `device` ("cpu" or "cuda"); without `quantize`, in COMPUTE_DTYPE.

    Sets the process's threads and switches deterministic algorithms on. Raises RecipeError where the model cannot be
    had, is incomplete, is not what was pinned, or there is no such device.
    """
    _settle(threads, device)
    facts = inspect_base(base.model, base.revision, base.sha256)
    check_is_base(base, facts)
    assert facts.folder is not None
    try:
        tokenizer = _load_tokenizer(facts.folder)
        model = _load_model(facts.folder, device, quantize)
    except RecipeError:
        raise
    except Exception as error:  # the loaders raise whatever their files, formats and devices do
        reason = str(error).strip().split("\n")[0]
        raise RecipeError(f"the base model {base.model} cannot be loaded on {device}: {reason}") from error
    choose_pad_token(tokenizer, model.get_input_embeddings().num_embeddings)
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
    return LoadedBase(base, model, tokenizer, model.device)


def _settle(threads: int, device: str) -> None:
    if device not in COMPUTE_DTYPE:
        raise RecipeError(f"device {device!r} is unknown; give one of {', '.join(sorted(COMPUTE_DTYPE))}")
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            f"device 'cuda' is asked for, but torch {torch.__version__} sees no CUDA device: check nvidia-smi and that "
            "torch is a CUDA build, or set device = 'cpu'"
        )
    if device == "cuda" and torch.cuda.device_count() > 1:
        raise RecipeError(
            f"{torch.cuda.device_count()} CUDA devices are visible, and a run uses one: choose it, for example with "
            "CUDA_VISIBLE_DEVICES=0"
        )
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its sums only with this
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    transformers.utils.logging.disable_progress_bar()
    gc.freeze()  # accelerate collects at the start of every training; over all that is imported, that takes 0.3 s


def _load_tokenizer(folder: str) -> Any:
    """The tokenizer as it was saved. AutoTokenizer would rebuild some (Qwen2's) from their vocabulary with the
    pre-tokenizer of the architecture's first model, whatever tokenizer.json says."""
    saved = os.path.exists(os.path.join(folder, "tokenizer.json"))
    loader = transformers.PreTrainedTokenizerFast if saved else transformers.AutoTokenizer
    return loader.from_pretrained(folder, trust_remote_code=False)


def _load_model(folder: str, device: str, quantize: bool) -> Any:
    dtype = COMPUTE_DTYPE[device]
    nf4 = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        **({"quantization_config": nf4} if quantize else {}),
        dtype=dtype,
        attn_implementation="sdpa",  # eager attention keeps a matrix of length x length for each head
        device_map={"": 0 if device == "cuda" else device},
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        raise RecipeError(f"{folder} lacks {len(missing)} of the model's weights ({missing[0]}); get its files again")
    assert model.config._attn_implementation == "sdpa"
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            # On CPUs with AVX512-BF16 the first forward pass in evaluation mode would repack the weights for
            # inference, after which every gradient is wrong and nothing says so.
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False).eval()


def choose_pad_token(tokenizer: Any, vocabulary: int) -> None:
    """Give `tokenizer` a pad token that is not EOS, where it knows one whose id is below `vocabulary`.

    Its own; else a special token with "pad" in its name (Llama 3.1's <|finetune_right_pad_id|>, Qwen2.5's <|fim_pad|>);
    else its unknown token; else a reserved one. With none of these it is EOS, which is harmless to train with (labels
    and masks come from the data, never from the padding's id) and never makes a padding token a learned EOS.
    """
    specials = [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    candidates = [
        tokenizer.pad_token,
        *(token for token in specials if "pad" in token.lower()),
        tokenizer.unk_token,
        *(token for token in specials if "reserved" in token.lower()),
    ]
    for token in candidates:
        if token is None or token == tokenizer.eos_token:
            continue
        if tokenizer.convert_tokens_to_ids(token) < vocabulary:
            tokenizer.pad_token = token
            return
    tokenizer.pad_token = tokenizer.eos_token


# Adapters


def target_modules(model: torch.nn.Module, targets: str | Sequence[str]) -> list[str]:
    """The modules of `model` that `targets` means, sorted, as PEFT takes them. Raises RecipeError where there is none.

    They are last names (q_proj) where these mean the same modules, else whole ones (model.layers.3.mlp.up_proj).
    """
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found = picked(linears, targets)
    last = sorted({name.rpartition(".")[2] for name in found})
    if not found:
        there = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
        raise RecipeError(
            f"{described(targets)}, and this model has none of them; its linear modules are {there or 'none'}"
        )
    return last if picked(linears, last) == found else sorted(found)


def fresh_adapter(loaded: LoadedBase, recipe: Recipe) -> Any:
    """A PeftModel with new float32 LoRA weights, a pure function of the recipe's seed and settings of LoRA."""
    transformers.set_seed(recipe.seed)
    alpha = recipe.alpha_ratio * recipe.rank
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # readers of PEFT's files expect whole numbers
        lora_dropout=recipe.dropout,
        target_modules=target_modules(loaded.model, recipe.targets),
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        bias="none",
    )
    with quiet():
        model = peft.get_peft_model(loaded.model, config)
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = loaded.base.model, loaded.base.revision
    assert_float32(model)
    return model


def load_adapter(loaded: LoadedBase, path: Path) -> Any:
    """A PeftModel with the finished adapter in the folder `path`, frozen. Raises RecipeError where it does not fit."""
    if not (path / "adapter_config.json").exists():
        raise RecipeError(f"{path} holds no adapter (adapter_config.json is missing); train one first")
    try:
        with quiet():
            model = peft.PeftModel.from_pretrained(loaded.model, str(path), torch_device=str(loaded.device))
    except Exception as error:
        _strip(loaded.model)
        reason = str(error).strip().split("\n")[0]
        raise RecipeError(f"the adapter in {path} does not fit {loaded.base.model}: {reason}") from error
    return model.eval()


def drop_adapter(model: Any) -> None:
    """Take every adapter off `model`, a PeftModel or the base below it; the base is then as it was loaded."""
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    _strip(base)
    if base.device.type == "cuda":
        gc.collect()  # a trainer and its optimizer refer to each other
        torch.cuda.empty_cache()


def _strip(base: Any) -> None:
    """Replace each adapted layer by the layer below it, as PeftModel.unload does for a model it wraps whole."""
    for name, module in list(base.named_modules()):
        if isinstance(module, BaseTunerLayer):
            base.set_submodule(name, module.get_base_layer())
    if hasattr(base, "peft_config"):
        del base.peft_config
    base.requires_grad_(False).eval()


def adapter_parameters(model: Any, adapter: str = "default") -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by the names that PEFT gives them in its files."""
    part = f".{adapter}."
    found = {name.replace(part, "."): p for name, p in model.named_parameters() if "lora_" in name and part in name}
    return {name.replace(f"{MAGNITUDE}.weight", MAGNITUDE): parameter for name, parameter in found.items()}


def adapter_tensors(model: Any, adapter: str = "default") -> Tensors:
    """Copies of the adapter's weights on the CPU, by PEFT's names."""
    return {name: p.detach().to("cpu", copy=True) for name, p in adapter_parameters(model, adapter).items()}


def set_adapter_tensors(model: Any, tensors: Mapping[str, torch.Tensor], adapter: str = "default") -> None:
    """Overwrite the adapter's weights, bit for bit. The names must be exactly the adapter's own."""
    parameters = adapter_parameters(model, adapter)
    assert parameters.keys() == tensors.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert parameter.dtype == tensors[name].dtype
            parameter.copy_(tensors[name])


def write_adapter(model: Any, folder: Path) -> None:
    """Write the default adapter in PEFT's format into `folder`, which exists; equal adapters give equal bytes."""
    save_tensors(adapter_tensors(model), folder / "adapter_model.safetensors")
    config = {key: _plain(value) for key, value in model.peft_config["default"].to_dict().items()}
    write_json(folder / "adapter_config.json", {**dict(sorted(config.items())), "inference_mode": True})


def save_tensors(tensors: Tensors, path: Path) -> None:
    """Write a safetensors file. Raises OSError where that fails, as other writing does."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value  # a set's order differs from process to process


def trainable_parameters(model: torch.nn.Module) -> int:
    """How many numbers training changes."""
    return sum(math.prod(p.shape) for p in model.parameters() if p.requires_grad)


def assert_float32(model: Any) -> None:
    """Adapters are float32 everywhere: bfloat16 loses updates, and resuming from it is not exact."""
    assert all(p.dtype == torch.float32 for name, p in model.named_parameters() if "lora_" in name)


def checkpoint_layers(model: Any, recipe: Recipe) -> None:
    """Make gradient checkpointing of `model` leave out the last `recipe.uncheckpointed_layers` decoder layers.

    It may be called before or after checkpointing is switched on, and holds when that is switched off and on again, as
    TRL does around DPO's reference. Gradients stay what they are; time is bought with memory. `untouched` undoes it.
    """
    if not recipe.uncheckpointed_layers:
        return
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    layers = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    switch = base._set_gradient_checkpointing

    def switch_and_leave_out(*args: Any, **kwargs: Any) -> None:
        switch(*args, **kwargs)
        for layer in layers[-recipe.uncheckpointed_layers :]:
            layer.gradient_checkpointing = False

    base._set_gradient_checkpointing = switch_and_leave_out
    for layer in layers[-recipe.uncheckpointed_layers :]:
        layer.gradient_checkpointing = False


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Undo on leaving what trainers do to `model` besides training it.

    TRL replaces its forward, sets dropout to 0 for DPO and hooks the embeddings for checkpointing (twice, and forgets
    the first hook); transformers switches checkpointing on and writes into the configuration (use_cache = False, which
    would make generation slow). Each of these would outlive the trainer and change the next trial.
    """
    holders = [vars(holder) for holder in (*model.modules(), model.config, model.generation_config)]
    kept = [(attributes, dict(attributes)) for attributes in holders]
    tables = [value for attributes in holders for value in attributes.values() if type(value) in (dict, OrderedDict)]
    kept += [(table, dict(table)) for table in tables]  # parts, hooks, and what PEFT keeps for each adapter
    try:
        yield
    finally:
        for attributes, before in kept:
            attributes.clear()
            attributes.update(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings about what PEFT, TRL and transformers call in each other, and about what a device cannot do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        yield


@contextmanager
def keep_float32(model: Any) -> Iterator[None]:
    """Keep trainable weights as they are while TRL's constructors cast those of a 4-bit model to bfloat16."""
    kept = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    yield
    for parameter, data in kept:
        parameter.data = data
    assert_float32(model)
