"""Preparing as an Apache Beam pipeline: the units, spread over whatever workers the runner has.

Nothing flows through the pipeline but the units' few words: workers read the data and write the shards themselves, so
they need this package, the task modules, the data and the folder of prepared data at the same paths. A unit that a
runner starts twice writes the same bytes; what is complete is not written again.
"""

import resource
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from t5x_instruct.common.errors import DataError, InstructError
from t5x_instruct.common.io import read_json, write_json
from t5x_instruct.data.preparation import Preparation
from t5x_instruct.data.prepare_spec import Execution, PrepareSpec
from t5x_instruct.data.prepare_workers import describe_error, error_from
from t5x_instruct.data.units import Unit, UnitRenderer, code_of

_RENDERERS: dict[str, UnitRenderer] = {}  # of this worker's process, by job


class RenderUnits(beam.DoFn):
    """Renders units; a fault of a unit is put on record for the process that waits.

    Args:
        job: `UnitRenderer`'s arguments as JSON values.
        faults: the folder for the records.
    """

    def __init__(self, job: dict[str, Any], faults: str):
        super().__init__()
        self._job, self._faults = job, faults
        self._name = uuid.uuid4().hex

    def process(self, element: dict[str, Any]) -> Iterator[str]:
        """Renders one unit, given as JSON values with its number."""
        try:
            if self._name not in _RENDERERS:
                spec = PrepareSpec.from_json(self._job["spec"])
                _RENDERERS[self._name] = UnitRenderer(spec, self._job["code"], self._job["shard_rows"])
            _RENDERERS[self._name].render(Unit(**element["unit"]), _silent)
        except InstructError as error:  # another error may pass, and the runner may try again
            write_json(Path(self._faults) / f"{element['number']}.json", describe_error(error))
        yield element["unit"]["task"]


def _silent(line: str) -> None:
    del line  # runners have their own way to show how far they are


def render_in_pipeline(work: Preparation, spec: PrepareSpec, execution: Execution) -> None:
    """Renders all units in one pipeline, and waits for it.

    Args:
        work: gives the units, and is told what becomes of them.
        spec: what is asked for.
        execution: the runner, its options, and the rows of a shard.

    Raises:
        DataError: a unit cannot be rendered, or the pipeline failed.
    """
    _allow_open_files()
    units = list(work.units())
    if not units:
        return
    faults = spec.root / f".faults-{uuid.uuid4().hex}"
    faults.mkdir(parents=True)
    job = {"spec": spec.to_json(), "code": code_of(spec), "shard_rows": execution.shard_rows}
    options = [f"--runner={execution.runner}", *(f"--{option}" for option in execution.pipeline_options)]
    try:
        elements = [{"number": i, "unit": unit._asdict()} for i, unit in enumerate(units)]
        try:
            with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
                _ = (
                    pipeline
                    | "Units" >> beam.Create(elements)
                    | "Spread" >> beam.Reshuffle()
                    | "Render" >> beam.ParDo(RenderUnits(job, str(faults)))
                )
        except Exception as error:  # runners fail in many ways of their own
            raise DataError(
                f"the pipeline on {execution.runner!r} failed ({type(error).__name__}: {str(error)[-2000:]}); run it"
                " again, finished shards are kept"
            ) from error
        for i, unit in enumerate(units):
            fault = faults / f"{i}.json"
            if fault.is_file():
                work.failed(unit, error_from(read_json(fault)))
            else:
                work.done(unit)
    finally:
        for path in faults.iterdir():
            path.unlink()
        faults.rmdir()


def _allow_open_files() -> None:
    """All splits of a mixture are in work at once, each with a lock file that is open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
