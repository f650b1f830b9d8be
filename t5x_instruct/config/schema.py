"""The names a configuration may use: one table of configurables and one of macros.

Adding a configurable is one line of CONFIGURABLES, adding a macro is one entry of MACROS.
This module is light (it is imported for `--help`): nothing of the components is imported here.
"""

import importlib
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from t5x_instruct.data.task_modules import DEFAULT_MODULES

# Gin name -> "module:attribute" of a dataclass or function with plain arguments. A module is
# imported only when a configuration mentions the name.
CONFIGURABLES: dict[str, str] = {
    "TrainRun": "t5x_instruct.runs.training_run:TrainRun",
    "EvalRun": "t5x_instruct.runs.evaluate:EvalRun",
    "Inference": "t5x_instruct.runs.infer:Inference",
    "ModelSettings": "t5x_instruct.runs.settings:ModelSettings",
    "DataSettings": "t5x_instruct.runs.settings:DataSettings",
    "EvaluationSettings": "t5x_instruct.runs.settings:EvaluationSettings",
    "AuditLimits": "t5x_instruct.data.audit:AuditLimits",
    "lora": "t5x_instruct.models.lora:lora",
    "DecoderConfig": "t5x_instruct.models.decoder:DecoderConfig",
    "RopeScaling": "t5x_instruct.models.layers.rope:RopeScaling",
    "T5Config": "t5x_instruct.models.t5:T5Config",
    "T5GemmaConfig": "t5x_instruct.models.t5gemma:T5GemmaConfig",
    "GemmaStack": "t5x_instruct.models.t5gemma:GemmaStack",
    "LoopConfig": "t5x_instruct.training.loop:LoopConfig",
    "HostSettings": "t5x_instruct.common.hosts:HostSettings",
    "LaunchSettings": "t5x_instruct.cloud.settings:LaunchSettings",
    "adamw": "t5x_instruct.training.optimizers:adamw",
    "adafactor": "t5x_instruct.training.adafactor:adafactor",
    "lion": "t5x_instruct.training.optimizers:lion",
    "sgd": "t5x_instruct.training.optimizers:sgd",
    "with_ema": "t5x_instruct.training.optimizers:with_ema",
    "constant": "t5x_instruct.training.schedules:constant",
    "linear": "t5x_instruct.training.schedules:linear",
    "cosine": "t5x_instruct.training.schedules:cosine",
    "wsd": "t5x_instruct.training.schedules:wsd",
    "inverse_sqrt": "t5x_instruct.training.schedules:inverse_sqrt",
}


