"""Prepared mixtures without files, for tests of what only reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import Example, PreparedMixture, PreparedTask
from t5x_instruct.data.prompt_formats import encode_prompt, make_prompt_format
from t5x_instruct.data.vocabularies import ByteVocabulary

VOCABULARY = ByteVocabulary()


def example_of(inputs, targets, vocabulary=VOCABULARY, prompt_format="plain", **changes):
    """An example as `prepare` writes it; `changes` are other values of its fields."""
    ids = encode_prompt(vocabulary, make_prompt_format(prompt_format, vocabulary), inputs) if inputs else []
    target_ids = np.array([*vocabulary.encode(targets), vocabulary.eos_id], np.int32)
    fields = {
        "inputs": np.array(ids, np.int32),
        "targets": target_ids,
        "targets_mask": np.ones(len(target_ids), bool),
        "meta": {"inputs_pretokenized": inputs, "targets_pretokenized": targets},
    } | changes
    return Example(**fields)


class MemorySplit:
    """What readers use of a `PreparedSplit`."""

    def __init__(self, examples: Sequence[Example], variants: int = 1, refused: Mapping | None = None):
        self._examples = list(examples)
        self.num_examples, self.variants = len(self._examples) // variants, variants
        self.refused = dict(refused or {"count": 0, "first": []})
        self.counters: dict[str, int] = {}
        self.lengths = np.array([[len(e.inputs), len(e.targets)] for e in self._examples], np.int32)
        self.tokens = {
            "inputs": int(self.lengths[:, 0].sum()),
            "targets": int(self.lengths[:, 1].sum()),
            "trained": sum(int(e.targets_mask.sum()) for e in self._examples),
        }

    def read_many(self, examples, variants):
        return [self._examples[v * self.num_examples + e] for e, v in zip(examples, variants, strict=True)]


def task_of(name, train=None, validation=None, *, role="train", rate=None, base="", dataset=None, refused=None):
    """A task of examples, or of (inputs, targets) texts."""
    splits = {}
    for split, rows in (("train", train), ("validation", validation)):
        if rows is not None:
            made = [row if isinstance(row, Example) else example_of(*row) for row in rows]
            splits[split] = MemorySplit(made, refused=refused)
    size = splits["train"].num_examples if "train" in splits else 0
    return PreparedTask(
        name=name,
        cluster=f"{name}_cluster",
        rate=float(size if rate is None else rate),
        role=role,
        splits=splits,
        inputs_tail=0,
        fingerprint="f",
        base=base,
        dataset=dataset,
    )


def mixture_of(*tasks, prompt_format="plain"):
    spec = PrepareSpec(mixture="mix", modules=(), vocabulary="bytes", prompt_format=prompt_format, root=Path())
    return PreparedMixture("mix", tuple(tasks), "f", spec)
