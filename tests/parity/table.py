"""Prints how far every family is from transformers, as a Markdown table; needs the extra `parity` for the way out.

    python -m tests.parity.table [--family decoder_gemma2]

In: transformers' tiny model as it stands in a golden file, read as a Hugging Face folder is. Out: the same model,
exported, opened in transformers, and its logits against those of the golden file.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from t5x_instruct.checkpoints.convert.hf_export import export_hf
from t5x_instruct.checkpoints.restore import open_source
from tests.parity.families import FAMILIES, Family, Outcome, measured
from tests.parity.goldens import load

HEADER = ("family", "in: logits", "in: packed", "in: gradient", "in: wrong greedy tokens", "out: logits")


def way_out(family: Family) -> float:
    """Largest difference of the exported model's logits in transformers.

    Raises:
        AssertionError: transformers misses a tensor, or has one left over.
    """
    import transformers

    golden = load(family.golden)
    with tempfile.TemporaryDirectory() as folder:
        given, exported = Path(folder) / "in", Path(folder) / "out"
        family.write_folder(given, golden)
        source = open_source(str(given))
        export_hf(source.tensors, source.model_config, source.vocabulary, exported, context_length=64)
        auto = transformers.AutoModelForCausalLM
        if transformers.AutoConfig.from_pretrained(exported).is_encoder_decoder:
            auto = transformers.AutoModelForSeq2SeqLM
        model, info = auto.from_pretrained(exported, output_loading_info=True, attn_implementation="eager")
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        return float(np.abs(family.logits_of_export(model.float().eval(), golden) - golden["logits"]).max())


def markdown(found: Mapping[str, tuple[Outcome, float | None]]) -> str:
    """The table of these families; None: the way out has not been run."""
    lines = [HEADER, ("---",) * len(HEADER)]
    for family in FAMILIES:
        if family.golden in found:
            outcome, out = found[family.golden]
            numbers = [f"{value:.1e}" for value in (outcome.logits, outcome.packed, outcome.gradient)]
            last = "not run" if out is None else f"{out:.1e}"
            lines.append((family.title, *numbers, str(outcome.wrong), last))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [family.golden for family in FAMILIES]
    parser.add_argument("--family", choices=names, action="append", help="default: all")
    chosen = parser.parse_args().family or names
    can_go_out = importlib.util.find_spec("transformers") is not None
    found = {}
    for family in FAMILIES:
        if family.golden in chosen:
            found[family.golden] = measured(family), way_out(family) if can_go_out else None
    print(markdown(found))


if __name__ == "__main__":
    main()
