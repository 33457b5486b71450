"""What `nightshift latency` shows. Only search.cli uses it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from search.score_view import counted, table
from train.rundir import Json


def render(measured: Json) -> RenderableType:
    """Times by length of the prompt, then sizes."""
    arms = measured["arms"]
    together = ", measured by turns" if len(arms) > 1 else ""
    head = f"{' and '.join(arm['name'] for arm in arms)}{together}"
    parts: list[RenderableType] = [Text(head, style="bold"), Text(_where(measured)), "", _times(measured), ""]
    parts += [Text(line) for line in _left_out(measured)]
    parts += [_sizes(arms), "", Text(_meaning(measured)), ""]
    return Group(*parts)


def _where(measured: Json) -> str:
    versions = measured["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "bitsandbytes"))
    threads = f", {counted(measured['threads'], 'thread')}" if measured["device"].startswith("cpu") else ""
    weights = {"nf4": "weights in NF4", "full": "weights in full precision"}[measured["weights"]]
    return f"{measured['device']}{threads}; {weights}; {libraries}"


def _times(measured: Json) -> RenderableType:
    made = table("Latency, one prompt at a time")
    for heading in (
        "prompt",
        "model",
        "first token, s",
        "p95",
        "each further, ms",
        "p95",
        "tokens/s",
        "p95",
        "peak, MiB",
    ):
        made.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=heading != "model")
    for rows in zip(*(arm["latency"] for arm in measured["arms"]), strict=True):
        for arm, row in zip(measured["arms"], rows, strict=True):
            first, each, rate = row["first_token_s"], row["per_token_s"], row["tokens_per_s"]
            made.add_row(
                str(row["prompt_tokens"]) if row is rows[0] else "",
                arm["name"],
                *(f"{first[p]:.4f}" for p in ("p50", "p95")),
                *(f"{1000 * each[p]:.2f}" for p in ("p50", "p95")),
                *(f"{rate[p]:.1f}" for p in ("p50", "p95")),
                f"{row['peak_memory_bytes'] / 2**20:,.0f}",
            )
    return made


def _left_out(measured: Json) -> Iterator[str]:
    if measured["left_out"]:
        yield (
            f"left out: prompts of {' and '.join(map(str, measured['left_out']))} tokens; the model's positions leave "
            f"room for {measured['longest_prompt']} beside the new ones"
        )
        yield ""


def _sizes(arms: list[Json]) -> RenderableType:
    made = table("Size")
    for heading in ("model", "parameters", "of them trained", "on disk, MiB", "adapter, MiB", "loaded, MiB"):
        made.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=heading != "model")
    for arm in arms:
        size = arm["size"]
        sizes = (size["base_bytes"], size["adapter_bytes"], size["loaded_bytes"])
        counts = (size["total_parameters"], size["trainable_parameters"])
        made.add_row(arm["name"], *(f"{n:,}" for n in counts), *map(_mib, sizes))
    return made


def _mib(size: int) -> str:
    return f"{size / 2**20:,.{3 if size < 10 * 2**20 else 1}f}"


def _meaning(measured: Json) -> str:
    one = measured["arms"][0]["latency"][0]
    peak = (
        "the most that the whole process held so far"
        if measured["device"].startswith("cpu")
        else "the most that was allocated during a run, everything loaded included"
    )
    return (
        f"median and 95th percentile (95 of 100 runs are as fast or faster) of {one['runs']} runs after "
        f"{measured['warmups']} unmeasured ones, {one['new_tokens']} new tokens each, no end token observed; "
        f"tokens/s: over the whole run; peak: {peak}; a base beside its adapter is measured with it switched off"
    )
