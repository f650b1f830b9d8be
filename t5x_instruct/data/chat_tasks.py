"""Tasks of conversations.

    add_chat_task(
        "support_chats",
        cluster="support",
        source={
            "train": [
                {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
                ...
            ],
        },
    )

A model with a chat template reads them as its template renders them; every other model reads the dialogue so far in a
plain frame and learns the next reply. What is trained on is what the assistant writes, see `data.chat_examples`.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import seqio

from t5x_instruct.common.errors import ConfigError, DataError, unknown
from t5x_instruct.data.chat_preprocessors import Replies, render_conversations
from t5x_instruct.data.seqio_vocabulary import conversation_features
from t5x_instruct.data.sources import Placed, Row, Rows, RowSource
from t5x_instruct.data.tasks import (
    MetricFn,
    TaskInfo,
    calling_place,
    check_free,
    describe_source,
    identity_of,
    register_task,
)

REGISTERS_FOR_CALLERS = True


class Conversations(RowSource):
    """Conversations that Python has or makes, as rows of texts.

    Args:
        splits: for each split its rows (see `RowSource`), or a source of such rows. A row has `messages`, a list of
            dicts, and may have `tools`, a list of dicts; either may be a JSON text instead.
        fields: names of other fields (texts, numbers, lists of texts) that stay in the records; the rest is left out.
        description: what the source is, for listings and messages.
    """

    def __init__(
        self,
        splits: Mapping[str, Rows] | RowSource,
        fields: Sequence[str] = (),
        description: str = "conversations in Python",
    ):
        given = splits if isinstance(splits, RowSource) else RowSource(splits, description)
        rows = {split: functools.partial(_rows_of, rows, tuple(fields)) for split, rows in given.unchecked.items()}
        super().__init__(rows, given.description)


def add_chat_task(
    name: str,
    *,
    cluster: str,
    source: Mapping[str, Rows] | seqio.DataSource,
    metrics: Sequence[MetricFn] = (),
    replies: Replies = "together",
    fields: Sequence[str] = (),
    preprocessors: Sequence[Callable[..., Any]] = (),
    postprocess_fn: Callable[..., Any] | None = None,
    dataset: str | None = None,
) -> seqio.Task:
    """Registers a task of conversations.

    A message has a `role` ('system', 'user', 'assistant' or 'tool') and `content`, a text; one of the assistant may
    have `tool_calls` as OpenAI and Hugging Face write them, and `weight` 0 if it is not to be trained on. A turn of
    the assistant before the first one of the user is not trained on either.

    Args:
        name: a name that no task or mixture has yet.
        cluster: the cluster of tasks it belongs to.
        source: rows for each split or a source of rows (see `Conversations`, which is taken as it is); any other
            seqio data source has to give the texts `messages` and `tools` (JSON; `tools` may be empty).
        metrics: functions (targets, predictions) -> {name: value from 0 to 100}. What is asked for is the first reply
            of an example: with `replies` 'each' every reply of a conversation.
        replies: 'together' trains on the replies of a conversation in one example wherever their tokens stay those of
            serving; 'each' makes one example of each reply, so that long conversations keep more of their later
            replies when examples are cut to the feature lengths, at the price of longer inputs.
        fields: other fields of the rows to keep in the records.
        preprocessors: seqio preprocessors run on the rows of texts before they are rendered.
        postprocess_fn: see `tasks.add_task`.
        dataset: see `tasks.TaskInfo`.

    Returns:
        The registered seqio task.

    Raises:
        ConfigError: the name is taken (saying where) or not allowed, or `replies` is another word.
    """
    where = calling_place()
    check_free(name, where)
    if replies not in get_args(Replies):
        raise ConfigError(f"{where}: task {name!r}: replies: {unknown('choice', replies, get_args(Replies))}")
    if dataset is None and isinstance(source, seqio.DataSource):
        dataset = identity_of(source)
    if not isinstance(source, seqio.DataSource) or (
        isinstance(source, RowSource) and not isinstance(source, Conversations)
    ):
        source = Conversations(source, fields, f"conversations of {where}")
    return register_task(
        TaskInfo(name, cluster, (), describe_source(source), where, dataset=dataset),
        source,
        preprocessors=[*preprocessors, functools.partial(render_conversations, task=name, replies=replies)],
        output_features=conversation_features(),
        metrics=metrics,
        postprocess_fn=postprocess_fn,
    )


def _rows_of(rows: Rows, fields: tuple[str, ...]) -> Iterator[Placed]:
    """Rows whose conversations are JSON texts."""
    items: Iterable[Row | Placed] = rows() if callable(rows) else rows
    for number, item in enumerate(items):
        row, place = item if isinstance(item, Placed) else (item, f"row {number}")
        missing = [name for name in ("messages", *fields) if name not in row]
        if missing:
            raise DataError(f"{place}: {unknown('field', missing[0], row)}")
        texts = {name: _as_json(row.get(name), name, place) for name in ("messages", "tools")}
        yield Placed({**{name: row[name] for name in fields}, **texts}, place)


def _as_json(value: Any, name: str, place: str) -> str:
    if value is None and name == "tools":
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence) or not all(isinstance(part, Mapping) for part in value):
        raise DataError(f"{place}: the field {name!r} has to be a list of objects, got {value!r:.200}")
    try:
        return json.dumps(list(value))
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: the field {name!r} cannot be written as JSON: {error}") from error
