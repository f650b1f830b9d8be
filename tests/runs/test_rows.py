"""From settings to rows: how a model reads its inputs decides prompts and rows."""

import numpy as np
import pytest

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.prepared import ensure_prepared
from t5x_instruct.data.vocabularies import ByteVocabulary
from t5x_instruct.models.decoder import DecoderConfig
from t5x_instruct.models.presets import make_model
from t5x_instruct.models.t5 import T5Config
from t5x_instruct.runs.opening import make_loader, open_data
from t5x_instruct.runs.settings import DataSettings
from t5x_instruct.templates.chat import ChatTemplate

SIZES = {"vocab_size": 384, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "norm_epsilon": 1e-6}
DECODER = SIZES | {"num_layers": 1, "num_kv_heads": 2, "activation": "silu", "rope_theta": 1e4, "tie_embeddings": True}
T5 = SIZES | {
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "activation": "gelu_tanh",
    "gated_mlp": True,
    "relative_buckets": 8,
    "relative_max_distance": 16,
    "tie_embeddings": False,
    "scale_decoder_outputs": False,
    "decoder_start_id": 7,
}
MODELS = {
    "causal": make_model(DecoderConfig(**DECODER)),
    "prefix": make_model(DecoderConfig(**DECODER, prefix_lm=True)),
    "encoder": make_model(T5Config(**T5)),
}


def settings(root, **more):
    return DataSettings(
        mixture_or_task_name="small",
        mixture_or_task_module="tests.small_tasks",
        task_feature_lengths={"inputs": 40, "targets": 16},
        batch_size=2,
        hold_out=("small_ends",),
        prepared_dir=root,
        **more,
    )


@pytest.mark.parametrize("reads", MODELS)
def test_rows_are_those_that_the_model_reads(prepared_root, reads):
    model, vocabulary = MODELS[reads], ByteVocabulary()
    assert model.reads_inputs == reads
    data = settings(prepared_root)
    ensure_prepared(data.prepare_spec(vocabulary, "bytes", reads, None), in_process=True)  # a child process is slower
    loader = make_loader(data, open_data(data, model, vocabulary, None), model, vocabulary)
    batch = loader.batch(0)
    sides = {key: value.shape[1] for key, value in batch.items() if key.endswith("input_tokens")}
    if reads == "encoder":
        assert sides == {"encoder_input_tokens": 40, "decoder_input_tokens": 16}
        starts = batch["decoder_input_tokens"][(batch["decoder_positions"] == 0) & (batch["decoder_segment_ids"] > 0)]
        assert set(starts.tolist()) == {7}
        for row in range(2):
            inputs, segments = batch["encoder_input_tokens"][row], batch["encoder_segment_ids"][row]
            ends = np.flatnonzero(np.diff(segments, append=0) != 0)[: segments.max()]
            assert set(inputs[ends].tolist()) == {vocabulary.eos_id}
    else:
        assert sides == {"decoder_input_tokens": 56}
    assert ("decoder_causal_attention" in batch) == (reads == "prefix")


def test_auto_prompts_follow_the_vocabulary_and_the_model(tmp_path):
    class Chatty(ByteVocabulary):
        chat_template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")

    def chosen(vocabulary, reads, own=None, **more):
        return settings(tmp_path, **more).prepare_spec(vocabulary, "bytes", reads, own).prompt_format

    assert [chosen(ByteVocabulary(), reads) for reads in MODELS] == ["line", "line", "eos"]
    for name in ("auto", "chat"):
        chats = {reads: chosen(Chatty(), reads, prompt_format=name) for reads in MODELS}
        assert chats == {reads: "chat" if reads == "causal" else "chat_each" for reads in MODELS}
    assert chosen(ByteVocabulary(), "encoder", prompt_format="plain") == "plain"
    assert chosen(Chatty(), "causal", own="eos") == chosen(ByteVocabulary(), "causal", own="eos") == "eos"
    assert chosen(Chatty(), "prefix", own="plain") == "plain"
    assert chosen(Chatty(), "causal", own="eos", prompt_format="chat") == "chat"
    with pytest.raises(
        ConfigError, match="prompt_format = 'end': must be one of 'auto', 'plain', 'line', 'eos', 'chat'"
    ):
        settings(tmp_path, prompt_format="end")
