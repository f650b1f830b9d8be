"""Prepared data is kept across versions of the package unless `RENDER_VERSION` is raised: so it has to be, in time."""

import hashlib

import pytest
import seqio

from t5x_instruct.data.chat_tasks import add_chat_task
from t5x_instruct.data.prepare import prepare
from t5x_instruct.data.prepare_spec import PrepareSpec
from t5x_instruct.data.prepared import RENDER_VERSION
from t5x_instruct.data.records import encode_record
from t5x_instruct.data.tasks import add_mixture, add_rendering, add_task
from t5x_instruct.templates.prompts import Template

GOLDEN = (1, "f8e5a0c0805c1cb580349f6053819a7300015db48d49abc37c2e4eca1f5fe796")
CHANGED = (
    "these tasks are rendered otherwise than before: if that is meant, raise RENDER_VERSION in data/prepared.py, which"
    " has everybody's data rendered anew, and put the new number and hash into GOLDEN"
)
PLACES = [
    {"country": f"land {i}", "answer": f"town {i}", "options": [f"town {i}", "no such town", f"river {i}"]}
    for i in range(12)
]
ANSWERS = [{"text": f"naïve {i} 👍", "answers": [f"yes {i}", f"{i}, yes"], "number": i} for i in range(12)]
TALKS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"What is {i} + 1?"},
            {"role": "assistant", "content": f"{i + 1}"},
            {"role": "user", "content": "Sure?\n"},
            {"role": "assistant", "content": "Yes."},
        ]
    }
    for i in range(6)
]
TEMPLATES = [
    "Capital of {country}?\n{options}",
    "{country}: its capital is",
    "{options_inline} of {country}:",
    Template("{answer} is the capital of which country?", "{country}"),
]


@pytest.fixture
def mixture():
    add_task("golden_written", cluster="a", source={"train": PLACES}, templates=TEMPLATES, metrics=[])
    add_task(
        "golden_letters",
        cluster="a",
        source={"train": PLACES},
        templates=TEMPLATES,
        metrics=[],
        options="shown",
        letters=True,
    )
    add_rendering("golden_shots", "golden_written", shots=(1, 3))
    add_task("golden_answers", cluster="b", source={"train": ANSWERS}, templates=["{text} {number}"], metrics=[])
    add_chat_task("golden_chat", cluster="c", source={"train": TALKS})
    names = ["golden_written", "golden_letters", "golden_shots", "golden_answers"]
    add_mixture("golden", names, rate=1.0)
    yield ["golden", "golden_chat"]
    seqio.MixtureRegistry.remove("golden")
    for name in [*names, "golden_chat"]:
        seqio.TaskRegistry.remove(name)


def test_what_the_package_renders_changes_only_with_its_number(mixture, tmp_path, word_vocabulary):
    digest = hashlib.sha256()
    for vocabulary, prompt_format in (("bytes", "plain"), (str(tmp_path / "words"), "chat")):
        for name in mixture:
            spec = PrepareSpec(
                mixture=name,
                modules=(),
                vocabulary=vocabulary,
                prompt_format=prompt_format,
                splits=("train",),
                variants=2,
                root=tmp_path,
            )
            for task in prepare(spec, lambda line: None).tasks:
                split = task.splits["train"]
                for i in range(split.num_examples):
                    for variant in range(split.variants):
                        digest.update(encode_record(split.read(i, variant)))
    assert (RENDER_VERSION, digest.hexdigest()) == GOLDEN, CHANGED
