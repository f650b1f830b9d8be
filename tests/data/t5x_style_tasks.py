"""A task module as T5X's documentation writes them: it imports seqio and TensorFlow alone.

A TSV file read line by line, a function of rows, a SentencePiece vocabulary with extra ids, a placeholder for the
cache, a metric, postprocessing, and a mixture by number of examples.
"""

import functools
import os

import seqio
import tensorflow as tf

FOLDER = os.path.dirname(os.path.abspath(__file__))
VOCABULARY = seqio.SentencePieceVocabulary(os.environ["T5X_STYLE_VOCABULARY"], extra_ids=0)
OUTPUT_FEATURES = {
    "inputs": seqio.Feature(vocabulary=VOCABULARY, add_eos=True, required=False),
    "targets": seqio.Feature(vocabulary=VOCABULARY, add_eos=True),
}


def parse_tsv(dataset, field_names):
    def split_line(line):
        cells = tf.io.decode_csv(line, [""] * len(field_names), field_delim="\t", use_quote_delim=False)
        return dict(zip(field_names, cells, strict=True))

    return dataset.map(split_line, num_parallel_calls=tf.data.AUTOTUNE)


@seqio.map_over_dataset(num_seeds=1)
def ask_the_sum(example, seed):
    words = tf.constant(["sum", "add"])
    word = words[tf.random.stateless_uniform([], seed, maxval=2, dtype=tf.int32)]
    question = tf.strings.join([word, ": ", example["left"], " ", example["right"]])
    return {"inputs": question, "targets": example["total"]}


def names_of(split, shuffle_files=False, seed=None):
    del shuffle_files, seed
    names = {"train": ["ann", "bob", "cid"], "validation": ["dan"]}[split]
    return tf.data.Dataset.from_tensor_slices({"name": names})


def lower(output, is_target=False, **unused):
    del is_target, unused
    return output.lower()


def accuracy(targets, predictions):
    right = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return {"accuracy": 100.0 * right / len(targets)}


seqio.TaskRegistry.add(
    "t5x_style_sums",
    source=seqio.TextLineDataSource(
        split_to_filepattern={
            "train": os.path.join(FOLDER, "t5x_style_sums.tsv"),
            "validation": os.path.join(FOLDER, "t5x_style_sums.tsv"),
        },
        skip_header_lines=1,
        num_input_examples={"train": 4, "validation": 4},
    ),
    preprocessors=[
        functools.partial(parse_tsv, field_names=["left", "right", "total"]),
        ask_the_sum,
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        seqio.preprocessors.append_eos_after_trim,
    ],
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)

seqio.TaskRegistry.add(
    "t5x_style_names",
    source=seqio.FunctionDataSource(
        dataset_fn=names_of, splits=["train", "validation"], num_input_examples={"train": 3, "validation": 1}
    ),
    preprocessors=[
        functools.partial(seqio.preprocessors.rekey, key_map={"inputs": None, "targets": "name"}),
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        seqio.preprocessors.append_eos,
    ],
    output_features=OUTPUT_FEATURES,
    postprocess_fn=lower,
    metric_fns=[accuracy],
)

seqio.MixtureRegistry.add(
    "t5x_style",
    ["t5x_style_sums", "t5x_style_names"],
    default_rate=functools.partial(seqio.mixing_rate_num_examples, maximum=3),
)
