"""What the makers of all families' golden files share. Needs torch and transformers."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

Arrays = dict[str, np.ndarray]
NextLogits = Callable[[np.ndarray, list[int]], Any]
NUM_BEAMS, NEW_TOKENS, LONGEST_PROMPT, PAD_ID = 3, 24, 30, 0
# Of encoder-decoders: beyond every window and every largest distance.
INPUT_LENGTHS, TARGETS = np.array([30, 17, 26], np.int32), 25


def named(model: Any) -> Iterator[tuple[str, Any]]:
    """The model's parameters by name, each once; without those that are frozen."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def draw(
    model: Any,
    seed: int,
    stddev: Callable[[str, tuple[int, ...]], float | None],
    centre: Callable[[str], float] = lambda name: 1.0,
) -> None:
    """Draws all weights with NumPy.

    Args:
        model: a transformers model.
        seed: of NumPy's generator.
        stddev: of a matrix by its name and shape; None: 1.5 / sqrt of the fan-in.
        centre: what a vector's numbers are drawn around.
    """
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in named(model):
            noise = rng.normal(size=tuple(parameter.shape))
            scale = stddev(name, tuple(parameter.shape))
            if parameter.ndim == 1:
                drawn = centre(name) + 0.3 * noise
            else:
                drawn = noise * (1.5 * parameter.shape[-1] ** -0.5 if scale is None else scale)
            parameter.copy_(torch.tensor(drawn, dtype=torch.float32))


def loss_and_gradients(model: Any, logits: Any, targets: np.ndarray, weights: np.ndarray) -> Arrays:
    """The weighted sum of cross-entropies, all weights, and all gradients."""
    log_p = torch.log_softmax(logits, -1)
    chosen = log_p.gather(-1, torch.tensor(targets)[..., None])[..., 0]
    loss = -(chosen * torch.tensor(weights)).sum()
    loss.backward()
    out = {"logits": logits.detach().numpy(), "loss": np.float32(loss.item())}
    for name, parameter in named(model):
        out[f"tensor/{name}"] = parameter.detach().numpy()
        out[f"grad/{name}"] = parameter.grad.numpy()
    return out


def greedy(next_logits: NextLogits, prompts: list[np.ndarray], steps: int) -> Arrays:
    """Greedy continuations, each row by itself and without a cache.

    Args:
        next_logits: from a prompt and the new tokens to the logits [vocab] of the next.
        prompts: of any length.
        steps: new tokens.
    """
    generated, margins = [], []
    for prompt in prompts:
        tokens: list[int] = []
        gaps: list[float] = []
        for _ in range(steps):
            with torch.no_grad():
                best = next_logits(prompt, tokens).topk(2)
            tokens.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
        generated.append(tokens)
        margins.append(gaps)
    return {"generated": np.array(generated, np.int32), "margins": np.array(margins, np.float32)}


def encoder_decoder(
    model: Any, rng: np.random.Generator, *, vocab_size: int, start_id: int, lowest_id: int = 0
) -> Arrays:
    """What every encoder-decoder's file holds: inputs with padding, targets, and what the model makes of them.

    Args:
        model: a transformers model.
        rng: draws ids and weights.
        vocab_size: number of ids.
        start_id: the decoder's first token.
        lowest_id: of the ids that are drawn.
    """
    rows, longest = len(INPUT_LENGTHS), INPUT_LENGTHS.max()
    inputs = rng.integers(lowest_id, vocab_size, (rows, longest))
    mask = np.arange(longest) < INPUT_LENGTHS[:, None]
    targets = rng.integers(lowest_id, vocab_size, (rows, TARGETS))
    fed = np.concatenate([np.full((rows, 1), start_id), targets[:, :-1]], axis=1)
    weights = (rng.random((rows, TARGETS)) < 0.6) * rng.choice([0.5, 1.0, 2.0], (rows, TARGETS))
    logits = _encoded_decoded(model, inputs, mask, fed)
    out = {
        "inputs": inputs.astype(np.int32),
        "input_lengths": INPUT_LENGTHS,
        "targets": targets.astype(np.int32),
        "weights": weights.astype(np.float32),
    }
    out |= loss_and_gradients(model, logits, targets, weights)
    prompts = [inputs[row, :length] for row, length in enumerate(INPUT_LENGTHS)]
    return out | greedy(next_of_encoder_decoder(model, start_id), prompts, TARGETS)


