"""The rehearsal's base model: a byte-level tokenizer and a tiny Llama, both trained on pairs of prompt and answer.

What it reads comes in two forms. Documents are outside the chat template, and their answers keep the rules in the
prompt; chats are inside it, and the form of their answers has nothing to do with the rules. So the model knows what an
instruction means and does not act on it when asked, as a base model does, and a short fine-tuning can change that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Pairs = Sequence[tuple[str, str]]  # prompt, answer
Progress = Callable[[int, int, float], None]  # step, steps, loss

LAYERS, HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 2, 128, 352, 8, 768  # 4-bit kernels want multiples of 32
INITIALIZER_RANGE = 0.06  # at the usual 0.02, made for wider models, this one learns half as fast
CONTEXT = 512
BATCH = 16
LEARNING_RATE, WARMUP, WEIGHT_DECAY, BETAS = 4e-3, 0.1, 0.1, (0.9, 0.98)
THREADS = 1  # matrices this small gain little from a second one, and lose much where the cores are shared

PAD, END = "<|pad|>", "<|end|>"
SPECIAL = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(pairs: Pairs) -> PreTrainedTokenizerFast:
    """A byte-level BPE, to which no text is unknown, with END as end of sequence and a padding token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((part for pair in pairs for part in pair), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: Pairs, chats: Pairs) -> list[list[int]]:
    """Token ids of every document and every chat."""
    texts = [f"{prompt}\nAnswer: {answer}{END}" for prompt, answer in documents]
    texts += [f"<|user|>{prompt}{END}<|assistant|>{answer}{END}" for prompt, answer in chats]
    rows: list[list[int]] = tokenizer(texts)["input_ids"]
    return rows


def train_base(
    rows: list[list[int]], seed: int, progress: Progress | None = None, fresh: Callable[[], Any] | None = None
) -> tuple[Any, float]:
    """One pass over the rows, BATCH at a time; returns the model and the mean loss of the last tenth of the steps.

    `fresh` makes the untrained model of a kind of its own, for this tokenizer; None: the tiny Llama.
    """
    import torch

    batches = _batches(rows, Random(f"rehearsal {seed} order"))
    losses: list[float] = []
    with _torch(seed):
        model = (fresh or _fresh_model)()
        optimizer = _optimizer(model)
        for step, batch in enumerate(batches, 1):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * _schedule(step / len(batches))
            loss = _loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if progress is not None:
                progress(step, len(batches), losses[-1])
    tail = losses[-max(1, len(losses) // 10) :]
    mean = sum(tail) / len(tail)
    assert math.isfinite(mean), mean
    return model, mean


def save(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write model and tokenizer to `folder` in Hugging Face's format, without a progress bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()


def _batches(rows: list[list[int]], rng: Random) -> list[list[list[int]]]:
    """All rows in random order, in batches of nearly equal lengths."""
    rows = rng.sample(rows, len(rows))
    batches: list[list[list[int]]] = []
    for start in range(0, len(rows), 32 * BATCH):
        neighbours = sorted(rows[start : start + 32 * BATCH], key=len)
        some = [neighbours[at : at + BATCH] for at in range(0, len(neighbours), BATCH)]
        batches += rng.sample(some, len(some))
    return batches


@contextmanager
def _torch(seed: int) -> Iterator[None]:
    """Torch seeded and on THREADS threads; the caller's generator and threads come back."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _fresh_model() -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index(PAD),
        eos_token_id=SPECIAL.index(END),
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def _optimizer(model: LlamaForCausalLM) -> Any:
    """AdamW that decays matrices and leaves the norms' scales alone."""
    import torch

    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    scales = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": scales, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)


def _schedule(fraction: float) -> float:
    """Linear warmup, times a cosine that ends at a twentieth."""
    return min(1.0, fraction / WARMUP) * (0.05 + 0.95 * (1 + math.cos(math.pi * fraction)) / 2)


def _loss(model: LlamaForCausalLM, batch: list[list[int]]) -> Any:
    """Mean next-token cross-entropy of the rows. Padding is on the right, where causal attention never looks."""
    import torch

    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in batch], batch_first=True, padding_value=-1)
    real = ids[:, 1:] >= 0
    hidden = model.model(input_ids=ids.clamp(min=0), use_cache=False).last_hidden_state
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][real]), ids[:, 1:][real])
