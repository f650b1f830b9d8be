"""What a run is made of: the model, the data and the evaluation, as plain dataclasses."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.common.paths import cache_folder, is_bucket, staged_place
from t5x_instruct.data.prepare_spec import PrepareSpec, Templates
from t5x_instruct.data.prompt_formats import PROMPT_FORMATS, default_prompt_format
from t5x_instruct.data.task_modules import DEFAULT_MODULES
from t5x_instruct.data.vocabularies import Vocabulary


def default_prepared_dir() -> Path:
    """Where prepared data goes unless a run says otherwise."""
    return cache_folder() / "prepared"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which model a run starts from.

    Attributes:
        initial_checkpoint_path: a checkpoint's name or path (see `checkpoints.restore.open_source`); None: from
            scratch, with `config` and `vocabulary`.
        config: a model's configuration, e.g. `DecoderConfig`; None: the checkpoint's own.
        vocabulary: what `data.vocabularies.load_vocabulary` takes; None: the checkpoint's own.
        new_tokens: special tokens that the vocabulary does not have; they get ids at its end, and rows that begin as
            the mean of the pretrained ones.
        eos_token: the token that ends an answer, of the vocabulary or a new one; None: the vocabulary's own.
        chat_template: a file with the Jinja source of a chat template; None: the vocabulary's own, if it has one.
        dtype: compute dtype; None: as configured.
        remat: rematerialisation policy; None: as configured.
        attention: "auto", "plain" or "splash"; None: as configured.
        dropout_rate: None: as configured.
        lora: a `LoraConfig`, the adapters to train while the model is frozen; None: all parameters are trained.
    """

    initial_checkpoint_path: str | None = None
    config: Any = None
    vocabulary: str | None = None
    new_tokens: tuple[str, ...] = ()
    eos_token: str | None = None
    chat_template: str | None = None
    dtype: str | None = None
    remat: str | None = None
    attention: str | None = None
    dropout_rate: float | None = None
    lora: Any = None

    def __post_init__(self) -> None:
        if self.new_tokens and self.lora is not None:
            raise ConfigError(
                "NEW_TOKENS with LORA_RANK: adapters leave the embedding frozen, so that the rows of new tokens would "
                "stay what they begin as, all alike. Train all parameters (LORA_RANK = None); or do so for a few steps "
                "first, and then adapters with INITIAL_CHECKPOINT_PATH = that MODEL_DIR and no NEW_TOKENS"
            )
        if self.initial_checkpoint_path is None:
            missing = [name for name in ("config", "vocabulary") if getattr(self, name) is None]
            if missing:
                raise ConfigError(
                    f"a model from scratch needs {' and '.join('ModelSettings.' + name for name in missing)}; "
                    "or name a checkpoint in INITIAL_CHECKPOINT_PATH"
                )

    def overridden(self, config: Any) -> Any:
        """`config` with what this run says otherwise."""
        changes = {
            name: getattr(self, name)
            for name in ("dtype", "remat", "attention", "dropout_rate")
            if getattr(self, name) is not None
        }
        return dataclasses.replace(config, **changes)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What a run is trained and evaluated on.

    Attributes:
        mixture_or_task_name: a name in seqio's registries.
        mixture_or_task_module: modules or files that register it.
        task_feature_lengths: ``{'inputs': tokens, 'targets': tokens}``; a decoder's rows have their sum.
        batch_size: rows a step, over all hosts.
        hold_out: clusters or tasks that are never trained on, and evaluated.
        seed: of order, packing and templates.
        variants: renderings of each example, one an epoch in turn.
        num_templates: how many of each trained task's templates are used, the first ones; None: all.
        packing: several examples a row.
        overlong: "cut" or "refuse" what exceeds the lengths.
        prompt_format: "chat", "chat_each" (the same, and of a conversation one example for each reply), "eos" (the
            text and the end token), "line" (the text and a line break), "plain" (the text), or "auto": the one that the
            run has begun with, or its model was trained with; of other models chat if the vocabulary has a chat
            template (chat_each for a model that reads its inputs both ways), else eos for an encoder, else line.
        prepared_dir: where prepared data lies; of a folder in a bucket (`gs://...`) a copy is read.
        module_options: settings of task modules, e.g. ``{'tasks.cot.FOLDER': '/data/cot'}``.
        splits: which splits the run reads; 'train' is never read of what is held out.
        strict: a task whose data cannot be had is an error; otherwise the mixture goes without it and says so.
        allow_overlap: go on even if what is evaluated shares data with what is trained on.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    batch_size: int
    mixture_or_task_module: str | tuple[str, ...] = DEFAULT_MODULES
    hold_out: tuple[str, ...] = ()
    seed: int = 0
    variants: int = 1
    num_templates: int | None = None
    packing: bool = True
    overlong: str = "cut"
    prompt_format: str = "auto"
    prepared_dir: Path | str | None = None
    module_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    splits: tuple[str, ...] = ("train", "validation")
    strict: bool = False
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        problems = []
        if set(self.task_feature_lengths) != {"inputs", "targets"}:
            problems.append(
                f"TASK_FEATURE_LENGTHS = {dict(self.task_feature_lengths)}: needs exactly 'inputs' and 'targets'"
            )
        problems += [
            f"TASK_FEATURE_LENGTHS[{name!r}] = {length}: must be at least 1"
            for name, length in self.task_feature_lengths.items()
            if length < 1
        ]
        for name, value, valid in (
            ("overlong", self.overlong, ("cut", "refuse")),
            ("prompt_format", self.prompt_format, ("auto", *PROMPT_FORMATS)),
        ):
            if value not in valid:
                problems.append(f"DataSettings.{name} = {value!r}: must be one of {', '.join(map(repr, valid))}")
        if self.variants < 1:
            problems.append(f"VARIANTS = {self.variants}: must be at least 1")
        if problems:
            raise ConfigError(problems)

    @property
    def root(self) -> Path:
        """The folder of the prepared data on this machine's disk."""
        folder = self.prepared_dir or default_prepared_dir()
        return staged_place(folder) if is_bucket(folder) else Path(folder)

    def row_lengths(self, reads_inputs: str) -> dict[str, int]:
        """Slots of a row of each side, by what people call them.

        Args:
            reads_inputs: how the model reads inputs, see `models.api.Model`.
        """
        inputs, targets = (self.task_feature_lengths[name] for name in ("inputs", "targets"))
        name = "TASK_FEATURE_LENGTHS"
        if reads_inputs == "encoder":
            return {f"{name}['inputs']": inputs, f"{name}['targets']": targets}
        return {f"{name}['inputs'] + ['targets'],": inputs + targets}

    def longest_row(self, reads_inputs: str) -> int:
        """Slots of the longer side's row; for the argument see `row_lengths`."""
        return max(self.row_lengths(reads_inputs).values())

    def prepare_spec(
        self,
        vocabulary: Vocabulary,
        vocabulary_spec: str,
        reads_inputs: str,
        own_format: str | None,
        evaluation: "EvaluationSettings | None" = None,
    ) -> PrepareSpec:
        """What `prepare` has to make for this run.

        Args:
            vocabulary: the model's.
            vocabulary_spec: where a child process finds the same vocabulary.
            reads_inputs: how the model reads inputs, see `models.api.Model`.
            own_format: the prompt format that the model was trained with, which "auto" means; None: nothing is known.
            evaluation: how tasks are scored in this run, if they are: exemplars and templates have to be prepared.
        """
        prompt_format = self.prompt_format
        if prompt_format == "auto" and own_format is not None:
            prompt_format = own_format
        elif prompt_format == "auto" or (prompt_format == "chat" and vocabulary.chat_template is not None):
            prompt_format = default_prompt_format(vocabulary, reads_inputs)
        modules = self.mixture_or_task_module
        root: Any = self.prepared_dir or default_prepared_dir()
        return PrepareSpec(
            mixture=self.mixture_or_task_name,
            modules=(modules,) if isinstance(modules, str) else tuple(modules),
            vocabulary=vocabulary_spec,
            prompt_format=prompt_format,
            hold_out=tuple(self.hold_out),
            seed=self.seed,
            variants=self.variants,
            num_templates=self.num_templates,
            splits=tuple(self.splits),
            exemplars=evaluation is not None and evaluation.shots > 0,
            templates="drawn" if evaluation is None else evaluation.templates,
            root=root,
            module_options=dict(self.module_options),
            strict=self.strict,
        )


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How tasks are scored.

    Attributes:
        num_examples: of each task's validation split; None: all.
        max_new_tokens: longest answer.
        batch_size: prompts at a time.
        shots: exemplars before each question: answered training examples of the same task, also of a held-out one,
            which is never trained on for that. As many as fit into the inputs' length.
        templates: "drawn": each example is asked with one template, drawn by hash; "each": with every template of its
            task, which gives the mean over templates and the best one.
    """

    num_examples: int | None = None
    max_new_tokens: int = 32
    batch_size: int = 32
    shots: int = 0
    templates: Templates = "drawn"

    def __post_init__(self) -> None:
        problems = []
        if self.shots < 0:
            problems.append(f"SHOTS = {self.shots}: must be at least 0")
        if self.templates not in get_args(Templates):
            problems.append(f"EVAL_TEMPLATES: {unknown('choice', self.templates, get_args(Templates))}")
        if problems:
            raise ConfigError(problems)