class Required:
    """The type of REQUIRED: the run cannot start without a value."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = Required()
VERBS = ("train", "eval", "infer")


@dataclass(frozen=True)
class Macro:
    """One of the names that say what a run does.

    Args:
        type: annotation of the value.
        meaning: one line for `--help` and for error messages, with units.
        defaults: the verbs that read it, each with its default value or REQUIRED.
        minimum: smallest allowed number.
        repeatable: a tuple of strings that may also be one string or None; given several times on
            the command line, the values add up.
    """

    type: Any
    meaning: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    minimum: float | None = None
    repeatable: bool = False


def _by(*verbs: str, default: Any) -> dict[str, Any]:
    return dict.fromkeys(verbs, default)


_NAMES = tuple[str, ...]

MACROS: dict[str, Macro] = {
    # The data.
    "MIXTURE_OR_TASK_NAME": Macro(str, "registered mixture or task", _by("train", "eval", default=REQUIRED)),
    "MIXTURE_OR_TASK_MODULE": Macro(
        _NAMES, "module or .py file that registers it", _by("train", "eval", default=DEFAULT_MODULES), repeatable=True
    ),
    "MODULE_OPTIONS": Macro(
        dict[str, str],
        "settings of task modules, e.g. {'tasks.cot.FOLDER': '/data/cot'}",
        _by("train", "eval", default={}),
    ),
    "TASK_FEATURE_LENGTHS": Macro(
        dict[str, int], "longest inputs and targets [tokens]", _by("train", "eval", default=REQUIRED), minimum=1
    ),
    "HOLD_OUT": Macro(
        _NAMES, "clusters, tasks or mixtures kept out of training", _by("train", "eval", default=()), repeatable=True
    ),
    "ALLOW_OVERLAP": Macro(
        bool,
        "go on even if what is evaluated shares a task or a data set with what is trained on",
        _by("train", "eval", default=False),
    ),
    "PREPARED_DIR": Macro(
        str | None, "folder of prepared data (None: the cache folder)", _by("train", "eval", default=None)
    ),
    "VARIANTS": Macro(int, "renderings of each example, one an epoch", {"train": 1}, minimum=1),
    "SEED": Macro(
        int, "seed of data order, templates, dropout and sampling", _by("train", "eval", "infer", default=0), minimum=0
    ),
    # The run.
    "MODEL_DIR": Macro(str, "folder of the run: checkpoints, metrics, report", {"train": REQUIRED}),
    "INITIAL_CHECKPOINT_PATH": Macro(
        str | None,
        "pretrained model: GGUF file, MODEL_DIR, ... (None: random)",
        {"train": None, "eval": REQUIRED, "infer": REQUIRED},
    ),
    "INITIAL_OPTIMIZER_STATE": Macro(
        bool, "go on with the optimizer state of the T5X checkpoint too (Adafactor)", {"train": False}
    ),
    "NEW_TOKENS": Macro(
        _NAMES,
        "special tokens added to the pretrained vocabulary, e.g. ('<|im_start|>', '<|im_end|>')",
        {"train": ()},
        repeatable=True,
    ),
    "TRAIN_STEPS": Macro(int, "steps, counted from the start of this run", {"train": REQUIRED}, minimum=0),
    "BATCH_SIZE": Macro(int, "rows of a global batch", _by("train", "eval", default=128), minimum=1),
    "EVAL_PERIOD": Macro(int, "steps between evaluations", {"train": 1000}, minimum=1),
    "CHECKPOINT_PERIOD": Macro(int, "steps between checkpoints", {"train": 1000}, minimum=1),
    "KEEP_BEST": Macro(
        str | None,
        "metric whose best checkpoint is kept as well: 'validation/loss', 'validation/accuracy', "
        "'validation/task_accuracy/TASK', ... (None: none)",
        {"train": None},
    ),
    "LEARNING_RATE": Macro(float, "peak learning rate", {"train": REQUIRED}, minimum=0),
    "WARMUP_STEPS": Macro(int, "steps of linear warm-up", {"train": 0}, minimum=0),
    "DROPOUT_RATE": Macro(
        float | None, "share of activations dropped (None: the model's own)", {"train": None}, minimum=0
    ),
    "LORA_RANK": Macro(
        int | None, "rank of the adapters that are trained (None: all parameters are)", {"train": None}, minimum=1
    ),
    "LORA_ALPHA": Macro(float, "what an adapter adds counts LORA_ALPHA / LORA_RANK", {"train": 16.0}, minimum=0),
    "LORA_DROPOUT": Macro(float, "share of the adapters' inputs dropped", {"train": 0.0}, minimum=0),
    "LORA_TARGETS": Macro(
        _NAMES, "kernels with adapters: q, k, v, o, gate, up, down, or all", {"train": ("all",)}, repeatable=True
    ),
    "BASE_DTYPE": Macro(
        Literal["float32", "bfloat16", "int8", "nf4"],
        "how a frozen model is kept beside its adapters",
        {"train": "float32"},
    ),
    "LOSS_NORMALIZING_FACTOR": Macro(
        float | Literal["per_example"] | None,
        "divisor of the summed loss (None: the trained tokens; 'per_example': mean over examples)",
        {"train": None},
    ),
    # Evaluation.
    "EVAL_EXAMPLES": Macro(int | None, "examples of each task (None: all)", {"train": 200, "eval": None}, minimum=1),
    "SHOTS": Macro(
        int, "answered training examples of its task before each question", _by("train", "eval", default=0), minimum=0
    ),
    "EVAL_TEMPLATES": Macro(
        Literal["drawn", "each"],
        "one template for each example, or each (mean and best over templates)",
        _by("train", "eval", default="drawn"),
    ),
    "MAX_NEW_TOKENS": Macro(int, "longest answer [tokens]", _by("train", "eval", "infer", default=128), minimum=1),
    # The hardware.
    "MESH": Macro(dict[str, int], "devices on each mesh axis, e.g. {'model': 4}; the rest is 'fsdp'", {"train": {}}),
    "HEARTBEAT_TIMEOUT": Macro(
        float,
        "seconds without a sign of life after which a host is lost and the others end",
        _by("train", "eval", "infer", default=100.0),
    ),
    "DTYPE": Macro(
        Literal["float32", "bfloat16"] | None,
        "type of activations (None: the model's own)",
        _by("train", "eval", "infer", default=None),
    ),
    "ATTENTION": Macro(
        Literal["auto", "plain", "splash"] | None,
        "how whole rows are read: the Splash kernel where the devices are TPUs and the shape allows it (auto), never "
        "or always (None: the model's own)",
        {"train": None},
    ),
    "REMAT": Macro(
        Literal["none", "minimal", "save_dots", "full", "offloaded"] | None,
        "what the backward pass computes again or fetches from the host (None: the model's own)",
        {"train": None},
    ),
}


class Parameter(NamedTuple):
    """One argument of a configurable: its annotation, and whether it must be given."""

    annotation: Any
    required: bool


@dataclass(frozen=True)
class Configurable:
    """A function or class that a configuration can name.

    Args:
        name: its gin name.
        target: the object.
        parameters: what it takes, by name.
        takes_any: whether it has `**kwargs`.
    """

    name: str
    target: Any
    parameters: Mapping[str, Parameter]
    takes_any: bool


def _annotations(target: Any) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for source in [target, target.__init__] if inspect.isclass(target) else [target]:
        try:
            hints.update(typing.get_type_hints(source, include_extras=True))
        except Exception:  # an annotation that exists only for the type checker: nothing to compare with
            continue
    return hints


def load_configurable(name: str, path: str) -> Configurable:
    """Imports a configurable and reads its parameters.

    Args:
        name: gin name.
        path: "module:attribute".

    Raises:
        ImportError: the module or the attribute is not there.
        TypeError: the attribute cannot be called.
    """
    module_name, attribute = path.split(":")
    module = importlib.import_module(module_name)
    if not hasattr(module, attribute):
        raise ImportError(f"module {module_name!r} has no {attribute!r}")
    target = getattr(module, attribute)
    if not callable(target):
        raise TypeError(f"{path} is a {type(target).__name__}, not a class or function")
    hints, parameters, takes_any = _annotations(target), {}, False
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            annotation = hints.get(parameter.name, Any)
            parameters[parameter.name] = Parameter(annotation, parameter.default is parameter.empty)
    return Configurable(name, target, parameters, takes_any)
