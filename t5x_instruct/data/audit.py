"""The audit: what is wrong with prepared data, task by task, before a model is trained on it.

Everything is read from prepared data, without TensorFlow, a few hundred examples at a time. What is known of every
example (lengths, and so what is cut) comes from the length index; the other checks read the examples themselves, all
of them or a sample (`audit`), and `check_before_training` reads a few of each task and more where these look wrong.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.duplicates import SplitHashes, find_duplicates
from t5x_instruct.data.example_checks import CHECKS, PLAIN_CHECKS, RENDERING_CHECKS, Judge
from t5x_instruct.data.prepared import PreparedMixture, PreparedSplit, PreparedTask
from t5x_instruct.data.prompt_formats import make_prompt_format
from t5x_instruct.data.records import Example
from t5x_instruct.data.vocabularies import Vocabulary

CHUNK = 512
RENDERED_AGAIN = 2000  # examples of a split whose texts are encoded again: a wrong rendering is wrong in most of them
QUICK_EXAMPLES = 2048  # read before training, of all tasks together
QUICK_LEAST, QUICK_MORE = 2, 512  # of one task; of one that looks wrong
MOST_FAULTS = 20


@dataclasses.dataclass(frozen=True)
class AuditLimits:
    """How much of a task may be wrong before a run is stopped: shares of its examples, from 0 to 1.

    Attributes:
        untrained: most examples of which no trained token is left after cutting.
        end_not_trained: most examples that do not teach where an answer ends.
        cut_responses: most examples whose targets are longer than the targets' length. A large mixture has a few tasks
            of long texts: they pass as long as they make at most `cut_tasks` of the mixture.
        cut_tasks: the largest part of the mixture, by rate, whose tasks may be over `cut_responses`.
        empty_targets: most examples whose target text is empty.
        bad_text: most examples with bytes that are no UTF-8, or with U+FFFD, which stands for such bytes.
        changed_targets: most examples whose target ids are not those of their text.
        changed_prompts: most examples whose inputs are not what the model is given when it is asked.
    """

    untrained: float = 0.01
    end_not_trained: float = 0.1
    cut_responses: float = 0.5
    cut_tasks: float = 0.05
    empty_targets: float = 0.05
    bad_text: float = 0.05
    changed_targets: float = 0.05
    changed_prompts: float = 0.5

    def __post_init__(self) -> None:
        problems = [
            f"AuditLimits.{name} = {value}: must be a share from 0 to 1"
            for name, value in dataclasses.asdict(self).items()
            if not 0 <= value <= 1
        ]
        if problems:
            raise ConfigError(problems)


class Finding(NamedTuple):
    """How often a check has failed, and where first.

    Attributes:
        failed: examples it failed on.
        of: examples that were looked at.
        example: index of the first one; None where it is not known.
        shown: what is to be seen there.
    """

    failed: int
    of: int
    example: int | None = None
    shown: str = ""

    @property
    def share(self) -> float:
        """Failed over looked at, 0 to 1."""
        return self.failed / self.of if self.of else 0.0


@dataclasses.dataclass(frozen=True)
class SplitAudit:
    """What was found in one split of a task.

    Attributes:
        task: the task's name.
        cluster: its cluster.
        role: 'train' or 'held_out'.
        split: the split's name.
        examples: examples of the split.
        read: how many of them were read.
        weight: the task's part of the training mixture, by rate; 0 for what is not trained on.
        trained_share: trained tokens over all tokens, of the split.
        counters: what `prepare` has counted, such as dropped exemplars.
        findings: by the names of `CHECKS`; checks that were not made are absent.
    """

    task: str
    cluster: str
    role: str
    split: str
    examples: int
    read: int
    weight: float
    trained_share: float
    counters: Mapping[str, int]
    findings: Mapping[str, Finding]

    def share(self, check: str) -> float | None:
        """The share of examples that fail a check; None where it was not made."""
        finding = self.findings.get(check)
        return None if finding is None else finding.share

    def over(self, limits: AuditLimits) -> list[str]:
        """The checks whose share passes its limit."""
        return [
            name for name, most in dataclasses.asdict(limits).items() if (share := self.share(name)) and share > most
        ]

    def message(self, check: str, limit: float | None = None) -> str:
        """A finding as a sentence: the task, the figure, the limit, an example, the fix."""
        finding, about = self.findings[check], CHECKS[check]
        text = f"task {self.task!r}, split {self.split!r}: {finding.failed:,} of {finding.of:,} {about.what}"
        text += f" ({100 * finding.share:.1f} %)"
        if limit is not None:
            text += f"; the limit is {100 * limit:.4g} % (AuditLimits.{check})"
        if finding.example is not None:
            text += f"; e.g. example {finding.example}: {finding.shown}"
        return f"{text}; {about.fix}"

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        values = {k: v for k, v in vars(self).items() if k != "findings"}
        return values | {
            "findings": {name: f._asdict() | {"share": f.share} for name, f in self.findings.items() if f.failed}
        }


@dataclasses.dataclass(frozen=True)
class Audit:
    """The findings of a mixture.

    Attributes:
        splits: every split that was looked at.
        lengths: TASK_FEATURE_LENGTHS that examples were held against; None: not cut.
    """

    splits: tuple[SplitAudit, ...]
    lengths: Mapping[str, int] | None

    def faults(self, limits: AuditLimits) -> list[str]:
        """A sentence for every limit that a training split passes."""
        bounds = dataclasses.asdict(limits)
        return [split.message(check, bounds[check]) for split in self.splits for check in self._stops(split, limits)]

    def _stops(self, split: SplitAudit, limits: AuditLimits) -> list[str]:
        if split.role != "train" or split.split != "train":
            return []
        allowed = {"cut_responses"} if self._cut_weight(limits.cut_responses) <= limits.cut_tasks else set()
        return [check for check in split.over(limits) if check not in allowed]

    def _cut_weight(self, most: float) -> float:
        """The part of the mixture whose tasks have a larger share of their responses cut."""
        return sum(split.weight for split in self.splits if (split.share("cut_responses") or 0) > most)

    def warnings(self, limits: AuditLimits) -> list[str]:
        """A sentence for everything else that is more frequent than it should be."""
        texts = []
        for split in self.splits:
            stops = self._stops(split, limits)
            texts += [
                split.message(name)
                for name, finding in split.findings.items()
                if name not in stops and finding.share > CHECKS[name].warn
            ]
        return texts

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "lengths": None if self.lengths is None else dict(self.lengths),
            "splits": [split.to_json() for split in self.splits],
        }


def audit(
    mixture: PreparedMixture,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int] | None = None,
    *,
    examples: int | None = None,
) -> Audit:
    """Audits every split of a mixture.

    Duplicates are looked for in what is read, so a sample finds only some of them.

    Args:
        mixture: the prepared mixture.
        vocabulary: what it was prepared with.
        lengths: TASK_FEATURE_LENGTHS to hold it against [tokens]; None: nothing is cut.
        examples: how many examples of each split are read, evenly spread; None: all.

    Raises:
        DataError: prepared data is damaged.
    """
    judge = Judge(vocabulary, make_prompt_format(mixture.spec.prompt_format, vocabulary), lengths)
    found, hashes, parts = [], [], weights(mixture)
    for task in mixture.tasks:
        for name, split in task.splits.items():
            part = parts.get(task.name, 0.0) if name == "train" else 0.0
            one, own = _audit_split(task, name, part, judge, lengths, spread(split.num_examples, examples))
            found.append(one)
            hashes.append(own)
    splits = (
        dataclasses.replace(one, findings=_in_order({**one.findings, **{k: Finding(*v) for k, v in more.items()}}))
        for one, more in zip(found, find_duplicates(hashes), strict=True)
    )
    return Audit(tuple(splits), lengths)


def check_before_training(
    mixture: PreparedMixture, vocabulary: Vocabulary, lengths: Mapping[str, int], limits: AuditLimits
) -> Audit:
    """The cheap form: reads a few examples of each training split, and more of those that look wrong.

    Args:
        mixture: the prepared mixture.
        vocabulary: what it was prepared with.
        lengths: TASK_FEATURE_LENGTHS [tokens].
        limits: what stops a run.

    Returns:
        What was found within the limits.

    Raises:
        ConfigError: limits that are passed, all of them with task, figure, limit, example and fix.
        DataError: prepared data is damaged.
    """
    judge = Judge(vocabulary, make_prompt_format(mixture.spec.prompt_format, vocabulary), lengths)
    tasks, parts = mixture.train_tasks, weights(mixture)
    few = max(QUICK_LEAST, QUICK_EXAMPLES // max(1, len(tasks)))
    found: list[SplitAudit] = []
    wrong = 0
    for task in tasks:
        size, part = task.splits["train"].num_examples, parts[task.name]
        one, _ = _audit_split(task, "train", part, judge, lengths, spread(size, few))
        if _of_a_sample(one, limits) and few < QUICK_MORE:
            one, _ = _audit_split(task, "train", part, judge, lengths, spread(size, QUICK_MORE))
        found.append(one)
        wrong += bool(_of_a_sample(one, limits))
        if wrong >= MOST_FAULTS:
            break
    report = Audit(tuple(found), lengths)
    if faults := report.faults(limits):
        raise ConfigError(faults)
    return report


def _of_a_sample(one: SplitAudit, limits: AuditLimits) -> list[str]:
    """The limits that are passed in what was read; what is cut is known of all examples."""
    return [check for check in one.over(limits) if check != "cut_responses"]


def weights(mixture: PreparedMixture) -> dict[str, float]:
    """Each trained task's part of the mixture, by rate."""
    total = sum(task.rate for task in mixture.train_tasks) or 1.0
    return {task.name: task.rate / total for task in mixture.train_tasks}


