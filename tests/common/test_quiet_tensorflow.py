import subprocess
import sys


def run(program):
    code = f"from t5x_instruct.common.quiet_tensorflow import import_tensorflow\n{program}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_tensorflow_loads_without_a_word_and_later_errors_are_seen():
    done = run("import_tensorflow()\nimport sys\nassert 'tensorflow' in sys.modules\nprint('seen', file=sys.stderr)")
    assert done.returncode == 0
    assert done.stderr == "seen\n"


def test_an_import_error_is_not_lost():
    done = run("import sys\nsys.modules['tensorflow'] = None\nimport_tensorflow()")
    assert done.returncode == 1
    assert "tensorflow" in done.stderr
