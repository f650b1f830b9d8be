"""TensorFlow without its chatter: ``python -m t5x_instruct.common.quiet_tensorflow MODULE [ARGUMENT ...]``.

TensorFlow's libraries write about CUDA and oneDNN to the terminal when they are loaded, whatever the log level, which
would stand between a person and the progress of the run. Only while they load, the process's standard error is closed
to them; a Python error is raised as ever.
"""

import importlib
import os
import runpy
import sys
import tempfile


def import_tensorflow() -> None:
    """Loads TensorFlow and seqio in silence; later imports of them find them loaded."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            importlib.import_module("seqio")
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())  # what TensorFlow said may be the cause
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


if __name__ == "__main__":
    import_tensorflow()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
