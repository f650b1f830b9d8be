from typing import Any

import jax
import pytest

from tests.decoding.tiny_models import Counter, TinyAttention


@pytest.fixture(scope="session")
def attention() -> tuple[TinyAttention, dict[str, Any]]:
    model = TinyAttention()
    return model, model.init(jax.random.key(5))


@pytest.fixture(scope="session")
def counter() -> tuple[Counter, dict[str, Any]]:
    model = Counter()
    return model, model.init(jax.random.key(0))
