"""From settings to the parts of a run: model, vocabulary, prepared data, loaders, a language model."""

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from t5x_instruct.checkpoints.adapters import kept_tensors
from t5x_instruct.checkpoints.placement import place_params
from t5x_instruct.checkpoints.restore import (
    CHECKPOINTS_FOLDER,
    PROMPT_FORMAT_FILE,
    Source,
    open_source,
    saved_prompt_format,
)
from t5x_instruct.checkpoints.vocabulary_growth import grown
from t5x_instruct.common.buckets import use_for_epath
from t5x_instruct.common.errors import ConfigError
from t5x_instruct.common.paths import AnyPath, is_bucket
from t5x_instruct.common.types import Params
from t5x_instruct.data.audit import Audit, AuditLimits, check_before_training
from t5x_instruct.data.converters import Converter, make_converter
from t5x_instruct.data.loader import Loader
from t5x_instruct.data.new_tokens import with_conversation, with_new_tokens
from t5x_instruct.data.prepared import PreparedMixture, ensure_prepared
from t5x_instruct.data.prompt_formats import make_prompt_format
from t5x_instruct.data.sharing import Shared, refuse_shared
from t5x_instruct.data.vocabularies import Vocabulary, load_vocabulary
from t5x_instruct.decoding.language_model import LanguageModel
from t5x_instruct.models.api import Model, split_trained, with_frozen
from t5x_instruct.models.lora import LoraModel
from t5x_instruct.models.presets import contradictions, make_model
from t5x_instruct.partitioning.fit import check_fit
from t5x_instruct.partitioning.mesh import MeshConfig, make_mesh, slice_count
from t5x_instruct.partitioning.rules import DEFAULT_RULES, tree_shardings
from t5x_instruct.runs.settings import DataSettings, EvaluationSettings, ModelSettings

#: What helps where a checkpoint has no vocabulary.
NAME_VOCABULARY = (
    "name it in ModelSettings.vocabulary. That of T5 1.1 and Flan-T5 is "
    "'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model+100', with T5's sentinels; mT5's has "
    "mc4.250000.100extra instead; ByT5's is 'bytes+125'"
)


class OpenedModel(NamedTuple):
    """A model whose parameters are not read yet.

    Attributes:
        model: the model.
        vocabulary: its vocabulary.
        params_fn: shardings -> parameters, from the checkpoint or freshly drawn.
        description: where it comes from, for people.
        imported_step: steps the checkpoint says it was trained for; the run counts its own from 0.
        source: the checkpoint it starts from; None: from scratch.
    """

    model: Model
    vocabulary: Vocabulary
    params_fn: Callable[[Any], Params]
    description: str
    imported_step: int | None = None
    source: Source | None = None

    @property
    def prompt_format(self) -> str | None:
        """The name of the one it was trained with; None where nothing is known of that."""
        return None if self.source is None else self.source.prompt_format


def open_model(settings: ModelSettings, seed: int = 0) -> OpenedModel:
    """Opens the checkpoint that `settings` name, or a model from scratch.

    Args:
        settings: checkpoint or configuration, and overrides.
        seed: of the initial parameters of a model from scratch.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ConfigError: the configuration is not the checkpoint's, the vocabulary does not fit the model, or it takes no
            such new tokens.
    """
    if is_bucket(os.environ.get("JAX_COMPILATION_CACHE_DIR", "")):
        use_for_epath()  # before the first compilation
    source: Source | None = None
    if settings.initial_checkpoint_path is not None:
        source = open_source(settings.initial_checkpoint_path)
    own = source and source.model_config
    config = settings.config if settings.config is not None else own
    if own is not None and (found := contradictions(config, own)):
        where = settings.initial_checkpoint_path
        raise ConfigError([*found, f"leave ModelSettings.config out to take what {where} says, or correct it"])
    vocabulary = load_vocabulary(settings.vocabulary) if settings.vocabulary else source and source.vocabulary
    if config is None or vocabulary is None:
        raise ConfigError(f"{source and source.description} has no vocabulary of its own; {NAME_VOCABULARY}")
    _check_ids(vocabulary, config)
    if settings.new_tokens:
        larger = with_new_tokens(vocabulary, settings.new_tokens)
        if source is not None:
            source = grown(source._replace(model_config=config), vocabulary.vocab_size, larger)
            config = source.model_config
        vocabulary = larger
        _check_ids(vocabulary, config)
    if settings.eos_token is not None or settings.chat_template is not None:
        vocabulary = with_conversation(vocabulary, settings.eos_token, settings.chat_template)
        if settings.chat_template is not None and source is not None:
            source = source._replace(prompt_format=None)  # that of the run it comes from had no such template
    model = _model_of(settings, config)
    if source is None:

        def init(shardings: Any) -> Params:
            return jax.jit(model.init, out_shardings=shardings)(jax.random.key(seed))

        return OpenedModel(model, vocabulary, init, f"random parameters, seed {seed}")
    params_fn = source.params_fn
    if isinstance(model, LoraModel):
        params_fn = partial(_frozen_with_adapters, model, source, seed)
    return OpenedModel(model, vocabulary, params_fn, source.description, source.step, source)


