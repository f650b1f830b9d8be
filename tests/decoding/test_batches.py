from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_instruct.decoding.batches import FULL_BATCH_LENGTH, bucket, plan_batches


@given(st.integers(0, 10**6))
def test_buckets_are_few_and_not_much_too_large(length: int) -> None:
    size = bucket(length)
    assert size >= max(length, 16)
    assert bucket(size) == size
    assert size == 16 or size < 1.5 * length
    assert size // (size & -size) in (1, 3)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 3000), max_size=200), st.integers(1, 70))
def test_every_sequence_is_in_one_batch_that_holds_it(lengths: list[int], batch_size: int) -> None:
    batches = plan_batches(lengths, batch_size)
    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch.indices) <= batch.rows <= batch_size
        assert max(lengths[i] for i in batch.indices) <= batch.length
        assert batch.rows == 1 or batch.rows * batch.length <= batch_size * FULL_BATCH_LENGTH
    # A bucket has one number of rows, so that it is compiled once.
    assert len({(batch.length, batch.rows) for batch in batches}) == len({batch.length for batch in batches})
    assert [batch.length for batch in batches] == sorted((batch.length for batch in batches), reverse=True)


def test_one_prompt_is_one_row() -> None:
    assert plan_batches([9], 32) == [([0], 1, 16)]
