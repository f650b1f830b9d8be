"""The arrays of a run's step as tensors that are read when they are wanted."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from t5x_instruct.checkpoints.leaves import LeafSpec
from t5x_instruct.checkpoints.manager import Checkpoints
from t5x_instruct.checkpoints.placement import LazyTensor
from t5x_instruct.common.paths import AnyPath

AHEAD_BYTES = 256 << 20


def step_tensors(
    folder: AnyPath, step: int, specs: Mapping[str, LeafSpec], prefix: str = "", *, verify: bool = True
) -> dict[str, LazyTensor]:
    """The arrays of a step below a name, each to be read into host memory as float32.

    Args:
        folder: `MODEL_DIR/checkpoints`.
        step: a complete step.
        specs: names below `prefix`, with shapes and types.
        prefix: such as "params/".
        verify: whether all files of the step are compared with their checksums before the first array is read.
    """
    reader = _ReadAhead(folder, step, {prefix + name: spec.num_bytes for name, spec in specs.items()}, verify)
    return {
        name: LazyTensor(spec.shape, [partial(reader.read, prefix + name)], stacked=False)
        for name, spec in specs.items()
    }


class _ReadAhead:
    """Reads arrays of a step, and with each that is wanted others that have not been, up to `AHEAD_BYTES`.

    However little is read, Orbax asks for dozens of objects first; in a bucket each is a way there and back.

    Args:
        folder: `MODEL_DIR/checkpoints`.
        step: a complete step.
        sizes: bytes of each array.
        verify: whether the step is verified first.
    """

    def __init__(self, folder: AnyPath, step: int, sizes: Mapping[str, int], verify: bool):
        self._folder, self._step, self._sizes = folder, step, sizes
        self._held: dict[str, np.ndarray] = {}
        self._given: set[str] = set()
        self._verify = verify

    def read(self, name: str) -> np.ndarray:
        """An array as float32; it is not kept.

        Raises:
            CheckpointError: the step is damaged, or cannot be read.
        """
        if name not in self._held:
            self._held = {}  # before others are read: memory holds them once
            with Checkpoints(self._folder) as checkpoints:
                if self._verify:
                    checkpoints.verify(self._step)
                    self._verify = False
                self._held = checkpoints.read_arrays(self._step, self._with_others(name))
        self._given.add(name)
        return np.asarray(self._held.pop(name), np.float32)

    def _with_others(self, name: str) -> list[str]:
        names, total = [name], 0
        for other in self._sizes:  # in one order on every host
            if other != name and other not in self._given and total + self._sizes[other] <= AHEAD_BYTES:
                names.append(other)
                total += self._sizes[other]
        return names