def _check_ids(vocabulary: Vocabulary, config: Any) -> None:
    if vocabulary.vocab_size > config.vocab_size:
        raise ConfigError(
            f"the vocabulary has {vocabulary.vocab_size} ids, the model's vocab_size is {config.vocab_size}; "
            f"set it to {-(-vocabulary.vocab_size // 128) * 128} or use the model's own vocabulary"
        )


def _model_of(settings: ModelSettings, config: Any) -> Model:
    model = make_model(settings.overridden(config))
    return model if settings.lora is None else LoraModel(model, settings.lora)


def _frozen_with_adapters(model: LoraModel, source: Source, seed: int, shardings: Any) -> Params:
    """A checkpoint's parameters, in the types they are kept in, and fresh adapters."""
    trained, frozen = split_trained(shardings)
    adapters = jax.jit(model.init_adapters, out_shardings=trained)(jax.random.key(seed))
    return with_frozen(adapters, place_params(kept_tensors(source.tensors, model.lora), frozen))


def planned_model(settings: ModelSettings) -> Model:
    """The model that a run would train.

    Its checkpoint is opened only if the run does not say its configuration, or adds tokens to its vocabulary.

    Args:
        settings: checkpoint or configuration, and overrides.

    Raises:
        CheckpointError: the checkpoint is needed and cannot be read.
        ConfigError: the checkpoint has no configuration.
    """
    if settings.new_tokens:
        return open_model(settings).model
    config = settings.config
    if config is None and settings.initial_checkpoint_path is not None:
        config = open_source(settings.initial_checkpoint_path).model_config
    if config is None:
        where = settings.initial_checkpoint_path
        raise ConfigError(f"{where} has no configuration of its own; set ModelSettings.config")
    return _model_of(settings, config)


def check_fits(model: Model, data: DataSettings, micro_batches: int, mesh: Mesh, num_hosts: int | None = None) -> None:
    """Refuses a run that its mesh does not divide, before anything is prepared.

    Args:
        model: the run's.
        data: batch and lengths.
        micro_batches: parts the batch is cut into.
        mesh: of devices that need not be there.
        num_hosts: hosts that share the batch; None: those that are running.

    Raises:
        ConfigError: all that does not divide: parameters, batch, lengths; or the attention that is asked for cannot be
            had.
    """
    choice = model.attention_choice(data.longest_row(model.reads_inputs), mesh)
    if model.config.attention == "splash" and not choice.splash:
        raise ConfigError(f"ATTENTION = 'splash': {choice.why}; choose 'auto' or 'plain', or change what is in its way")

    check_fit(
        jax.eval_shape(model.init, jax.random.key(0)),
        model.param_axes(),
        mesh,
        batch_size=data.batch_size,
        row_lengths=data.row_lengths(model.reads_inputs),
        num_hosts=jax.process_count() if num_hosts is None else num_hosts,
        micro_batches=micro_batches,
    )


def make_loader(
    data: DataSettings,
    mixture: PreparedMixture,
    model: Model,
    vocabulary: Vocabulary,
    *,
    validation: bool = False,
) -> Loader:
    """Batches of the tasks a run is trained on, on this host.

    Args:
        data: lengths, batch size, seed.
        mixture: the prepared mixture.
        model: how it reads inputs decides what the rows are.
        vocabulary: the model's.
        validation: one pass over every validation example of the tasks that have any, instead of the endless
            mixed stream of training examples.
    """
    split = "validation" if validation else "train"
    return Loader(
        mixture,
        split,
        converter_of(data, model, vocabulary.start_id, vocabulary.pad_id),
        batch_size=data.batch_size,
        seed=data.seed,
        host_index=jax.process_index(),
        host_count=jax.process_count(),
        packing=data.packing,
        num_epochs=1 if validation else None,
        tasks=validation_tasks(mixture) if validation else None,
        every_example_once=validation,
    )


def converter_of(data: DataSettings, model: Model, start_id: int, pad_id: int) -> Converter:
    """What makes the rows that a run's model reads, with the vocabulary's ids of start and padding."""
    encodes = model.reads_inputs == "encoder"
    return make_converter(
        model.reads_inputs,
        inputs_length=data.task_feature_lengths["inputs"],
        targets_length=data.task_feature_lengths["targets"],
        start_id=model.config.decoder_start_id if encodes else start_id,
        pad_id=pad_id,
        overlong=data.overlong,
    )


