"""The peak memory of a training step, found by running the step of the installed libraries on fake tensors.

    python -m train.planning.simulate < shapes.json       # a list of Shape; prints a list of Simulation
    python -m train.planning.simulate calibrate           # measures this machine's card, for train.planning.calibration

A process of its own, because it replaces functions of the libraries (see `fakes`) and takes seconds to start.
The peak in each phase of a step is affine in the number of layers, checkpointed and not: a few shallow models are
run, and the phases' peaks extrapolated to the real depth.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

from train.imports import collector_paused
from train.planning.calibration import Calibration, keep, used_bytes
from train.planning.simulated import Shape, Simulation
from train.recipe import RecipeError

with collector_paused():  # half of a cold simulation is imports
    import bitsandbytes as bnb
    import peft
    import torch
    import transformers
    from torch._subclasses.fake_tensor import FakeTensorMode
    from trl.trainer import utils as trl_utils

    from train.packing import ATTENTION, MicroBatch, attention_of
    from train.planning import answering, fakes
    from train.sft import token_losses

_SHALLOW = 2  # layers of the smaller model: the first and the last are not as those between

Peaks = dict[str, Counter[str]]


def simulate(shape: Shape) -> Simulation:
    """The simulation of one shape, its depth extrapolated. Patches must be in place; see main."""
    whole = shape.uncheckpointed_layers if shape.checkpointing and shape.stage != "answer" else shape.layers
    runs = {depths: step_peaks(shape, *depths) for depths in _depths(shape.layers - whole, whole)}
    phases = {name: _at_depth(runs, name, shape.layers - whole, whole) for name in next(iter(runs.values()))}
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    memory = {name: round(size) for name, size in phases[phase].items() if round(size)}
    return Simulation(
        peak_bytes=sum(memory.values()),
        memory=memory,
        phase=phase,
        phases={name: round(sum(peak.values())) for name, peak in phases.items()},
    )


def _depths(checkpointed: int, whole: int) -> list[tuple[int, int]]:
    """Numbers of layers, checkpointed and not, of the shallow models; the model's own where it is shallow itself."""
    if checkpointed + whole <= _SHALLOW + 1:
        return [(checkpointed, whole)]
    low = (min(checkpointed, _SHALLOW), min(whole, _SHALLOW))
    depths = [low]
    if checkpointed > low[0]:
        depths.append((low[0] + 1, low[1]))
    if whole > low[1]:
        depths.append((low[0], low[1] + 1))
    return depths


def _at_depth(runs: Mapping[tuple[int, int], Peaks], phase: str, checkpointed: int, whole: int) -> dict[str, float]:
    (c, w), first = next(iter(runs.items()))
    found: dict[str, float] = dict(first[phase])
    for (more_c, more_w), peaks in list(runs.items())[1:]:
        times = (checkpointed - c) if more_c > c else (whole - w)
        assert more_c - c + more_w - w == 1
        for name in {*found, *peaks[phase]}:
            found[name] = found.get(name, 0.0) + times * (peaks[phase][name] - first[phase][name])
    return found


# One step of a shallow model


def step_peaks(shape: Shape, checkpointed: int, whole: int) -> Peaks:
    """The categories' bytes at the peak of each phase of one optimizer step, its states already there."""
    dtype = getattr(torch, shape.dtype)
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=shape.rank,
        lora_dropout=0.1 if shape.dropout and shape.stage == "sft" else 0.0,  # DPO switches dropout off
        target_modules=shape.targets if isinstance(shape.targets, str) else list(shape.targets),
        use_dora=shape.dora,
    )
    tracker = fakes.Tracker(shape.device)
    tracker.transient = fakes.inside_kernels
    if shape.device == "cuda":
        fakes.as_on_cuda()
    model = fakes.build(shape.config, checkpointed + whole, lora, dtype, shape.double_quantization)
    others = torch.float32 if shape.upcast else dtype
    with FakeTensorMode(allow_non_fake_inputs=True), tracker, ExitStack() as stack:
        if shape.stage == "dpo":
            model.add_adapter("ref", lora, low_cpu_mem_usage=True)
        fakes.materialise(model, dtype, others, shape.double_quantization, tracker)
        if shape.stage == "answer":
            answering.answer(model, shape, tracker)
            return tracker.peaks
        _prepare(model, shape, checkpointed, whole, tracker)
        stack.enter_context(attention_of(model.get_base_model(), ATTENTION if _packed(shape) else "sdpa"))
        _step(model, shape, tracker)
        del model
    return _named(tracker.peaks, checkpointed, whole)


def _packed(shape: Shape) -> bool:
    return shape.packing and shape.stage == "sft"


def _prepare(model: Any, shape: Shape, checkpointed: int, whole: int, tracker: fakes.Tracker) -> None:
    """Training mode, checkpointing on the first layers, and marks of the phases on every layer."""
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name and ".ref." not in name)
    base = model.get_base_model()
    if shape.stage == "dpo":
        trl_utils.add_fused_lm_head(base)
    if checkpointed:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    layers = base.base_model.layers
    for number, layer in enumerate(layers):
        if number >= checkpointed:
            layer.gradient_checkpointing = False
        layer.register_forward_hook(_marks(tracker, number, number == len(layers) - 1))


def _marks(tracker: fakes.Tracker, number: int, last: bool) -> Any:
    def mark(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda _: tracker.enter(f"layer {number}", "workspace"))
        if last:
            tracker.enter("loss", "loss")

    return mark