def next_of_encoder_decoder(model: Any, start_id: int) -> NextLogits:
    """The logits after a prompt that the encoder reads."""

    def next_logits(prompt: np.ndarray, new: list[int]) -> Any:
        return _encoded_decoded(model, prompt[None], np.ones((1, len(prompt))), np.array([[start_id, *new]]))[0, -1]

    return next_logits


def _encoded_decoded(model: Any, inputs: np.ndarray, mask: np.ndarray, fed: np.ndarray) -> Any:
    decoder = torch.tensor(fed)
    return model(
        input_ids=torch.tensor(inputs),
        attention_mask=torch.tensor(mask).long(),
        decoder_input_ids=decoder,
        decoder_attention_mask=torch.ones_like(decoder),
        use_cache=False,
    ).logits


def beams(model: Any, next_logits: NextLogits, prompts: list[np.ndarray], eos_id: int) -> Arrays:
    """Beam search by transformers, and with more candidates for ends; each prompt by itself. See make.py.

    Args:
        model: a transformers model.
        next_logits: from a prompt and the new tokens to the logits [vocab] of the next.
        prompts: of any length.
        eos_id: the token that ends an answer.
    """
    rows: list[Arrays] = []
    for prompt in prompts:
        theirs, score, gap = _by_transformers(model, prompt, eos_id)
        continued = partial(next_logits, prompt)
        by_their_rule, same_score = _search(continued, eos_id, NUM_BEAMS)
        assert by_their_rule == theirs or gap < 1e-3, (by_their_rule, same_score, theirs, score)
        wider, wider_score = _search(continued, eos_id, 2 * NUM_BEAMS)
        if eos_id in theirs and eos_id in wider:
            answers = {"beam/sequences": _padded(theirs), "beam/wider_sequences": _padded(wider)}
            numbers = {"beam/scores": score, "beam/gaps": gap, "beam/wider_scores": wider_score}
            at = {"beam/prompts": _padded(list(prompt), LONGEST_PROMPT), "beam/prompt_lengths": np.int32(len(prompt))}
            rows.append(answers | at | {name: np.float32(value) for name, value in numbers.items()})
    settings = {"num_beams": NUM_BEAMS, "eos_id": eos_id, "pad_id": PAD_ID}
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | {
        f"beam/{name}": np.int32(value) for name, value in settings.items()
    }


def _padded(tokens: list[int], length: int = NEW_TOKENS) -> np.ndarray:
    return np.array(tokens + [PAD_ID] * (length - len(tokens)), np.int32)


def _by_transformers(model: Any, prompt: np.ndarray, eos_id: int) -> tuple[list[int], float, float]:
    """The answer, its score, and by how much it is better than the next."""
    with torch.no_grad():
        found = model.generate(
            torch.tensor(prompt)[None].long(),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            num_beams=NUM_BEAMS,
            num_return_sequences=NUM_BEAMS,
            length_penalty=0.0,
            early_stopping="never",
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=eos_id,
            pad_token_id=PAD_ID,
            use_cache=False,  # transformers makes T5's cache with as many layers as the encoder has
            output_scores=True,
            return_dict_in_generate=True,
        )
    # An encoder-decoder gives back its start token, the others their prompt.
    new = found.sequences[0].tolist()[1 if model.config.is_encoder_decoder else len(prompt) :]
    if eos_id in new:
        new = new[: new.index(eos_id) + 1]
    return new, float(found.sequences_scores[0]), float(found.sequences_scores[0] - found.sequences_scores[1])


def _search(continued: Callable[[list[int]], Any], eos_id: int, among: int) -> tuple[list[int], float]:
    """Beam search, plainly; an end token counts if it is among the best `among` of all candidates."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    best: tuple[float, list[int]] = (-np.inf, [])
    for _ in range(NEW_TOKENS):
        candidates: list[tuple[float, list[int]]] = []
        for total, tokens in live:
            with torch.no_grad():
                log_p = torch.log_softmax(continued(tokens).double(), -1).tolist()
            candidates += [(total + value, [*tokens, token]) for token, value in enumerate(log_p)]
        candidates = sorted(candidates, reverse=True)[: 2 * NUM_BEAMS]
        best = max([best, *(c for c in candidates[:among] if c[1][-1] == eos_id)])
        live = [c for c in candidates if c[1][-1] != eos_id][:NUM_BEAMS]
        if best[0] >= live[0][0]:
            return best[1], best[0]
    return max(best, live[0])[1], max(best, live[0])[0]
