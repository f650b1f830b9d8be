"""All families that are held against transformers: the tests and the table of docs/families.md read this list."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.parity import decoder_families, encoder_decoder_families
from tests.parity.goldens import Golden, load


class Outcome(NamedTuple):
    """How far what is computed here is from what transformers computes, in float32.

    Attributes:
        logits: largest absolute difference of any logit, in rows with padding.
        packed: the same, with all examples in one row.
        loss: relative difference of the weighted sum of losses.
        gradient: largest relative difference of any parameter's gradient, ``|ours - theirs| / |theirs|``.
        clear: share of greedy tokens whose margin transformers sees above 1e-3.
        wrong: how many of these are other tokens, decoded with a cache.
    """

    logits: float
    packed: float
    loss: float
    gradient: float
    clear: float
    wrong: int


class Family(NamedTuple):
    """One row of the table.

    Attributes:
        title: the models that have it.
        golden: name of the golden file, which is that of a tiny model with every constant off its default.
        measure: a golden file to what comes of it here.
        write_folder: writes a golden model as a Hugging Face folder.
        logits_of_export: transformers' model and a golden file to the logits that the file should have.
    """

    title: str
    golden: str
    measure: Callable[[Golden], Outcome]
    write_folder: Callable[[Path, Golden], None]
    logits_of_export: Callable[[Any, Golden], Any]


def _decoder(title: str, model_type: str) -> Family:
    return Family(
        title,
        f"decoder_{model_type}",
        lambda golden: Outcome(**decoder_families.measure(golden)),
        decoder_families.write_folder,
        decoder_families.logits_of_export,
    )


def _encoder_decoder(title: str, golden: str) -> Family:
    return Family(
        title,
        golden,
        lambda held: Outcome(**encoder_decoder_families.measure(held)),
        partial(encoder_decoder_families.write_folder, case=golden),
        encoder_decoder_families.logits_of_export,
    )


#: Tested by test_families.py.
DECODERS = (
    _decoder("Llama 2, 3.x, SmolLM2", "llama"),
    _decoder("Mistral", "mistral"),
    _decoder("Qwen2.5", "qwen2"),
    _decoder("Qwen3", "qwen3"),
    _decoder("SmolLM3", "smollm3"),
    _decoder("Gemma 2", "gemma2"),
    _decoder("Gemma 3 (text)", "gemma3_text"),
    _decoder("OLMo 2", "olmo2"),
    _decoder("OLMo 3", "olmo3"),
    _decoder("PaLM's block (Command R)", "cohere"),
    _decoder("PaLM's block with windows (Command R7B)", "cohere2"),
)
#: Tested by test_t5.py and test_hf_export.py.
ENCODER_DECODERS = (
    _encoder_decoder("T5 1.0", "t5_1_0"),
    _encoder_decoder("T5 1.1, Flan-T5", "t5_1_1"),
    _encoder_decoder("T5 1.1 with a tied head", "t5_tied_gated"),
    _encoder_decoder("mT5", "t5_mt5"),
    _encoder_decoder("umT5", "t5_umt5"),
    _encoder_decoder("umT5 with a tied head", "t5_umt5_tied"),
    _encoder_decoder("ByT5", "t5_byt5"),
    _encoder_decoder("T5Gemma", "t5gemma_tied"),
    _encoder_decoder("T5Gemma with a head of its own", "t5gemma_untied"),
    _encoder_decoder("T5Gemma 2 (text)", "t5gemma2_tied"),
    _encoder_decoder("T5Gemma 2 (text) with a head of its own", "t5gemma2_untied"),
)
FAMILIES = (*DECODERS, *ENCODER_DECODERS)


def measured(family: Family) -> Outcome:
    """The outcome of one family."""
    return family.measure(load(family.golden))
