"""t5x_instruct: instruction-tune language models with JAX.

The command line is `t5x-instruct`; in Python, `load` opens a model:

```
lm = t5x_instruct.load("runs/quickstart")
lm.generate(["Name the capital of Peru."])
```
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t5x_instruct.decoding.language_model import LanguageModel
    from t5x_instruct.loading import load

__all__ = ["LanguageModel", "load"]


def __getattr__(name: str) -> Any:
    # Late, so that `t5x-instruct --help` and the data tools start without JAX.
    if name == "load":
        from t5x_instruct.loading import load

        return load
    if name == "LanguageModel":
        from t5x_instruct.decoding.language_model import LanguageModel

        return LanguageModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
