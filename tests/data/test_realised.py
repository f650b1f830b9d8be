"""What a mixture says of its epochs holds for what is really drawn, through `prepare`."""

from collections import Counter

import numpy as np
import pytest
import seqio

from t5x_instruct.data.converters import DecoderConverter
from t5x_instruct.data.loader import Loader
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.tasks import add_mixture, proportional

SIZES = {"realised_large": 60, "realised_middle": 20, "realised_small": 5}
CAP = 10


@pytest.fixture
def mixtures(register):
    """The small task and, at twice its weight, a capped mixture of the other two inside of another."""
    for name, size in SIZES.items():
        register(name, [(f"{name} {i}", f"answer {i}") for i in range(size)], splits=("train",))
    add_mixture("realised_capped", ["realised_large", "realised_middle", "realised_small"], rate=proportional(cap=CAP))
    add_mixture("realised_inner", ["realised_large", "realised_middle"], rate=proportional(cap=CAP))
    add_mixture("realised_nested", [("realised_inner", 2.0), ("realised_small", 1.0)])
    yield
    for name in ("realised_capped", "realised_inner", "realised_nested"):
        seqio.MixtureRegistry.remove(name)


@pytest.mark.parametrize(
    ("name", "shares"),
    [("realised_capped", (10 / 25, 10 / 25, 5 / 25)), ("realised_nested", (1 / 3, 1 / 3, 1 / 3))],
)
def test_an_epoch_of_a_capped_or_nested_mixture_is_what_it_says(mixtures, tmp_path, name, shares):
    spec = PrepareSpec(mixture=name, modules=(), vocabulary="bytes", splits=("train",), root=tmp_path)
    prepared = prepare(spec, progress=lambda line: None)
    loader = Loader(prepared, "train", DecoderConverter(40, 20, 1, 0), batch_size=5, seed=3, num_epochs=2, window=16)
    realised = loader.realised_mixture(num_epochs=2)
    assert realised["epoch_size"] == sum(SIZES.values())
    drawn = loader.order.order(np.arange(2 * realised["epoch_size"]))
    times = Counter(zip(drawn.task.tolist(), drawn.example.tolist(), strict=True))
    for i, (task, share) in enumerate(zip(SIZES, shares, strict=True)):
        row = realised["tasks"][task]
        assert row["examples"] == 2 * loader.order.counts[i]
        assert row["examples"] / 2 == pytest.approx(share * realised["epoch_size"], abs=1)
        assert row["share"] == pytest.approx(share, abs=0.02)
        # Before an example is drawn again, every other one of its task was drawn as often.
        seen = [times[i, example] for example in range(SIZES[task])]
        assert sum(seen) == row["examples"]
        assert max(seen) - min(seen) <= 1
    for _ in loader:
        pass
    assert loader.consumed_mixture()["tasks"] == realised["tasks"]
