"""Whether a task's data lies ready on this machine, and if not what would help."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import seqio

from t5x_instruct.common.errors import InstructError, SourceUnavailable
from t5x_instruct.data.addresses import NO_HOST, NOT_THERE
from t5x_instruct.data.hub_sources import HuggingFace
from t5x_instruct.data.sources import RowSource
from t5x_instruct.data.tfds_source import TfdsRows, tfds_page

Status = Literal["ready", "downloadable", "manual", "gone"]


class SourceState(NamedTuple):
    """How a source's data can be had.

    Attributes:
        status: 'ready' on this machine; 'downloadable' by `prepare` or `tasks doctor --download`; 'manual': only by
            hand; 'gone': no longer where it was.
        why: what is known, for people.
        fix: what to do; empty where nothing is to be done.
    """

    status: Status
    why: str = ""
    fix: str = ""


def state_of(source: seqio.DataSource) -> SourceState:
    """The state of a source as far as this machine's files tell it; nothing is looked up in the network.

    Args:
        source: a task's source. Of one that reads files or has rows in Python the first row is read.

    Returns:
        Its state. A source of a kind that is not known counts as ready.
    """
    if isinstance(source, seqio.TfdsDataSource):
        return _tfds_state(as_rows(source))
    if isinstance(source, TfdsRows):
        return _tfds_state(source)
    if isinstance(source, HuggingFace) and not source.files:
        return SourceState("downloadable", "on the Hugging Face hub", "`t5x-instruct prepare` downloads it")
    if isinstance(source, seqio.FileDataSource):
        return _readable(lambda: [source.list_shards(split) for split in source.splits])
    if isinstance(source, RowSource):
        return _readable(lambda: [next(iter(source.rows(split)), None) for split in list(source.splits)[:1]])
    return SourceState("ready", "not known to need a download")


def as_rows(source: seqio.TfdsDataSource) -> TfdsRows:
    """seqio's own TFDS source as one of ours, without rows, to ask about its data."""
    return TfdsRows(source.tfds_dataset.name, {}, lambda example: None, data_dir=source.tfds_dataset.data_dir)


def _readable(read: Any) -> SourceState:
    try:
        read()
    except InstructError as error:
        return SourceState("gone", str(error), getattr(error, "fix", "put the files there, or leave the task out"))
    except Exception as error:  # a source of the user's own may fail in any way
        return SourceState("gone", f"{type(error).__name__}: {error}", "correct the source, or leave the task out")
    return SourceState("ready")


def _tfds_state(rows: TfdsRows) -> SourceState:
    try:
        if rows.is_prepared():
            return SourceState("ready", f"in {rows.builder.data_dir}")
        by_hand = rows.manual_instructions()
        if by_hand is None:
            return SourceState("downloadable", "", "`t5x-instruct prepare` or `tasks doctor --download` downloads it")
        return SourceState("manual", f"TFDS reads it from {rows.manual_dir()}", by_hand)
    except SourceUnavailable as error:
        return SourceState("gone", str(error).removesuffix(f"; {error.fix}"), error.fix)


def with_answers(state: SourceState, rows: TfdsRows, answers: Mapping[str, int | None]) -> SourceState:
    """A downloadable dataset's state after its addresses were looked up.

    Args:
        state: the state before.
        rows: the source.
        answers: what `look_up` found, for its addresses among others.

    Returns:
        'gone' if none of its addresses is there any more, else the state with what was found.
    """
    mine = [answers[url] for url in rows.addresses() if url in answers]
    lost = [answer for answer in mine if answer == NO_HOST or answer in NOT_THERE]
    if mine and len(lost) == len(mine):
        return SourceState(
            "gone",
            f"none of the {len(mine)} addresses that TFDS has for {rows.dataset!r} is there any more",
            f"see {tfds_page(rows.dataset)} for another place, or leave the task out",
        )
    if not mine:
        return state._replace(why="TFDS has recorded no address to look up")
    found = sum(answer is not None and answer not in NOT_THERE and answer != NO_HOST for answer in mine)
    return state._replace(why=f"{found} of {len(mine)} addresses looked up answer")
