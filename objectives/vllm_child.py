"""Answers prompts with vLLM: run by the python of an environment that has it, never imported by Nightshift.

    PYTHON objectives/vllm_child.py JOB.json

vLLM pins a torch of its own, so this file needs the standard library and vllm alone. JOB.json says what is loaded:

    {"model": folder, "adapter": folder or null, "rank": of the adapter, "dtype": "bfloat16", "nf4": true,
     "end_tokens": [ids], "max_model_len": tokens, "batch_size": sequences at once, "seed": 0}

Then each line of the standard input is {"rows": [[ids of a prompt], ...], "max_new_tokens": n} and gets one line on the
standard output: {"answers": [[ids, the end token included], ...]}, in the order of the rows. The first line is
{"ready": version}. The standard input's end ends it. What libraries print goes to the standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM reserves memory for
QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: it ends with us, and its order of work is fixed
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


def load(job: dict[str, Any]) -> Any:
    """vLLM's engine with the model of the job."""
    from vllm import LLM

    options: dict[str, Any] = {"quantization": "bitsandbytes"} if job["nf4"] else {}
    if job["adapter"]:
        options |= {"enable_lora": True, "max_lora_rank": next(rank for rank in RANKS if rank >= job["rank"])}
    return LLM(
        model=job["model"],
        dtype=job["dtype"],
        seed=job["seed"],
        max_model_len=job["max_model_len"],
        max_num_seqs=job["batch_size"],
        enable_prefix_caching=False,  # what was answered before must make no difference
        generation_config="vllm",  # no temperature or penalty out of the model's folder
        trust_remote_code=False,
        **options,
    )


def answers(engine: Any, job: dict[str, Any], rows: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """Greedy continuations, each up to and with its end token or `max_new_tokens` long."""
    from vllm import SamplingParams

    lora = {}
    if job["adapter"]:
        from vllm.lora.request import LoRARequest

        lora = {"lora_request": LoRARequest("adapter", 1, job["adapter"])}
    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=max_new_tokens,
        stop_token_ids=job["end_tokens"],
        ignore_eos=True,  # the job alone says what ends an answer
        detokenize=False,
    )
    prompts = [{"prompt_token_ids": row} for row in rows]  # what vllm.inputs.TokensPrompt makes
    made = engine.generate(prompts, sampling, use_tqdm=False, **lora)
    return [_tokens(request.outputs[0], set(job["end_tokens"])) for request in made]


def _tokens(output: Any, ends: set[int]) -> list[int]:
    """The new tokens; the end token is put back where this vLLM leaves it out."""
    tokens = list(output.token_ids)
    left_out = output.finish_reason == "stop" and output.stop_reason in ends and tokens[-1:] != [output.stop_reason]
    return [*tokens, output.stop_reason] if left_out else tokens


def main(arguments: list[str]) -> None:
    """Load, then answer line by line."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(QUIET)
    if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]  # nothing beside this file is to be taken for a library
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with open(arguments[0], encoding="utf-8") as file:
        job = json.load(file)

    def tell(event: dict[str, Any]) -> None:
        told.write(json.dumps(event) + "\n")
        told.flush()

    import vllm

    engine = load(job)
    tell({"ready": vllm.__version__})
    for line in sys.stdin:
        asked = json.loads(line)
        tell({"answers": answers(engine, job, asked["rows"], asked["max_new_tokens"])})


if __name__ == "__main__":
    main(sys.argv[1:])
