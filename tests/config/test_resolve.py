"""What a configuration without problems gives: values, objects, and text that reads back the same."""

import functools
import typing
from pathlib import Path

import gin
import pytest
from gin import config_parser

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.config import gin_files, schema
from t5x_instruct.config.validate import resolve
from tests.config import components
from tests.config.components import Layer, Network

NETWORK = """
WIDTH = 8
Network.layer = @small/Layer()
Network.sizes = [1, 2]
Network.names = {'a': 1, 'b': %WIDTH}
Network.activation = @scale
Layer.width = %WIDTH
Layer.rate = 1
small/Layer.width = 2
scale.factor = 3.0
"""


def test_objects_are_built_with_their_bindings(resolve_text) -> None:
    network = resolve_text(NETWORK).instantiate("Network")
    assert type(network) is Network
    assert network.layer == Layer(2, 1.0)
    assert type(network.layer.rate) is float
    assert network.sizes == (1, 2)
    assert network.names == {"a": 1, "b": 8}


def test_a_function_keeps_its_bindings_when_another_configuration_follows(resolve_text) -> None:
    first = resolve_text(NETWORK).instantiate("Network")
    second = resolve_text(NETWORK, "scale.factor=5").instantiate("Network")
    assert isinstance(first.activation, functools.partial)
    assert (first.activation(2.0), second.activation(2.0)) == (6.0, 10.0)


def test_resolving_leaves_no_trace_in_gin(resolve_text) -> None:
    before = gin.config_str()
    resolve_text(NETWORK).instantiate("Network")
    assert gin.config_str() == before == ""


def test_arguments_of_the_caller_win(resolve_text) -> None:
    config = resolve_text("Layer.width = 1\nLayer.rate = 0.25")
    assert config.instantiate("Layer", width=9) == Layer(9, 0.25)
    assert config.instantiate("other/Layer") == Layer(1, 0.25)


def test_a_macro_may_be_an_object(resolve_text) -> None:
    config = resolve_text("MAIN = @Layer()\nLayer.width = 4\nanything.x = [%MAIN]")
    assert config.instantiate("MAIN") == Layer(4)
    assert config.instantiate("anything") == {"x": [Layer(4)]}