def validation_tasks(mixture: PreparedMixture) -> list[str]:
    """Names of the trained tasks that have validation examples."""
    return [task.name for task in mixture.train_tasks if "validation" in task.splits]


def own_prompt_format(folder: AnyPath, opened: OpenedModel) -> str | None:
    """The prompt format that "auto" means in a training run.

    Args:
        folder: the run's; once it has a checkpoint, the run goes on as it has begun.
        opened: the model that it starts from.

    Returns:
        The name of the one that the run or else its model was trained with; None where nothing is known.
    """
    steps = folder / CHECKPOINTS_FOLDER
    begun = steps.is_dir() and any(path.name.isdecimal() for path in steps.iterdir())
    return (saved_prompt_format(folder / PROMPT_FORMAT_FILE) if begun else None) or opened.prompt_format


def open_data(
    data: DataSettings,
    model: Model,
    vocabulary: Vocabulary,
    own_format: str | None,
    evaluation: EvaluationSettings | None = None,
) -> PreparedMixture:
    """The prepared mixture of a run, with what `evaluation` needs; what is missing is prepared by a child process.

    The vocabulary is kept beside the prepared data, by its fingerprint, where the child finds it.

    Args:
        data: which mixture.
        model: how it reads inputs.
        vocabulary: the model's.
        own_format: the prompt format that the model was trained with, see `DataSettings.prepare_spec`.
        evaluation: how tasks are scored, if they are.
    """
    folder = data.root / "vocabularies" / vocabulary.fingerprint[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            vocabulary.save(Path(temporary) / "new")
            # Another process may have been first; then its folder is the same.
            with contextlib.suppress(OSError):
                (Path(temporary) / "new").rename(folder)
    return ensure_prepared(data.prepare_spec(vocabulary, str(folder), model.reads_inputs, own_format, evaluation))


class CheckedData(NamedTuple):
    """What is known of a run's data before its first step.

    Attributes:
        audit: what was found within the limits.
        shared: what held-out tasks share with trained ones, where that is allowed.
        warnings: both in sentences.
    """

    audit: Audit
    shared: list[Shared]
    warnings: list[str]


def check_data(
    data: DataSettings, mixture: PreparedMixture, vocabulary: Vocabulary, limits: AuditLimits
) -> CheckedData:
    """Looks at a few examples of each trained task, and whether held-out tasks are really held out.

    Raises:
        ConfigError: a limit is passed, or something is shared and not allowed to be.
    """
    shared = refuse_shared(mixture.train_tasks, mixture.held_out_tasks, data.allow_overlap)
    audit = check_before_training(mixture, vocabulary, data.task_feature_lengths, limits)
    return CheckedData(audit, shared, [*(f"held-out {one}" for one in shared), *audit.warnings(limits)])


def open_language_model(settings: ModelSettings) -> LanguageModel:
    """A checkpoint with its parameters read, on all devices (see `inference_mesh`), asked as it was trained."""
    opened = open_model(settings)
    own = opened.prompt_format
    prompt_format = None if own is None else make_prompt_format(own, opened.vocabulary)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, inference_params(opened.model))
    return LanguageModel(opened.model, opened.params_fn(shardings), opened.vocabulary, prompt_format)


def inference_params(model: Model, devices: Sequence[Any] | None = None) -> Any:
    """Shapes, dtypes and shardings of the parameters with which a model answers (see `inference_mesh`).

    Args:
        model: the model.
        devices: they need not be there; None: all of this machine's.
    """
    abstract, axes = jax.eval_shape(model.init, jax.random.key(0)), model.param_axes()
    shardings = tree_shardings(abstract, axes, inference_mesh(abstract, axes, devices))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract, shardings
    )


def inference_mesh(abstract: Any, axes: Any, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of all devices for parameters of any sizes.

    They are sharded (`fsdp`) over as many devices of a slice as divide both their number and every axis that is to be
    sharded; each such group of devices holds a copy (`data`, and `replica` across slices). Where nothing divides,
    every device holds a copy. Rows are spread over all devices either way.

    Args:
        abstract: nested tree whose leaves have a `shape`.
        axes: the same tree with tuples of logical names as leaves.
        devices: the devices; None: all of this machine's.
    """
    devices = jax.devices() if devices is None else devices
    sharded: list[int] = []
    slices = slice_count(devices)

    def collect(leaf: Any, names: tuple[str | None, ...]) -> None:
        sharded.extend(size for size, name in zip(leaf.shape, names, strict=True) if name in _SHARDED)

    jax.tree.map(collect, abstract, axes)
    on_a_slice = len(devices) // slices
    ways = math.gcd(on_a_slice, *sharded)
    return make_mesh(MeshConfig(replica=slices, data=on_a_slice // ways, fsdp=ways), devices)


_SHARDED = frozenset(name for name, mesh_axes in DEFAULT_RULES.items() if "fsdp" in mesh_axes)
