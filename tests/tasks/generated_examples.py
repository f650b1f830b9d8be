"""Examples that a TFDS dataset could have, made from its feature schema alone."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

SENTENCE = "the old river runs under a red bridge while seven birds watch from one tall tree near Kyoto and Óbidos"
ODD = [" leading and trailing ", "two\nlines", "a {brace} and {{two}}", "naïve 東京 \u200b", "tab\there", "x"]

# What a schema cannot say and a row function may rely on: texts with a meaning of their own, numbers that are codes,
# and fields that belong together. A function changes a generated example in place.
Sense = Callable[[dict[str, Any], random.Random], None]


def _copa(example: dict[str, Any], rng: random.Random) -> None:
    example["question"] = rng.choice([b"cause", b"effect"])


def _winogrande(example: dict[str, Any], rng: random.Random) -> None:
    example["sentence"] = b"The cup did not fit the box because the _ was too big."


def _record(example: dict[str, Any], rng: random.Random) -> None:
    example["query"] = b"Then @placeholder went home."
    if len(example["entities"]):
        example["answers"] = example["entities"][:1]


def _polarity(example: dict[str, Any], rng: random.Random) -> None:
    example["polarity"] = np.int32(rng.choice([0, 0, 2, 4, 4]))


def _ending(example: dict[str, Any], rng: random.Random) -> None:
    example["label"] = np.int32(rng.choice([1, 2]))


def _meaning(example: dict[str, Any], rng: random.Random) -> None:
    example["meaning_representation"] = b"name[The Mill], eatType[pub], food[English]"


def _pronoun(example: dict[str, Any], rng: random.Random) -> None:
    example["sentence"] = b"Ann thanked Eve because she had helped."
    example["pronoun"] = b"she"
    example["candidates"] = np.array([b"Ann", b"Eve"], object)


def _key(example: dict[str, Any], rng: random.Random) -> None:
    count = len(example["choices"]["text"])
    example["choices"]["label"] = np.arange(count)
    example["answerKey"] = np.int64(rng.randrange(count) if count else 0)


def _punctuation(example: dict[str, Any], rng: random.Random) -> None:
    for language, text in example.items():
        example[language] = text.capitalize() + rng.choice([b", or so.", b"!", b"; that is all."])


def _similarity(example: dict[str, Any], rng: random.Random) -> None:
    example["label"] = np.float32(rng.uniform(0, 5))


SENSE: Mapping[str, Sense] = {
    "super_glue/copa": _copa,
    "winogrande": _winogrande,
    "super_glue/record": _record,
    "sentiment140": _polarity,
    "story_cloze/2016": _ending,
    "gem/e2e_nlg": _meaning,
    "definite_pronoun_resolution": _pronoun,
    "ai2_arc/ARC-Challenge": _key,
    "ai2_arc/ARC-Easy": _key,
    "glue/stsb": _similarity,
    "para_crawl/enda": _punctuation,
}


def example_of(feature: Any, rng: random.Random, kind: str) -> Any:
    """A value as `tfds.as_numpy` gives it.

    Args:
        feature: the dataset's features, or one of them.
        rng: what it is drawn with.
        kind: 'usual'; 'odd': texts with line breaks, braces, white space, other scripts; 'sparse': empty sequences and
            class labels of -1, as unlabelled sets have; 'blank': texts that are empty.
    """
    if isinstance(feature, tfds.features.Sequence):
        return _sequence(feature, rng, kind)
    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: example_of(part, rng, kind) for name, part in feature.items()}
    if isinstance(feature, tfds.features.ClassLabel):
        return np.int64(-1 if kind == "sparse" else rng.randrange(feature.num_classes))
    dtype = np.dtype(feature.np_dtype)
    if dtype.kind in "OSU":
        return _text(rng, kind)
    if dtype.kind == "b":
        return np.bool_(rng.random() < 0.5)
    if dtype.kind == "f":
        return dtype.type(rng.uniform(0, 5))
    return dtype.type(rng.randrange(3))


def _sequence(feature: Any, rng: random.Random, kind: str) -> Any:
    length = feature._length or (0 if kind == "sparse" else rng.randrange(2, 5))
    inner = feature.feature
    if isinstance(inner, tfds.features.FeaturesDict):  # TFDS gives a sequence of dicts as a dict of sequences
        return {name: _array([example_of(part, rng, kind) for _ in range(length)]) for name, part in inner.items()}
    return _array([example_of(inner, rng, kind) for _ in range(length)])


def _array(values: list[Any]) -> np.ndarray:
    if values and not isinstance(values[0], bytes):
        return np.array(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _text(rng: random.Random, kind: str) -> bytes:
    if kind == "blank":
        return rng.choice([b"", b" "])
    if kind == "odd":
        return rng.choice(ODD).encode()
    return " ".join(rng.choices(SENTENCE.split(), k=rng.randrange(4, 12))).encode()


def examples(dataset: str, features: Any, kind: str, count: int) -> list[dict[str, Any]]:
    """Several examples of a dataset; the schema's own encoder has accepted each."""
    rng = random.Random(f"{dataset}/{kind}")
    made = []
    for _ in range(count):
        example = example_of(features, rng, kind)
        if kind != "blank" and dataset in SENSE:
            SENSE[dataset](example, rng)
        features.encode_example(example)
        made.append(example)
    return made
