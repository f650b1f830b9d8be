"""Saving and restoring the state of a run. The only module that talks to Orbax."""

import contextlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.options import AsyncOptions

from t5x_instruct.checkpoints import checksums, leaves, shardings
from t5x_instruct.checkpoints.leaves import LeafSpec
from t5x_instruct.common import hosts
from t5x_instruct.common.buckets import use_for_epath
from t5x_instruct.common.errors import CheckpointError, unknown
from t5x_instruct.common.paths import AnyPath, is_bucket

_STATE, _RUN, _RUN_FILE = "state", "run", "metadata"
_TEMPORARY_MARK = ".orbax-checkpoint-tmp"
_FULL_DISK_SIGNS = ("ENOSPC", "No space left", "EFBIG", "File too large", "EDQUOT", "Disk quota")

log = logging.getLogger(__name__)


class BestStep(NamedTuple):
    """The best of a run's complete steps.

    Attributes:
        step: its number.
        metric: by what it is the best.
        value: of the metric.
    """

    step: int
    metric: str
    value: float


class Checkpoints:
    """The checkpoints of one run: `MODEL_DIR/checkpoints/STEP/`.

    A step counts only when it is complete: committed by Orbax, and all its files listed with sizes and checksums in
    `CHECKSUMS.json`. Every host of the run has to make the same calls in the same order.

    Args:
        folder: `MODEL_DIR/checkpoints`; made at the first save.
        keep_last: how many of the newest complete steps stay.
        keep_best: `(metric, "min" | "max")`: the step with the best value of this metric stays as well (the newest
            of equals); the metric is looked up in what `save` is given.
        save_async: write in the background; `save` then returns when the state is copied to host memory.

    Raises:
        CheckpointError: `keep_last` is below 1 or the mode of `keep_best` is neither min nor max.
    """

    def __init__(
        self,
        folder: AnyPath | str,
        *,
        keep_last: int = 2,
        keep_best: tuple[str, Literal["min", "max"]] | None = None,
        save_async: bool = True,
    ):
        if keep_last < 1:
            raise CheckpointError(f"keep_last is {keep_last}; at least 1 step has to stay")
        if keep_best is not None and keep_best[1] not in ("min", "max"):
            raise CheckpointError(f"keep_best has the mode {keep_best[1]!r}; it must be 'min' or 'max'")
        if is_bucket(folder):
            use_for_epath()
        # Orbax takes absolute paths only; a bucket's name is one already.
        self.folder = epath.Path(os.fspath(folder) if is_bucket(folder) else os.path.abspath(folder))
        self._keep_last, self._keep_best, self._save_async = keep_last, keep_best, save_async
        self._checkpointer = _make_checkpointer()
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None
        self._saving: int | None = None

    def save(
        self,
        step: int,
        state_tree: Any,
        data_state: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves a step; the arrays may be changed or donated as soon as this returns.

        Waits for the save before it, then removes what cut-off saves left behind.

        Args:
            step: the step's number, above that of every complete step.
            state_tree: any pytree of JAX arrays (PRNG keys too), NumPy arrays and Python numbers.
            data_state: JSON-able position in the data.
            metrics: JSON-able values of this step, by name.

        Raises:
            CheckpointError: this save or the one before failed (the disk is full, ...), the step is not newer than
                the newest one, or a value cannot be saved. Complete steps are untouched.
        """
        self.wait()
        metrics = dict(metrics or {})
        self._check_save(step, metrics)
        named = leaves.named_leaves(state_tree)
        run = {
            "data_state": _as_json("data_state", data_state),
            "metrics": _as_json("metrics", metrics),
            "keep_best": self._keep_best,
            "tree": {name: leaves.spec_of(leaf) for name, leaf in named.items()},
        }
        arguments = ocp.args.Composite(
            **{_STATE: ocp.args.PyTreeSave(leaves.to_saved(named)), _RUN: ocp.args.JsonSave(run)}
        )
        with self._explaining(step):
            if hosts.process_index() == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._remove_leftovers(step)
            hosts.barrier(f"checkpoints: leftovers before {step} removed")
        self._saving = step
        try:
            with self._explaining(step):
                self._checkpointer.save(self._step_folder(step), args=arguments)
        except CheckpointError:
            self._saving = None
            self._discard(step)
            raise
        self._thread = threading.Thread(target=self._complete, args=(step,), name=f"checkpoint-{step}")
        self._thread.start()
        if not self._save_async:
            self.wait()

    def wait(self) -> None:
        """Returns when the save in the background is complete, on all hosts.

        Raises:
            CheckpointError: it failed. Raised once.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        # Host 0 alone writes the checksums; the others wait for it here and learn how it went.
        problem = hosts.broadcast_from_host0(None if error is None else str(error))
        if error is not None or problem is not None:
            raise error or CheckpointError(problem)

    def close(self) -> None:
        """Waits for the save in the background and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def latest(self) -> int | None:
        """The newest complete step, or None. A newer incomplete one is skipped with a warning that names it."""
        return hosts.broadcast_from_host0(next(iter(self._complete_steps()), None))

    def steps(self) -> list[int]:
        """All complete steps, oldest first."""
        return hosts.broadcast_from_host0(sorted(self._complete_steps()))

    def best(self) -> BestStep | None:
        """The step that is kept as the best one, by the metric that the newest step was saved with.

        Returns:
            None where the run keeps no best step, or no step has the metric.
        """
        found: BestStep | None = None
        if hosts.process_index() == 0:
            complete = list(self._complete_steps())
            keep_best = self._read_run(complete[0]).get("keep_best") if complete else None
            if keep_best is not None:
                found = _best(complete, keep_best, lambda step: self._read_run(step)["metrics"])
        told = hosts.broadcast_from_host0(found)
        return None if told is None else BestStep(*told)

    def saved_tree(self, step: int) -> dict[str, LeafSpec]:
        """Names, shapes and types of what a step holds, e.g. `{"params/decoder/...": LeafSpec((8, 4), "float32")}`.

        Raises:
            CheckpointError: the step is incomplete.
        """
        return self._saved_tree(self._read_run(step))

    def saved_shardings(self, step: int) -> dict[str, str]:
        """How each array of a step lay on the devices that saved it, see `shardings.saved_shardings`."""
        return shardings.saved_shardings(self._step_folder(step) / _STATE)

    def restore(self, step: int, abstract_state: Any, *, subtree: str | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a step back, bit for bit, after comparing all its files with their checksums.

        Args:
            step: a complete step.
            abstract_state: a tree like the saved one whose leaves are `jax.ShapeDtypeStruct`s with the shardings
                wanted now (any mesh; without one: the first local device), arrays, or Python numbers.
            subtree: restore only what lies below this name (`"params"`); `abstract_state` is then like that part.

        Returns:
            The state in the structure of `abstract_state`, and the data state.

        Raises:
            CheckpointError: the step is missing, incomplete or damaged (names each file, what was expected and
                found), or the trees differ (names each leaf).
        """
        self.wait()
        self.verify(step)
        run = self._read_run(step)
        prefix = f"{subtree}/" if subtree else ""
        named = {prefix + name: leaf for name, leaf in leaves.named_leaves(abstract_state).items()}
        saved = {name: spec for name, spec in self._saved_tree(run).items() if name.startswith(prefix)}
        wanted = {name: leaves.spec_of(leaf) for name, leaf in named.items()}
        if problems := leaves.mismatches(saved, wanted):
            raise CheckpointError(
                f"{self._step_folder(step)} does not fit what is asked of it ({len(problems)} differences):\n  "
                + "\n  ".join(problems)
            )
        values = self._read_arrays(step, named)
        restored = [leaves.from_saved(leaf, values.get(name)) for name, leaf in named.items()]
        return jax.tree.unflatten(jax.tree.structure(abstract_state), restored), run["data_state"]

    def verify(self, step: int) -> None:
        """Compares all files of a step with their checksums.

        Raises:
            CheckpointError: the step is missing, incomplete or damaged; names each file.
        """
        problems: list[str] = []
        if hosts.process_index() == 0:
            problems = checksums.verify(self._step_folder(step))
            if problems and not self._step_folder(step).exists():
                complete = ", ".join(map(str, sorted(self._complete_steps()))) or "none"
                problems = [f"there is no step {step} in {self.folder}; complete steps: {complete}"]
            elif problems:
                problems.append(f"to go on from an earlier step, remove {self._step_folder(step)}")
        if problems := hosts.broadcast_from_host0(problems):
            raise CheckpointError("\n  ".join(problems))

    def read_arrays(self, step: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Arrays of a step in host memory, by their names in `saved_tree`; see `verify` for the checksums.

        Raises:
            CheckpointError: the step has no such array, or they cannot be read.
        """
        saved = self.saved_tree(step)
        if problems := [unknown("array", name, saved) for name in names if name not in saved]:
            raise CheckpointError(f"{self._step_folder(step)}: " + "; ".join(problems))
        # An array of one number in any shape: it only says what is wanted.
        like = {name: np.broadcast_to(np.zeros((), saved[name].dtype), saved[name].shape) for name in names}
        values = self._read_arrays(step, like)
        return {name: np.asarray(leaves.from_saved(like[name], values.get(name))) for name in names}

    def _step_folder(self, step: int) -> epath.Path:
        return self.folder / str(step)

    def _step_folders(self) -> list[int]:
        if not self.folder.exists():
            return []
        return sorted((int(p.name) for p in self.folder.iterdir() if _is_step(p.name)), reverse=True)

    def _complete_steps(self) -> Iterator[int]:
        """Yields complete steps, newest first; looks no further than the caller does."""
        for step in self._step_folders():
            try:
                checksums.read_checksums(self._step_folder(step))
            except CheckpointError as error:
                # During a save the step itself is incomplete, and old ones are being removed.
                if self._saving is None and hosts.process_index() == 0:
                    log.warning("skipped: %s", error)
            else:
                yield step

    def _check_save(self, step: int, metrics: Mapping[str, Any]) -> None:
        newest = self.latest()
        if newest is not None and step <= newest:
            raise CheckpointError(
                f"step {step} is not newer than step {newest} in {self.folder}; "
                f"to go on from an earlier step, remove the folders of the later ones first"
            )
        if metrics and self._keep_best is not None and self._keep_best[0] not in metrics:
            raise CheckpointError("keep_best: " + unknown("metric", self._keep_best[0], metrics))

    def _complete(self, step: int) -> None:
        """Runs in the background: waits for Orbax's commit, writes the checksums, removes what need not stay."""
        try:
            with self._explaining(step):
                self._checkpointer.wait_until_finished()
                if hosts.process_index() == 0:
                    checksums.write_checksums(self._step_folder(step))
                    self._remove_old(step)
        except CheckpointError as error:
            self._error = error
            self._discard(step)
        finally:
            self._saving = None

    def _remove_old(self, newest: int) -> None:
        complete = [newest, *(step for step in self._complete_steps() if step != newest)]
        keep = set(complete[: self._keep_last])
        if self._keep_best is not None:
            best = _best(complete, self._keep_best, lambda step: self._read_run(step)["metrics"])
            keep |= set() if best is None else {best.step}
        for step in self._step_folders():
            if step not in keep and step < newest:
                _remove(self._step_folder(step))

    def _remove_leftovers(self, step: int) -> None:
        for child in self.folder.iterdir():
            cut_off = _is_step(child.name) and not (child / checksums.CHECKSUMS_NAME).exists()
            if cut_off or _TEMPORARY_MARK in child.name or child.name == str(step):
                log.warning("removing %s, which a save that was cut off left behind", child)
                _remove(child)

    def _discard(self, step: int) -> None:
        # Frees the disk at once. What cannot be removed now is removed before the next save.
        with contextlib.suppress(OSError):
            if hosts.process_index() == 0 and self.folder.exists():
                for child in self.folder.iterdir():
                    if child.name == str(step) or child.name.startswith(f"{step}{_TEMPORARY_MARK}"):
                        _remove(child)

    @contextlib.contextmanager
    def _explaining(self, step: int) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            reason = _text(error)
            if _is_full_disk(error):
                reason = f"the disk is full ({_free(self.folder)}); free some space or keep fewer steps"
            raise CheckpointError(
                f"step {step} could not be saved in {self.folder}: {reason}. Earlier steps are intact."
            ) from error

    def _read_run(self, step: int) -> dict[str, Any]:
        checksums.read_checksums(self._step_folder(step))
        # Not by Orbax's own reader, which waits for all hosts: host 0 alone looks for the best step, in the background.
        with self._explaining_read(step):
            return json.loads((self._step_folder(step) / _RUN / _RUN_FILE).read_text())

    def _read_arrays(self, step: int, named: Mapping[str, Any]) -> dict[str, Any]:
        restore_args = leaves.restore_arguments(named)
        if not restore_args:
            return {}
        arguments = ocp.args.PyTreeRestore(item=restore_args, restore_args=restore_args, partial_restore=True)
        with self._explaining_read(step):
            restored = self._checkpointer.restore(
                self._step_folder(step), args=ocp.args.Composite(**{_STATE: arguments})
            )
        return leaves.named_leaves(restored[_STATE])

    @contextlib.contextmanager
    def _explaining_read(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise CheckpointError(f"cannot read {self._step_folder(step)}: {_text(error)}") from error

    @staticmethod
    def _saved_tree(run: Mapping[str, Any]) -> dict[str, LeafSpec]:
        return {name: LeafSpec(tuple(shape), dtype) for name, (shape, dtype) in run["tree"].items()}


def _make_checkpointer() -> ocp.AsyncCheckpointer:
    _silence_orbax()
    handler = ocp.CompositeCheckpointHandler(
        **{_STATE: ocp.PyTreeCheckpointHandler(), _RUN: ocp.JsonCheckpointHandler(filename=_RUN_FILE)}
    )
    # Folders made in the caller's thread: a folder that cannot be made fails there, at once.
    return ocp.AsyncCheckpointer(handler, async_options=AsyncOptions(create_directories_asynchronously=False))


def _best(
    steps: list[int], keep_best: Sequence[str], metrics_of: Callable[[int], Mapping[str, float]]
) -> BestStep | None:
    """The step with the best value that is a number, the newest of equals (`steps` is newest first), if any has one."""
    name, mode = keep_best
    best: tuple[float, int, float] | None = None
    for step in steps:
        value = metrics_of(step).get(name)
        if value is None or value != value:
            continue
        score = value if mode == "max" else -value
        if best is None or score > best[0]:
            best = (score, step, value)
    return None if best is None else BestStep(best[1], name, best[2])


def _is_step(name: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]*", name) is not None


def _remove(folder: epath.Path) -> None:
    # The checksums go first: a removal that is cut off must not leave a step that counts as complete.
    (folder / checksums.CHECKSUMS_NAME).unlink(missing_ok=True)
    folder.rmtree()


def _as_json(what: str, value: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{what} cannot be saved: {error}") from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _is_full_disk(error: BaseException) -> bool:
    return any(sign in str(cause) for cause in _chain(error) for sign in _FULL_DISK_SIGNS)


def _text(error: BaseException) -> str:
    """The messages of an error and its causes, one line each: TensorStore's run to pages."""
    lines = [f"{type(cause).__name__}: {str(cause).partition(chr(10))[0][:300]}" for cause in _chain(error)]
    return "; ".join(lines[:4])


def _free(folder: epath.Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.2f} GB free on {folder}"
    except OSError:
        return f"{folder}"


def _is_not_orbax_chatter(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def _silence_orbax() -> None:
    # Orbax logs each step of each save through absl's one logger, errors included; its errors reach the caller as
    # exceptions. Adding the same filter again changes nothing.
    logging.getLogger("absl").addFilter(_is_not_orbax_chatter)