@pytest.mark.parametrize(("name", "message"), [("Layr", "nearest: 'Layer'"), ("Layer", "value for Layer.width")])
def test_what_cannot_be_built_says_why(resolve_text, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_text("").instantiate(name)


def test_a_component_that_refuses_its_values_is_named_with_their_places(resolve_text) -> None:
    config = resolve_text("Network.layer = @Layer()\nLayer.width = 1\nNetwork.sizes = (1, 2, 3, 4)")
    with pytest.raises(ConfigError, match=r"@Network\(\) \(run.gin:1, run.gin:3\): 4 sizes: at most 3"):
        config.instantiate("Network")


def test_other_errors_of_a_component_keep_their_type(resolve_text) -> None:
    config = resolve_text("from tests.config.test_resolve import broken\nbroken.x = 1")
    with pytest.raises(ZeroDivisionError) as caught:
        config.instantiate("broken")
    assert "run.gin:2" in caught.value.__notes__[0]


def broken(x: int) -> float:
    return x / 0


def test_imports_add_configurables(resolve_text) -> None:
    config = resolve_text("from tests.config.components import Layer as Outside\nOutside.width = 3\n")
    assert config.instantiate("Outside") == Layer(3)
    assert "from tests.config.components import Layer as Outside" in config.text


def test_the_text_reads_back_as_the_same(resolve_text, tmp_path: Path) -> None:
    text = NETWORK + "anything.values = [1e999, -1e999, -0.0, 'ü\\n\\ud800', b'\\xff', (1,), (), {}, None, True, -3]\n"
    config = resolve_text(text, "MODEL_DIR=/tmp/a b", "HOLD_OUT=x,y")
    (tmp_path / "again.gin").write_text(config.text, encoding="utf-8")
    again = resolve(["again.gin"])
    assert again.text == config.text
    assert again.macros == config.macros
    assert again.instantiate("anything") == config.instantiate("anything")
    assert again.instantiate("Network").layer == config.instantiate("Network").layer


def test_defaults_of_the_verb_are_filled_in_and_written(resolve_text, tmp_path: Path) -> None:
    given = ["MIXTURE_OR_TASK_NAME=m", "MODEL_DIR=d", "TRAIN_STEPS=3", "LEARNING_RATE=1"]
    config = resolve_text("TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 4}", *given, verb="train")
    for name, macro in schema.MACROS.items():
        if "train" in macro.defaults:
            assert name in config.macros
            assert f"\n{name} = " in config.text
    assert config.macros["LEARNING_RATE"] == 1.0
    assert type(config.macros["LEARNING_RATE"]) is float
    (tmp_path / "again.gin").write_text(config.text)
    again = resolve(["again.gin"], verb="train")
    assert (again.text, again.macros) == (config.text, config.macros)


def test_a_file_made_for_training_serves_other_verbs(resolve_text) -> None:
    text = "anything.x = %REMAT\nanything.y = %MODEL_DIR\nWARMUP_STEPS = %gin.REQUIRED\n"
    given = ["MIXTURE_OR_TASK_NAME=m", "INITIAL_CHECKPOINT_PATH=c", "TASK_FEATURE_LENGTHS=inputs=1,targets=1"]
    config = resolve_text(text, *given, verb="eval")
    assert config.macros["REMAT"] is None
    with pytest.raises(ConfigError, match="%MODEL_DIR has no value"):
        config.instantiate("anything")


OVERRIDES = [
    ("MODEL_DIR=/tmp/x", "/tmp/x"),
    ("MODEL_DIR='/tmp/x'", "/tmp/x"),
    ('MODEL_DIR="/tmp/x"', "/tmp/x"),
    ("MODEL_DIR=17", "17"),
    ("MODEL_DIR=a=b", "a=b"),
    ("MODEL_DIR=", ""),
    ("MODEL_DIR=gs://bucket/%d", "gs://bucket/%d"),
    ("PREPARED_DIR=None", None),
    ("PREPARED_DIR=nowhere", "nowhere"),
    ("DTYPE=bfloat16", "bfloat16"),
    ("MIXTURE_OR_TASK_MODULE=tasks.starter", ("tasks.starter",)),
    ("MIXTURE_OR_TASK_MODULE=None", ()),
    ("HOLD_OUT=a,b", ("a", "b")),
    ("HOLD_OUT=('a', 'b')", ("a", "b")),
    ("TASK_FEATURE_LENGTHS=inputs=512,targets=128", {"inputs": 512, "targets": 128}),
    ("TASK_FEATURE_LENGTHS={'inputs': 512}", {"inputs": 512}),
    ("MODULE_OPTIONS=tasks.cot.FOLDER=/data/cot", {"tasks.cot.FOLDER": "/data/cot"}),
    ("LEARNING_RATE=1e-3", 0.001),
    ("LEARNING_RATE=1", 1.0),
    ("EVAL_EXAMPLES=None", None),
]


@pytest.mark.parametrize(("override", "value"), OVERRIDES, ids=[o for o, _ in OVERRIDES])
def test_words_of_the_command_line(resolve_text, override: str, value: object) -> None:
    found = resolve_text("", override).macros[override.partition("=")[0]]
    assert found == value
    assert type(found) is type(value)


def test_overrides_win_the_last_one_counts_and_repeatable_ones_add_up(resolve_text) -> None:
    text = "BATCH_SIZE = 1\nHOLD_OUT = ('z',)"
    config = resolve_text(text, "BATCH_SIZE=2", "BATCH_SIZE=3", "HOLD_OUT=a", "HOLD_OUT=b,c", "Layer.kind=sparse")
    assert config.macros["BATCH_SIZE"] == 3
    assert config.macros["HOLD_OUT"] == ("a", "b", "c")
    assert config.instantiate("Layer", width=1).kind == "sparse"


def test_later_files_and_lines_after_an_include_win(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.gin").write_text("BATCH_SIZE = 1\nSEED = 1\n")
    (tmp_path / "sub" / "run.gin").write_text("include 'base.gin'\nSEED = 2\n")
    (tmp_path / "more.gin").write_text("BATCH_SIZE = 5\n")
    macros = resolve(["sub/run.gin", "more.gin"]).macros
    assert (macros["BATCH_SIZE"], macros["SEED"]) == (5, 2)


def test_files_are_searched_in_the_working_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "gin_configs"
    (shared / "runs").mkdir(parents=True)
    (shared / "runs" / "x.gin").write_text("SEED = 7\n")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(gin_files, "GIN_CONFIGS", shared)
    assert resolve(["runs/x.gin"]).macros["SEED"] == 7
    assert resolve(["gin_configs/runs/x.gin"]).macros["SEED"] == 7
    (work / "runs").mkdir()
    (work / "runs" / "x.gin").write_text("SEED = 8\n")
    assert resolve(["runs/x.gin"]).macros["SEED"] == 8


def test_bindings_say_where_they_are(resolve_text) -> None:
    bindings = resolve_text("\nSEED = 1\nLayer:\n  width = 2\n", "BATCH_SIZE=3").bindings
    places = {key: str(binding.place) for key, binding in bindings.items()}
    assert places == {
        "SEED": "run.gin:2",
        "Layer.width": "run.gin:4",
        "BATCH_SIZE": "command line: --gin.BATCH_SIZE=3",
    }


PARITY = """
W = 2
a/W = 3
Layer.width = %W
a/Layer.rate = 0.25
a/b/Layer.kind = 'sparse'
a/b/Layer.rate = 0.75
Network.layer = @Layer()
Network.sizes = (1, %W, %a/W)
a/Network.layer = @a/b/Layer()
b/Network.folder = 'f'
x/macro.value = 'a folder'
Network.folder = %x
"""


@pytest.mark.parametrize("name", ["Network", "a/Network", "b/Network", "a/b/Network", "a/Layer", "c/Layer"])
def test_scopes_and_macros_mean_what_they_mean_in_gin(resolve_text, name: str) -> None:
    ours = resolve_text(PARITY).instantiate(name)
    gin.clear_config()
    for component in (Layer, Network):
        gin.external_configurable(component, module="parity")
    try:
        gin.parse_config(PARITY)
        assert gin.get_configurable(name)() == ours
        gin.clear_config()
        gin.parse_config(resolve_text(PARITY).text)  # what is written beside a run is gin's language
        assert gin.get_configurable(name)() == ours
    finally:
        gin.clear_config()


def test_every_name_of_the_table_can_be_loaded() -> None:
    for name, path in schema.CONFIGURABLES.items():
        if not path.startswith("tests."):
            schema.load_configurable(name, path)


@pytest.mark.parametrize("name", schema.MACROS)
def test_every_default_is_a_value_that_could_be_given(name: str) -> None:
    macro = schema.MACROS[name]
    assert macro.meaning
    assert set(macro.defaults) <= set(schema.VERBS)
    for default in macro.defaults.values():
        if default is not schema.REQUIRED:
            assert schema_fits(default, macro.type)


def schema_fits(value: object, annotation: object) -> bool:
    from t5x_instruct.config.value_types import fits

    return fits(value, annotation)


def test_components_have_the_types_the_tests_think(resolve_text) -> None:
    loaded = schema.load_configurable("Network", "tests.config.components:Network")
    assert loaded.parameters["layer"] == schema.Parameter(Layer, True)
    assert loaded.parameters["folder"].annotation == typing.Optional[str]  # noqa: UP045
    assert schema.load_configurable("anything", "tests.config.components:anything").takes_any
    assert components.scale(2.0, 3.0) == 6.0
    assert config_parser.parse_binding_key("a/b/Layer.width") == ("a/b", "Layer", "width")
