"""Two sets of information-seeking dialogues: `dialog_wiki_dialog` and `dialog_q_re_cc`.

The next reply is learned from the dialogue so far; the inverted forms (`..._ii_...`) ask for what was said before a
reply. The data comes from TensorFlow Datasets, or from local files in the layout in which they were published:
`tasks.flan2022.WIKI_DIALOG` is a file or a pattern of JSONL files (.jsonl or .jsonl.gz, such as
`/data/WikiDialog_OQ/data_train.jsonl-*.gz`), `tasks.flan2022.QRECC` the file `qrecc_train.json`.

Source: Dai et al. 2022, Dialog Inpainting: Turning Documents into Dialogs (WikiDialog); Anantha et al. 2021,
Open-Domain Question Answering Goes Conversational via Question Rewriting (QReCC). The templates are this project's own.
"""

import functools
import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.data.file_sources import read_json_rows
from t5x_instruct.data.row_shapes import Placed
from t5x_instruct.data.sources import RowSource, in_validation, read_jsonl
from t5x_instruct.data.tasks import add_rendering, add_task
from t5x_instruct.data.tfds_source import TfdsRows, row_of
from t5x_instruct.evaluation.metrics import exact_match, rouge_l
from t5x_instruct.templates.prompts import Template, draw
from tasks.flan2021.registry import DATA_DIR
from tasks.flan2022.renderings import FORMS_WITH_OPTIONS, SHOTS

Row = dict[str, str | list[str]]

VALIDATION_PERCENT = 1
BEGINNING = "(This is where the conversation begins.)"

REPLYING = [
    Template("{dialogue}"),
    Template("{dialogue}\n\nWrite the next message."),
    Template("Continue this conversation with one reply.\n\n{dialogue}"),
    Template("A conversation:\n{dialogue}\nWhat would the other person say now?"),
    Template("So far they have said:\n\n{before}\n\nNow comes this: {last}\n\nReply to it."),
    Template("Earlier messages:\n{before}\n\nNewest message:\n{last}\n\nReply:"),
    Template("You know a lot and are asked about it. Answer the last message.\n\n{dialogue}"),
    Template("Given what was said before, answer: {last}\n\nBefore it:\n{before}"),
]

INVERTED = [
    Template("{before}\n\nThe next message was answered like this: {answer}\nWhat was the message?", "{last}"),
    Template("Somebody replied: {answer}\n\nWhat might they have been asked?", "{last}"),
    Template("Fill in the message that is missing.\n\n{before}\n[...]\n{answer}", "{last}"),
    Template("Conversation so far:\n{before}\nReply to come: {answer}\nQuestion that leads to this reply:", "{last}"),
    Template("Make up the conversation that led to this reply.\n\n{answer}", "{dialogue}"),
]


def dialogue_row(messages: Sequence[str], reply: str) -> Row | None:
    """A row of the messages before a reply, the newest last; None without a message or a reply."""
    said = [message.strip() for message in messages if message.strip()]
    if not said or not reply.strip():
        return None
    before = "\n".join(said[:-1]) or BEGINNING
    return {"dialogue": "\n".join(said), "before": before, "last": said[-1], "answer": reply.strip()}


def wiki_dialog_row(example: dict[str, Any]) -> Row | None:
    """One of a dialogue's replies, drawn by the hash of its passage: a question of the reader's is answered."""
    utterances, authors = example["utterances"], example["author_num"]
    first = authors[0] if authors else 0  # who knows the passage begins, with a greeting
    replies = [i for i, author in enumerate(authors) if author == first and i > 0 and i < len(utterances)]
    if not replies:
        return None
    chosen = replies[draw(len(replies), "wiki_dialog", str(example["pid"]))]
    return dialogue_row(utterances[:chosen], utterances[chosen])


def qrecc_row(example: dict[str, Any]) -> Row | None:
    """A question with the ones before it and their answers; some questions have no answer."""
    return dialogue_row([*example["context"], example["question"]], example["answer"])


def _qrecc_file_row(example: dict[str, Any]) -> Row | None:
    return dialogue_row([*example["Context"], example["Question"]], example["Answer"])


def file_rows(
    pattern: str,
    read: Callable[[str], Iterator[Placed]],
    make_row: Callable[[dict[str, Any]], Row | None],
    key: str,
    split: str,
) -> Iterator[Placed]:
    """Reads a split of local files.

    Args:
        pattern: a path, or a pattern of paths.
        read: gives the examples of one file.
        make_row: makes a row of one.
        key: the field that decides which split an example belongs to.
        split: 'train' or 'validation'.

    Yields:
        The rows with their places.

    Raises:
        ConfigError: no file has such a path.
        DataError: an example has not the fields it should have.
    """
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise ConfigError(f"there is no file {pattern}; correct the option, or leave it away to use TFDS")
    for path in paths:
        for example, place in read(path):
            if in_validation(str(example.get(key)), VALIDATION_PERCENT) == (split == "validation"):
                row = row_of(example, make_row, place)
                if row is not None:
                    yield Placed(row, place)


def sources(wiki_dialog: str | None, qrecc: str | None) -> dict[str, RowSource]:
    """Where the rows of `wiki_dialog` and `q_re_cc` come from.

    Args:
        wiki_dialog: files, or None for TensorFlow Datasets.
        qrecc: a file, or None likewise.
    """
    slices = {"train": "train", "validation": "validation"}
    wiki: RowSource = TfdsRows("wiki_dialog/OQ", slices, wiki_dialog_row, data_dir=DATA_DIR)
    questions: RowSource = TfdsRows("q_re_cc", {"train": "train", "test": "test"}, qrecc_row, data_dir=DATA_DIR)
    if wiki_dialog:
        wiki = _files(wiki_dialog, read_jsonl, wiki_dialog_row, "pid")
    if qrecc:
        questions = _files(qrecc, read_json_rows, _qrecc_file_row, "Conversation_no")
    return {"wiki_dialog": wiki, "q_re_cc": questions}


def _files(
    pattern: str,
    read: Callable[[str], Iterator[Placed]],
    make_row: Callable[[dict[str, Any]], Row | None],
    key: str,
) -> RowSource:
    parts = ("train", "validation")
    splits = {split: functools.partial(file_rows, pattern, read, make_row, key, split) for split in parts}
    return RowSource(splits, f"files {pattern}")


def register(source_of: Mapping[str, RowSource], budget: int) -> list[str]:
    """Registers both sets, and of each the forms '{name}_zsopt', '{name}_fsopt' and inverted '{name}_ii_zsopt' ...

    Args:
        source_of: what `sources` gave.
        budget: tokens of inputs up to which solved examples are kept.

    Returns:
        The names of the two tasks.
    """
    names = []
    for name, dataset in (("wiki_dialog", "tfds:wiki_dialog/OQ"), ("q_re_cc", "tfds:q_re_cc")):
        task = f"dialog_{name}"
        add_task(
            task,
            cluster="dialog",
            source=source_of[name],
            templates=REPLYING,
            metrics=[rouge_l, exact_match],
            dataset=dataset,
        )
        for form in FORMS_WITH_OPTIONS:
            shots = SHOTS if form.startswith("fs") else (0, 0)
            add_rendering(f"{task}_{form}", task, shots=shots, budget=budget)
            add_rendering(f"{task}_ii_{form}", task, shots=shots, budget=budget, templates=INVERTED, metrics=[rouge_l])
        names.append(task)
    return names
