import numpy as np

from t5x_instruct.data.fingerprints import Describer, fingerprint_of


def test_fingerprints_see_arguments_and_closures_but_not_addresses(tmp_path):
    def made(number, path):
        def step(x):
            return x + number, path

        return step

    def of(value):
        return fingerprint_of(Describer().describe(value))

    file = tmp_path / "x.txt"
    file.write_text("a")
    moved = tmp_path / "moved.txt"
    moved.write_text("a")
    assert of(made(1, str(file))) == of(made(1, str(moved)))
    assert of(made(1, str(file))) != of(made(2, str(file)))
    before = of([made(1, file)])
    file.write_text("bc")
    assert of([made(1, file)]) != before
    assert of({"a": object()}) == of({"a": object()})
    assert of(np.float32(1)) != of(np.float32(2))
    ring = []
    ring.append(ring)
    assert of(ring) == of(ring)
