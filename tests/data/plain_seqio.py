"""A task module in plain seqio style: it imports nothing of this project."""

import functools

import seqio
import tensorflow as tf


def dataset_fn(split, shuffle_files=False, seed=None):
    del shuffle_files, seed
    numbers = range(8) if split == "train" else range(8, 10)
    return tf.data.Dataset.from_tensor_slices({"number": [str(n) for n in numbers]})


@seqio.map_over_dataset
def ask(example):
    return {"inputs": tf.strings.join(["next: ", example["number"]]), "targets": example["number"]}


def accuracy(targets, predictions):
    return {"accuracy": 100.0 * sum(t == p for t, p in zip(targets, predictions, strict=True)) / len(targets)}


FEATURE = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)

seqio.TaskRegistry.add(
    "plain_seqio_numbers",
    source=seqio.FunctionDataSource(
        dataset_fn, splits=("train", "validation"), num_input_examples={"train": 8, "validation": 2}
    ),
    preprocessors=[ask, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={"inputs": FEATURE, "targets": FEATURE},
    metric_fns=[accuracy],
)

seqio.MixtureRegistry.add(
    "plain_seqio_mixture", ["plain_seqio_numbers"], default_rate=functools.partial(seqio.mixing_rate_num_examples)
)