def _step(model: Any, shape: Shape, tracker: fakes.Tracker) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tracker.category = "optimizer"
    optimizer = _optimizer(shape, trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    if shape.accumulates:  # the second micro-batch of a step: the first one's gradients are there
        tracker.keep((parameter.grad for parameter in trained), "gradients")
    else:
        optimizer.zero_grad()
    tracker.forget()
    tracker.enter("forward", "activations")
    loss, _output = _loss(model, shape)  # the output, logits and all, lives while its caller looks at the loss
    tracker.enter("head")
    torch.autograd.backward(loss)
    tracker.keep((parameter.grad for parameter in trained), "gradients")
    tracker.enter("step", "workspace")
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()


def _optimizer(shape: Shape, trained: list[torch.nn.Parameter]) -> Any:
    if shape.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=1e-4, fused=not shape.upcast)
    return bnb.optim.AdamW8bit(trained, lr=1e-4)  # a paged one takes the same, though not for good


def _loss(model: Any, shape: Shape) -> tuple[torch.Tensor, Any]:
    """The loss of a micro-batch, and what else its caller holds."""
    rows = shape.micro_batch_size * (2 if shape.stage == "dpo" else 1)
    base = model.get_base_model()
    with fakes.autocast(shape.dtype == "bfloat16" and not shape.upcast):
        if shape.full_logits:
            ids = torch.zeros(rows, shape.length, dtype=torch.long)
            output = base(input_ids=ids, labels=ids)
            return output.loss, output
        if shape.stage == "dpo":
            return _dpo_loss(model, rows, shape.length), None
        losses = token_losses(SimpleNamespace(model=base), _batch(shape))  # type: ignore[arg-type]
        return losses.sum() / 64, None


def _batch(shape: Shape) -> MicroBatch:
    """A micro-batch as full as may be, every token of which is learned."""
    rows, lengths = shape.micro_batch_size, (shape.length,) * shape.micro_batch_size
    if _packed(shape):
        ids = torch.zeros(1, rows * shape.length, dtype=torch.long)
        inputs = {"input_ids": ids, "position_ids": ids.clone(), "document_lengths": lengths}
        return MicroBatch(inputs, ids.clone(), lengths)
    ids = torch.zeros(rows, shape.length, dtype=torch.long)
    return MicroBatch({"input_ids": ids, "attention_mask": ids.clone()}, ids.clone(), lengths)


def _dpo_loss(model: Any, rows: int, length: int) -> torch.Tensor:
    """What TRL's DPOTrainer computes, its metrics apart: the policy first, then the reference without gradients."""
    ids = torch.zeros(rows, length, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids.clone(), "use_cache": False}
    labels = ids.clone()
    policy = model(**inputs, labels=labels, fused_lm_head=True).log_probs.sum(dim=1)
    with torch.no_grad(), _unchecked(model):
        model.set_adapter("ref", inference_mode=True)
        reference = model(**inputs, labels=labels, fused_lm_head=True).log_probs.sum(dim=1)
        model.set_adapter("default")
    chosen, rejected = (policy - reference).chunk(2, dim=0)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()


@contextmanager
def _unchecked(model: Any) -> Iterator[None]:
    """Without checkpointing in the block; layers that had none have none afterwards either."""
    before = [(layer, layer.gradient_checkpointing) for layer in model.get_base_model().base_model.layers]
    for layer, _ in before:
        layer.gradient_checkpointing = False
    yield
    for layer, was in before:
        layer.gradient_checkpointing = was


def _named(peaks: Peaks, checkpointed: int, whole: int) -> Peaks:
    """The phases by what they are in a model of any depth: between two of them, a peak changes evenly."""
    last = checkpointed + whole - 1
    names = {"top": last, "bottom": 0}
    if checkpointed and whole:
        names |= {"lowest whole": checkpointed, "highest checkpointed": checkpointed - 1}
    backward = {name: peaks[f"layer {number}"] for name, number in names.items()}
    return {name: peaks[name] for name in ("forward", "loss", "head", "step")} | backward


def calibrate() -> Calibration:
    """Measure this machine's card, and keep the result. The card should have nothing else to do meanwhile.

    Raises RecipeError where torch sees no card.
    """
    before = used_bytes()
    if not torch.cuda.is_available():
        raise RecipeError("there is no CUDA device to calibrate: check nvidia-smi, and that torch is a CUDA build")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in training
    left = torch.ones(512, 512, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    torch.autograd.grad((left @ left).sum(), left)  # a cuBLAS handle and its workspace, forward and backward
    torch.cuda.synchronize()
    measured = Calibration(
        card=torch.cuda.get_device_name(0),
        torch=torch.__version__,
        context_bytes=max(0, used_bytes() - before - torch.cuda.memory_reserved()),
        constant_bytes=max(0, torch.cuda.memory_allocated() - left.numel() * left.element_size()),
    )
    keep(measured)
    return measured


def main(argv: list[str]) -> Iterator[str]:
    """What the program prints, line by line."""
    transformers.utils.logging.set_verbosity_error()
    if argv == ["calibrate"]:
        yield calibrate().model_dump_json()
        return
    fakes.patch_codes()
    shapes = [Shape.model_validate_json(json.dumps(shape)) for shape in json.load(sys.stdin)]
    for shape in shapes:
        yield simulate(shape).model_dump_json()


if __name__ == "__main__":
    try:
        for line in main(sys.argv[1:]):
            sys.stdout.write(line + "\n")
    except RecipeError as error:
        sys.exit(str(error))
