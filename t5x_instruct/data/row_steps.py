"""Preprocessors that are Python functions of one row: easy to write, and rendered without a TensorFlow graph."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.preprocessors import RenderContext, render_context
from t5x_instruct.data.row_maps import Row, map_rows


class RowStep:
    """A seqio preprocessor that adds fields to each row, for `add_task(preprocessors=...)`.

        def shout(row, index, context):
            return {"loud": row["text"].upper()}

        add_task(..., preprocessors=[RowStep(shout, {"loud": 0})])

    Args:
        function: called with a row (texts and lists of texts), its place in the split and the `RenderContext`; gives
            the new fields. What it draws it draws by hash (`templates.prompts.draw`) of the context's seed and variant,
            the task's name and the row's place.
        adds: the new fields: 0 for a text, 1 for a list of texts.
    """

    def __init__(
        self, function: Callable[[Row, int, RenderContext], Mapping[str, str | list[str]]], adds: Mapping[str, int]
    ):
        self.function = function
        self.adds = dict(adds)

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The dataset with the new fields, as seqio calls it."""
        context = render_context()
        return map_rows(dataset, lambda row, index: self.fields(row, index, context), self.adds)

    def fields(self, row: Row, index: int, context: RenderContext) -> Row:
        """The new fields of one row.

        Args:
            row: the row.
            index: its place in the split.
            context: what it is rendered with.

        Raises:
            DataError: the function gave other fields than it said.
        """
        new = dict(self.function(row, index, context))
        if {name: int(isinstance(value, list)) for name, value in new.items()} != self.adds:
            raise DataError(f"row {index}: {self.function} gave {new}; it has to give the fields {self.adds}")
        return new
