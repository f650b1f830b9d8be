"""What `prepare` is asked to render, as plain values that a child process can be given."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.common.paths import is_bucket, staged_place

MAX_VARIANTS = 1000
SHARD_ROWS = 32_768
EXEMPLARS = "exemplars"  # a split made of 'train' for tasks that are evaluated; never trained on

Role = Literal["train", "held_out", "left_out"]  # left out: related to what is held out, neither trained nor evaluated
Templates = Literal["drawn", "each"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareSpec:
    """What is to be rendered, and how.

    Attributes:
      mixture: name of a seqio mixture or task.
      modules: module names or `.py` paths that register it.
      vocabulary: what `load_vocabulary` opens.
      prompt_format: 'plain', 'line', 'eos' or 'chat' (see `make_prompt_format`); applies to `inputs` of tasks that
        follow the model, the EOS of 'eos' to those of all tasks.
      splits: splits to render where a task has them. 'train' is never rendered for held-out tasks.
      hold_out: clusters, tasks or mixtures (their tasks) that are evaluated and never trained on. Clusters related to
        one of which all tasks are held out (`tasks.relate_clusters`) are left out.
      seed: of the draws of templates and options, and of seqio's seeded preprocessors.
      variants: how many times each training example is rendered; other splits are rendered once.
      exemplars: whether to render the split 'train' of tasks that are evaluated as the split 'exemplars'.
        Those are the held-out tasks; all tasks if there is no hold-out and 'train' is not among the splits.
      templates: 'drawn': each rendering draws its template; 'each': tasks that are evaluated are rendered
        once with every template, variant v with template v.
      num_templates: how many of each trained task's templates are used, the first ones; None: all. Tasks that are
        evaluated always have all of theirs.
      root: folder of the prepared data. Of a folder in a bucket (`gs://...`) it becomes the folder of its copy on this
        machine's disk: shards are read by index, from files.
      bucket: the folder in a bucket that `root` is a copy of; None where there is none.
      module_options: settings of task modules, e.g. {'tasks.cot.FOLDER': '/data/cot'}.
      strict: whether a task whose data cannot be had is an error; otherwise a mixture goes without it and says so.
        Held-out tasks and a mixture's only task are never skipped.
    """

    mixture: str
    modules: tuple[str, ...]
    vocabulary: str
    prompt_format: str = "plain"
    splits: tuple[str, ...] = ("train", "validation")
    hold_out: tuple[str, ...] = ()
    seed: int = 0
    variants: int = 1
    exemplars: bool = False
    templates: Templates = "drawn"
    num_templates: int | None = None
    root: Path
    bucket: str | None = None
    module_options: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    strict: bool = False

    def __post_init__(self) -> None:
        for name in ("modules", "splits", "hold_out"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigError(f"{name} must be a list of names, not the text {value!r}")
            object.__setattr__(self, name, tuple(value))
        if is_bucket(self.root):
            object.__setattr__(self, "bucket", os.fspath(self.root))
            object.__setattr__(self, "root", staged_place(self.root))
        object.__setattr__(self, "root", Path(self.root))
        object.__setattr__(self, "module_options", dict(self.module_options))
        if not 1 <= self.variants <= MAX_VARIANTS:
            raise ConfigError(f"variants must be from 1 to {MAX_VARIANTS}, not {self.variants}")
        if self.templates not in ("drawn", "each"):
            raise ConfigError(f"templates is {self.templates!r}; valid: 'drawn', 'each'")
        if self.num_templates is not None and self.num_templates < 1:
            raise ConfigError(f"num_templates is {self.num_templates}; it must be at least 1, or None for all")
        if EXEMPLARS in self.splits:
            raise ConfigError(f"splits names {EXEMPLARS!r}, which is made of 'train'; set exemplars=True instead")
        if not self.splits and not self.exemplars:
            raise ConfigError("splits is empty; name at least one, e.g. ('train', 'validation')")

    def evaluates(self, role: Role) -> bool:
        """Whether tasks of this role are evaluated rather than trained on."""
        return role == "held_out" or not (self.hold_out or "train" in self.splits)

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values."""
        values = dataclasses.asdict(self) | {"root": str(self.root)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PrepareSpec":
        """The inverse of `to_json`.

        Raises:
          ConfigError: an unknown field, or one is missing.
        """
        fields = {f.name for f in dataclasses.fields(cls)}
        problems = [unknown("field", name, fields) for name in values if name not in fields]
        required = ("mixture", "modules", "vocabulary", "root")
        problems += [f"missing field {name!r}" for name in required if name not in values]
        if problems:
            raise ConfigError(problems)
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """Who renders; the files are the same whoever does.

    Attributes:
      workers: processes; 1 renders in the process that asks.
      runner: an Apache Beam runner that renders instead, e.g. 'DirectRunner'; its workers need this package, the task
        modules, the data and the folder of prepared data at the same paths.
      pipeline_options: of the runner, as on a command line: 'region=europe-west4', 'direct_num_workers=4'.
      shard_rows: rows of the source a shard, the unit that an interrupted run does not do twice.
    """

    workers: int = 1
    runner: str | None = None
    pipeline_options: tuple[str, ...] = ()
    shard_rows: int = SHARD_ROWS

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}; it must be at least 1"
            for name in ("workers", "shard_rows")
            if getattr(self, name) < 1
        ]
        if self.runner is not None and self.workers > 1:
            problems.append(f"workers is {self.workers} beside the runner {self.runner!r}; give one of them")
        if self.pipeline_options and self.runner is None:
            problems.append(f"pipeline options {list(self.pipeline_options)} without a runner; name one")
        if problems:
            raise ConfigError(problems)


IN_PROCESS = Execution()
