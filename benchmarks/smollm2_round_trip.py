"""SmolLM2 from its GGUF file to a safetensors folder: does transformers answer the same?

    python benchmarks/smollm2_round_trip.py ours --gguf SmolLM2-135M-Instruct.Q4_1.gguf --folder /tmp/smollm2
    python benchmarks/smollm2_round_trip.py theirs --folder /tmp/smollm2

The first reads the file, exports it as float32, and keeps our logits and greedy answer of 32 tokens to a prompt beside
it. The second, which may run where only torch and transformers are installed, opens the folder and compares.
"""

import argparse
from pathlib import Path

import numpy as np

PROMPT = "Give three tips for staying healthy."
NEW_TOKENS = 32
RESULT = "ours.npz"


def ours(gguf: Path, folder: Path) -> None:
    """Exports, and keeps prompt, logits and answer."""
    import jax

    from t5x_instruct.checkpoints.convert.hf_export import export_hf
    from t5x_instruct.checkpoints.restore import open_source
    from t5x_instruct.decoding.language_model import LanguageModel
    from t5x_instruct.models.presets import make_model

    source = open_source(str(gguf))
    assert source.vocabulary is not None
    export_hf(source.tensors, source.model_config, source.vocabulary, folder, context_length=8192)
    params = source.params_fn(None)
    lm = LanguageModel(make_model(source.model_config), params, source.vocabulary)
    ids = np.asarray(lm.prompt_ids(PROMPT), np.int32)
    answer = lm.generate([PROMPT], max_new_tokens=NEW_TOKENS)[0]
    hidden = jax.jit(lm.model.hidden)(params, {"decoder_input_tokens": ids[None]})
    logits = np.asarray(lm.model.logits(params, hidden))[0, :, : source.model_config.vocab_size]
    np.savez(folder / RESULT, ids=ids, logits=logits, answer=answer)
    print(f"{source.description}\nours: {answer!r}")


def theirs(folder: Path) -> None:
    """Opens the folder in transformers and compares."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with np.load(folder / RESULT, allow_pickle=False) as file:
        kept = dict(file)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": PROMPT}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        logits = model(tokens).logits[0].numpy()
        new = model.generate(tokens, max_new_tokens=NEW_TOKENS, do_sample=False)[0, len(ids) :]
    answer = tokenizer.decode(new, skip_special_tokens=True)
    print(f"theirs: {answer!r}")
    print(f"prompt: {len(ids)} tokens, the same: {ids == kept['ids'].tolist()}")
    print(f"largest difference of logits: {np.abs(logits - kept['logits']).max():.2e}")
    print(f"answers of {len(new)} tokens the same: {answer == str(kept['answer'])}")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("side", choices=("ours", "theirs"))
    parser.add_argument("--gguf", type=Path, help="the file; of ours only")
    parser.add_argument("--folder", type=Path, required=True, help="where the model is exported to")
    args = parser.parse_args()
    if args.side == "theirs":
        theirs(args.folder)
    elif args.gguf is None:
        parser.error("ours needs --gguf")
    else:
        ours(args.gguf, args.folder)


if __name__ == "__main__":
    main()