def spread(size: int, most: int | None) -> NDArray[np.int64]:
    """At most `most` of the indices below `size`, evenly spread; all for None."""
    if most is None or most >= size:
        return np.arange(size)
    return np.arange(most) * size // most


def read_chunks(split: PreparedSplit, indices: NDArray[np.int64]) -> Iterator[list[tuple[int, Example]]]:
    """Examples of the first variant with their indices, `CHUNK` at a time."""
    for start in range(0, len(indices), CHUNK):
        part = indices[start : start + CHUNK].tolist()
        yield list(zip(part, split.read_many(part, [0] * len(part)), strict=True))


def _audit_split(
    task: PreparedTask,
    name: str,
    part: float,
    judge: Judge,
    lengths: Mapping[str, int] | None,
    indices: NDArray[np.int64],
) -> tuple[SplitAudit, SplitHashes]:
    """The findings in the examples at `indices` and, of the whole split, in the length index; and their hashes."""
    split = task.splits[name]
    again = set(indices[spread(len(indices), RENDERED_AGAIN)].tolist())
    found = {check: Finding(0, len(indices)) for check in PLAIN_CHECKS}
    found |= {check: Finding(0, len(again)) for check in RENDERING_CHECKS}
    hashes = SplitHashes(task.name, name, task.role)
    for chunk in read_chunks(split, indices):
        hashes.add(chunk)
        for index, example in chunk:
            faults = [*judge.plain_faults(example)]
            faults += judge.rendering_faults(example) if index in again else []
            for check, shown in faults:
                before = found[check]
                first = (index, shown) if before.example is None else (before.example, before.shown)
                found[check] = Finding(before.failed + 1, before.of, *first)
    found["refused"] = _refused(split)
    if lengths is not None:
        found |= _cut(split, lengths)
    tokens = split.tokens
    share = tokens["trained"] / max(1, tokens["inputs"] + tokens["targets"])
    audited = SplitAudit(
        task=task.name,
        cluster=task.cluster,
        role=task.role,
        split=name,
        examples=split.num_examples,
        read=len(indices),
        weight=part,
        trained_share=share,
        counters=split.counters,
        findings=_in_order(found),
    )
    return audited, hashes


