"""Two small models that keep the protocol of `models/api.py`: one layer of attention, and one that counts."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_instruct.common.types import Unembedding

EMBED = 16


@dataclass(eq=False)
class TinyAttention:
    """Embedding, rotating position code, causal attention, head; `rows` of the head may exceed the vocabulary."""

    vocab_size: int = 23
    rows: int = 29
    reads_inputs = "causal"

    @property
    def config(self) -> Any:
        return SimpleNamespace(vocab_size=self.vocab_size)

    def init(self, rng: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(rng, 5)
        shapes = {"embedding": (self.rows, EMBED), "q": (EMBED, EMBED), "k": (EMBED, EMBED), "v": (EMBED, EMBED)}
        params = {name: jax.random.normal(key, shapes[name]) for name, key in zip(shapes, keys, strict=False)}
        return params | {"head": jax.random.normal(keys[4], (EMBED, self.rows)) * 2}

    def _embed(self, params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        angle = positions[..., None] * (0.7 ** jnp.arange(EMBED))
        return params["embedding"][tokens] + jnp.sin(angle)

    def _attend(self, params: Any, x_BTD: jax.Array, k_BSD: jax.Array, v_BSD: jax.Array, seen_BTS: jax.Array) -> Any:
        scores = jnp.einsum("BTD,BSD->BTS", x_BTD @ params["q"], k_BSD) / EMBED
        weights = jax.nn.softmax(jnp.where(seen_BTS, scores, -1e9))
        return x_BTD + jnp.einsum("BTS,BSD->BTD", weights, v_BSD)

    def hidden(self, params: Any, batch: Any, *, dropout_rng: Any = None) -> jax.Array:
        tokens = jnp.asarray(batch["decoder_input_tokens"])
        length = tokens.shape[1]
        positions = batch.get("decoder_positions", jnp.broadcast_to(jnp.arange(length), tokens.shape))
        segments = batch.get("decoder_segment_ids", jnp.ones_like(tokens))
        x = self._embed(params, tokens, positions)
        seen = jnp.tril(jnp.ones((length, length), bool)) & (segments[:, :, None] == segments[:, None, :])
        return self._attend(params, x, x @ params["k"], x @ params["v"], seen)

    def unembedding(self, params: Any) -> Unembedding:
        return Unembedding(params["head"], vocab_size=self.vocab_size)

    def logits(self, params: Any, hidden_BTD: jax.Array) -> jax.Array:
        return hidden_BTD @ params["head"]

    def init_cache(self, batch_size: int, max_length: int, encoded: Any = None, params: Any = None) -> Any:
        empty = jnp.zeros((batch_size, max_length, EMBED))
        valid = jnp.zeros((batch_size, max_length), bool)
        return {"index": jnp.int32(0), "k": empty, "v": empty, "valid": valid}

    def step(self, params: Any, cache: Any, tokens: jax.Array, positions: jax.Array, *, prefix: bool = False) -> Any:
        x = self._embed(params, tokens, positions)
        index, new = cache["index"], tokens.shape[1]
        k = jax.lax.dynamic_update_slice(cache["k"], x @ params["k"], (0, index, 0))
        v = jax.lax.dynamic_update_slice(cache["v"], x @ params["v"], (0, index, 0))
        valid = jax.lax.dynamic_update_slice(cache["valid"], positions >= 0, (0, index))
        earlier = jnp.arange(k.shape[1])[None, :] <= index + jnp.arange(new)[:, None]
        hidden = self._attend(params, x, k, v, valid[:, None, :] & earlier[None])
        return hidden, {"index": index + new, "k": k, "v": v, "valid": valid}


@dataclass(eq=False)
class Counter(TinyAttention):
    """After token n comes n + 1, whatever stands before."""

    vocab_size: int = 50
    rows: int = 50

    def init(self, rng: jax.Array) -> dict[str, Any]:
        return {"next": jnp.asarray(np.roll(np.eye(self.rows, dtype=np.float32), 1, axis=1) * 30)}

    def hidden(self, params: Any, batch: Any, *, dropout_rng: Any = None) -> jax.Array:
        return jax.nn.one_hot(batch["decoder_input_tokens"], self.rows)

    def unembedding(self, params: Any) -> Unembedding:
        return Unembedding(params["next"], vocab_size=self.vocab_size)

    def logits(self, params: Any, hidden_BTD: jax.Array) -> jax.Array:
        return hidden_BTD @ params["next"]

    def init_cache(self, batch_size: int, max_length: int, encoded: Any = None, params: Any = None) -> Any:
        return {"index": jnp.int32(0)}

    def step(self, params: Any, cache: Any, tokens: jax.Array, positions: jax.Array, *, prefix: bool = False) -> Any:
        return jax.nn.one_hot(tokens, self.rows), {"index": cache["index"] + tokens.shape[1]}
