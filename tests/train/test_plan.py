"""The plan: peft's parameters, bitsandbytes' storage, and how what a recipe says adds up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.planning.plan import TARGET_MODULES, BaseFacts, facts_of_config, plan
from train.recipe import Base, Recipe, RecipeError, Source, Targets

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
MISTRAL = {**LLAMA, "model_type": "mistral", "vocab_size": 32768, "max_position_embeddings": 32768}
QWEN = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
}
CONFIGS = {"llama": LLAMA, "mistral": MISTRAL, "qwen2": QWEN}
TINY = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
}
GIB = 2**30


def recipe(**changes: Any) -> Recipe:
    sources = (Source(name="a", path="a.jsonl"), Source(name="b", path="b.jsonl", use="preference"))
    return Recipe(**{"base": Base(model="base"), "sources": sources, "examples": 1600, **changes})


# Trainable parameters


def on_meta(name: str, layers: int) -> Any:
    import torch
    import transformers

    classes = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}
    config = getattr(transformers, f"{classes[name]}Config")(**{**CONFIGS[name], "num_hidden_layers": layers})
    with torch.device("meta"):
        return getattr(transformers, f"{classes[name]}ForCausalLM")(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_trainable_parameters_are_exactly_those_of_peft(name: str) -> None:
    """Nine cases for each of three models, module by module, at their real widths (depth multiplies)."""
    from peft import LoraConfig, get_peft_model

    depth = CONFIGS[name]["num_hidden_layers"]
    model = on_meta(name, layers=4)
    facts = facts_of_config(CONFIGS[name])
    targets: Targets
    for targets in ("all-linear", "attention-qv", "mlp"):
        for rank in (8, 16, 64):
            planned = plan(recipe(rank=rank, targets=targets), facts, "cuda")
            config = LoraConfig(r=rank, target_modules=list(TARGET_MODULES[targets]), task_type="CAUSAL_LM")
            wrapped = get_peft_model(model, config, low_cpu_mem_usage=True)
            found: dict[str, int] = {}
            for parameter, tensor in wrapped.named_parameters():
                if "lora_" in parameter:
                    module = parameter.split(".lora_")[0].rsplit(".", 1)[1]
                    found[module] = found.get(module, 0) + tensor.numel()
            assert {layer.module: layer.parameters * 4 for layer in planned.layers} == found
            assert planned.trainable_parameters * 4 == sum(found.values()) * depth
            assert all(layer.count == depth for layer in planned.layers)
            model = wrapped.unload()


def test_all_linear_is_what_peft_means_by_it() -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(on_meta("qwen2", layers=1), config, low_cpu_mem_usage=True)
    found = sum(tensor.numel() for name, tensor in wrapped.named_parameters() if "lora_" in name)
    assert found * 28 == plan(recipe(rank=8), facts_of_config(QWEN), "cuda").trainable_parameters


@pytest.mark.parametrize(
    ("config", "targets", "expected"),
    [
        (LLAMA, "all-linear", (20_971_520, 41_943_040, 167_772_160)),
        (MISTRAL, "all-linear", (20_971_520, 41_943_040, 167_772_160)),
        (QWEN, "all-linear", (20_185_088, 40_370_176, 161_480_704)),
        (LLAMA, "attention-qv", (3_407_872, 6_815_744, 27_262_976)),
        (QWEN, "attention-qv", (2_523_136, 5_046_272, 20_185_088)),
    ],
)
def test_trainable_parameters_that_are_known(config: Any, targets: Targets, expected: tuple[int, ...]) -> None:
    facts = facts_of_config(config)
    found = tuple(plan(recipe(rank=r, targets=targets), facts, "cuda").trainable_parameters for r in (8, 16, 64))
    assert found == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_gives_the_models_own_number_of_parameters(name: str) -> None:
    one, two = (sum(p.numel() for p in on_meta(name, layers).parameters()) for layers in (1, 2))
    assert facts_of_config(CONFIGS[name]).parameters == one + (CONFIGS[name]["num_hidden_layers"] - 1) * (two - one)


def test_targets_that_a_model_does_not_have_are_refused() -> None:
    facts = facts_of_config(TINY)
    without = facts.model_copy(update={"linears": tuple(x for x in facts.linears if x.name in ("q_proj", "v_proj"))})
    with pytest.raises(RecipeError, match=r"targets = 'mlp' puts LoRA on gate_proj, .* \(it has q_proj, v_proj\)"):
        plan(recipe(targets="mlp"), without, "cpu")


# Memory


def test_nf4_takes_what_bitsandbytes_takes() -> None:
    import bitsandbytes as bnb
    import torch

    facts = facts_of_config({**TINY, "num_hidden_layers": 1, "hidden_size": 1024, "intermediate_size": 2816})
    taken = 0
    for linear in facts.linears:
        weight = bnb.nn.Params4bit(torch.zeros(linear.outputs, linear.inputs), quant_type="nf4").to("cpu")
        nested = weight.quant_state.state2
        taken += weight.nbytes + weight.quant_state.absmax.nbytes + nested.absmax.nbytes
    others = 4 * (facts.parameters - facts.linear_parameters)
    planned = plan(recipe(), facts, "cpu").memory["weights"] - others
    assert taken <= planned <= taken + 7 * 5 * 512


@pytest.mark.parametrize(("config", "weights"), [(LLAMA, 5.31), (MISTRAL, 3.85), (QWEN, 5.17)])
def test_the_reference_models_fit_the_reference_card_with_checkpointing_only(config: Any, weights: float) -> None:
    facts, limit = facts_of_config(config), 12 * GIB - 300 * 2**20
    checkpointed = plan(recipe(max_length=2048, gradient_checkpointing=True), facts, "cuda")
    assert checkpointed.memory["weights"] / GIB == pytest.approx(weights, abs=0.01)
    assert checkpointed.fits(limit)
    assert not plan(recipe(max_length=2048, gradient_checkpointing=False), facts, "cuda").fits(limit)


def test_a_regular_expression_counts_the_modules_that_it_picks(llama: BaseFacts) -> None:
    all_layers = plan(recipe(rank=16, targets="attention-qv"), llama, "cuda")
    some = plan(recipe(rank=16, targets=r".*\.(1[6-9]|2\d|3\d)\..*\.(q|v)_proj"), llama, "cuda")
    assert some.trainable_parameters == all_layers.trainable_parameters / 2
    assert {layer.module: layer.count for layer in some.layers} == {"q_proj": 16, "v_proj": 16}


def test_dora_adds_a_number_for_each_output(llama: BaseFacts) -> None:
    plain, dora = (plan(recipe(rank=16, targets="mlp", use_dora=on), llama, "cuda") for on in (False, True))
    assert dora.trainable_parameters - plain.trainable_parameters == 32 * (14336 + 14336 + 4096)
    assert dora.peak_bytes > plain.peak_bytes


recipes = st.builds(
    recipe,
    rank=st.sampled_from([4, 16, 64]),
    targets=st.sampled_from(sorted(TARGET_MODULES)),
    max_length=st.integers(8, 4096),
    dropout=st.sampled_from([0.0, 0.1]),
    optimizer=st.sampled_from(["adamw", "adamw_8bit", "paged_adamw_8bit"]),
    micro_batch_size=st.sampled_from([1, 2, 4]),
    gradient_checkpointing=st.booleans(),
    packing=st.booleans(),
    dpo_share=st.sampled_from([0.0, 0.2]),
)
devices = st.sampled_from(["cuda", "cpu"])


@pytest.fixture(scope="module")
def llama() -> BaseFacts:
    return facts_of_config(LLAMA)


@given(recipes, devices)
def test_the_categories_add_up_to_the_peak(chosen: Recipe, device: Any) -> None:
    planned = plan(chosen, facts_of_config(LLAMA), device)
    assert planned.peak_bytes == sum(planned.memory.values()) == max(planned.stage_bytes.values())
    assert all(size >= 0 for size in planned.memory.values())
    assert planned.fits(planned.peak_bytes)
    assert not planned.fits(planned.peak_bytes - 1)


@given(recipes, devices)
def test_more_of_anything_never_takes_less(chosen: Recipe, device: Any) -> None:
    facts = facts_of_config(LLAMA)
    peak = plan(chosen, facts, device).peak_bytes
    for change in (
        {"rank": chosen.rank * 2},
        {"max_length": chosen.max_length * 2},
        {"micro_batch_size": chosen.micro_batch_size * 2},
        {"dpo_share": 0.3},
        {"targets": "all-linear"},
    ):
        assert plan(chosen.model_copy(update=change), facts, device).peak_bytes >= peak
    lighter = chosen.model_copy(update={"optimizer": "adamw_8bit"})
    assert plan(lighter, facts, device).peak_bytes <= peak


@given(recipes)
def test_work_is_counted_from_the_recipe(chosen: Recipe) -> None:
    planned = plan(chosen, facts_of_config(TINY), "cpu")
    assert (planned.steps, planned.sft_steps + planned.dpo_steps) == (chosen.steps, chosen.steps)
    length = min(chosen.max_length, 512)  # the model's own positions
    assert planned.tokens_at_most == (chosen.sft_steps + 2 * chosen.dpo_steps) * chosen.batch_size * length


def test_flops_of_an_8b_model_are_near_those_counted_by_simulation(llama: BaseFacts) -> None:
    with_checkpoints = plan(recipe(max_length=2048, gradient_checkpointing=True), llama, "cuda").flops_per_token
    without = plan(recipe(max_length=2048), llama, "cuda").flops_per_token
    assert 46e9 < with_checkpoints < 49e9
    assert 30e9 < without < 33.5e9