def _in_order(findings: Mapping[str, Finding]) -> dict[str, Finding]:
    return {check: findings[check] for check in CHECKS if check in findings}


def _cut(split: PreparedSplit, lengths: Mapping[str, int]) -> dict[str, Finding]:
    """What TASK_FEATURE_LENGTHS cut of all examples in all variants."""
    found = {}
    for column, (check, feature) in enumerate((("cut_inputs", "inputs"), ("cut_responses", "targets"))):
        raw = split.lengths[:, column]
        over = np.flatnonzero(raw > lengths[feature])
        finding = Finding(len(over), len(raw))
        if len(over):
            most = int(np.quantile(raw, 0.95, method="higher"))
            shown = f"{int(raw[over[0]]):,} tokens, the length is {lengths[feature]:,}; {most:,} would keep 95 % whole"
            finding = Finding(len(over), len(raw), int(over[0]) % split.num_examples, shown)
        found[check] = finding
    return found


def _refused(split: PreparedSplit) -> Finding:
    count, first = int(split.refused["count"]), split.refused["first"]
    of = split.num_examples + count
    if not first:
        return Finding(count, of)
    reasons = dict.fromkeys(str(one["why"]) for one in first)
    return Finding(count, of, int(first[0]["example"]), "; ".join(reasons))
