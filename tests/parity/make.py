"""Makes the golden files; needs the extra `parity` (torch and transformers).

    python -m tests.parity.make --out tests/golden [--case llama_untied]

Each file holds a tiny random model, inputs, and what transformers makes of them in float32. Every constant is off its
default, and positions and distances go far, so that a constant that is not read shows. Read a file with
``numpy.load(path, allow_pickle=False)``. In all files:

- ``config`` (decoder families, T5Gemma 2): JSON, `config.json` as transformers writes it.
- ``settings`` (Llama, T5, T5Gemma): JSON, the configuration by transformers' names. T5's ``tied_head`` and ``scale``
  say whether the head is the embedding and whether the decoder's output is multiplied by ``d_model ** -0.5``.
- ``tensor/NAME``, ``grad/NAME``: weights, and the gradient of the loss by them, under transformers' names; of
  T5Gemma 2 the text part's.
- Decoder families: ``tokens`` int32 [batch, length], of which row b's first ``lengths[b]`` are no padding; logits of
  padding are 0.
- Llama: ``tokens``, ``positions`` int32 [batch, length]. T5, T5Gemma (2): ``inputs`` int32 [batch, source], of which
  row b's first ``input_lengths[b]`` are no padding; the decoder is fed the start id and the targets but the last.
- ``targets`` int32 and ``weights`` float32 [batch, length]; ``logits`` [batch, length, vocab]; ``loss``, the weighted
  sum of cross-entropies.
- ``generated`` int32 and ``margins`` float32 [batch, steps]: greedy tokens, and the difference between the two largest
  logits. Decoders go on from a row's first ``prompt_lengths[b]`` tokens, T5 from its inputs.

Some files also hold beam search with `num_beams` beams, ``length_penalty=0.0`` and ``early_stopping="never"``, so that
the answer is the likeliest of all that the search has seen:

- ``beam/prompts`` int32 [rows, longest], of which row b's first ``beam/prompt_lengths[b]`` are the prompt (T5: the
  encoder's tokens, as they are, without an end token).
- ``beam/num_beams``, ``beam/eos_id``, ``beam/pad_id``: int32 scalars.
- ``beam/sequences`` int32 [rows, max_new_tokens]: transformers' best answer with its end token, then `pad_id`.
- ``beam/scores`` float32 [rows]: its sum of log-probabilities, the end token's included.
- ``beam/gaps`` float32 [rows]: how much more than the second best answer's.
- ``beam/wider_sequences``, ``beam/wider_scores``: the same by a plain search (checked against transformers' with its
  rule) that accepts an end among the best 2 x num_beams candidates, as T5 was evaluated, and not only among the best
  num_beams.

Only prompts whose best answers end are kept: at `max_new_tokens` transformers lets unfinished answers compete with
finished ones.
"""

import argparse
from pathlib import Path

import numpy as np

from tests.parity import golden_decoders, golden_llama, golden_t5, golden_t5gemma, golden_t5gemma2

_MAKERS = (golden_llama, golden_t5, golden_t5gemma, golden_t5gemma2)
MAKERS = {case: maker.compute for maker in _MAKERS for case in maker.CASES}
MAKERS |= {f"decoder_{family}": golden_decoders.compute for family in golden_decoders.CASES}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--case", choices=sorted(MAKERS), action="append", help="default: all")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in arguments.case or sorted(MAKERS):
        path = arguments.out / f"{case}.npz"
        np.savez_compressed(path, **MAKERS[case](case))
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
