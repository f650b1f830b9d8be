"""From settings to the parts of a run: model, vocabulary, prepared data, loaders, a language model."""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from t5x_instruct.checkpoints.restore import Source, open_source
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.types import Params
from t5x_instruct.data.converters import DecoderConverter
from t5x_instruct.data.loader import Loader
from t5x_instruct.data.prepared import PreparedMixture, ensure_prepared
from t5x_instruct.data.vocabularies import Vocabulary, load_vocabulary
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.models.api import Model
from t5x_instruct.models.presets import make_model
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh
from t5x_instruct.partitioning.rules import tree_shardings
from t5x_instruct.runs.settings import DataSettings, ModelSettings


class OpenedModel(NamedTuple):
    """A model whose parameters are not read yet.

    Attributes:
        model: the model.
        vocabulary: its vocabulary.
        params_fn: shardings -> parameters, from the checkpoint or freshly drawn.
        description: where it comes from, for people.
    """

    model: Model
    vocabulary: Vocabulary
    params_fn: Callable[[Any], Params]
    description: str


def open_model(settings: ModelSettings, seed: int = 0) -> OpenedModel:
    """Opens the checkpoint that `settings` name, or a model from scratch.

    Args:
        settings: checkpoint or configuration, and overrides.
        seed: of the initial parameters of a model from scratch.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ConfigError: the vocabulary does not fit the model.
    """
    source: Source | None = None
    if settings.initial_checkpoint_path is not None:
        source = open_source(settings.initial_checkpoint_path)
    config = settings.config if settings.config is not None else source and source.model_config
    vocabulary = load_vocabulary(settings.vocabulary) if settings.vocabulary else source and source.vocabulary
    if config is None or vocabulary is None:
        raise ConfigError("the checkpoint has no configuration or vocabulary of its own; name both")
    if vocabulary.vocab_size > config.vocab_size:
        raise ConfigError(
            f"the vocabulary has {vocabulary.vocab_size} ids, the model's vocab_size is {config.vocab_size}; "
            f"set it to {-(-vocabulary.vocab_size // 128) * 128} or use the model's own vocabulary"
        )
    model = make_model(settings.overridden(config))
    if source is not None:
        return OpenedModel(model, vocabulary, source.params_fn, source.description)

    def init(shardings: Any) -> Params:
        return jax.jit(model.init, out_shardings=shardings)(jax.random.key(seed))

    return OpenedModel(model, vocabulary, init, f"random parameters, seed {seed}")


def make_loader(
    data: DataSettings,
    mixture: PreparedMixture,
    vocabulary: Vocabulary,
    *,
    validation: bool = False,
) -> Loader:
    """Batches of the tasks a run is trained on, on this host.

    Args:
        data: lengths, batch size, seed.
        mixture: the prepared mixture.
        vocabulary: the model's.
        validation: one pass over every validation example of the tasks that have any, instead of the endless
            mixed stream of training examples.
    """
    split = "validation" if validation else "train"
    converter = DecoderConverter(
        inputs_length=data.task_feature_lengths["inputs"],
        targets_length=data.task_feature_lengths["targets"],
        start_id=vocabulary.start_id,
        pad_id=vocabulary.pad_id,
        overlong=data.overlong,
    )
    return Loader(
        mixture,
        split,
        converter,
        batch_size=data.batch_size,
        seed=data.seed,
        host_index=jax.process_index(),
        host_count=jax.process_count(),
        packing=data.packing,
        num_epochs=1 if validation else None,
        tasks=[task.name for task in mixture.train_tasks if split in task.splits] if validation else None,
        every_example_once=validation,
    )


def open_data(data: DataSettings, vocabulary: Vocabulary) -> PreparedMixture:
    """The prepared mixture of a run; what is missing is prepared by a child process.

    The vocabulary is kept beside the prepared data, by its fingerprint, where the child finds it.
    """
    folder = data.root / "vocabularies" / vocabulary.fingerprint[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            vocabulary.save(Path(temporary) / "new")
            # Another process may have been first; then its folder is the same.
            with contextlib.suppress(OSError):
                (Path(temporary) / "new").rename(folder)
    return ensure_prepared(data.prepare_spec(vocabulary, str(folder)))


def open_language_model(settings: ModelSettings) -> LanguageModel:
    """A checkpoint with its parameters read, on all devices of this process."""
    opened = open_model(settings)
    abstract = jax.eval_shape(opened.model.init, jax.random.key(0))
    shardings = tree_shardings(abstract, opened.model.param_axes(), make_mesh(MeshConfig()))
    return LanguageModel(opened.model, opened.params_fn(shardings), opened.vocabulary)
