"""What row functions of FLAN 2021 make of single sentences, where that takes more than reading a field."""

import importlib
import unicodedata

import numpy as np
import pytest
import seqio

from t5x_instruct.common.errors import DataError
from t5x_instruct.data.preprocessors import OptionForm, RenderContext, render_example
from t5x_instruct.data.task_modules import import_task_modules
from t5x_instruct.data.tasks import task_info

import_task_modules(["tasks.flan2021"])
common_sense, coreference, entailment, labelled, paraphrase, sentiment, text_formatting, translation = (
    importlib.import_module(f"tasks.flan2021.{name}")
    for name in (
        "common_sense",
        "coreference",
        "entailment",
        "labelled",
        "paraphrase",
        "sentiment",
        "text_formatting",
        "translation",
    )
)
PAIR = {"premise": "A dog runs.", "hypothesis": "An animal moves.", "idx": 3}


@pytest.mark.parametrize(
    ("row", "label", "answer"),
    [
        (entailment.nli_row, 0, "yes"),
        (entailment.nli_row, 1, "it is not possible to tell"),
        (entailment.nli_row, 2, "no"),
        (entailment.cb_row, 1, "no"),
        (entailment.cb_row, 2, "it is not possible to tell"),
        (entailment.rte_row, 0, "yes"),
        (entailment.rte_row, 1, "no"),
    ],
)
def test_labels_of_entailment(row, label, answer):
    made = row({**PAIR, "label": label})
    assert made["answer"] == answer
    assert answer in made["options"]


@pytest.mark.parametrize("row", [entailment.nli_row, entailment.cb_row])
def test_the_relation_in_words_fits_the_answer(row):
    words = {made["answer"]: made["relation"] for made in (row({**PAIR, "label": label}) for label in range(3))}
    assert words == {
        "yes": "must be true",
        "no": "cannot be true",
        "it is not possible to tell": "may or may not be true",
    }


def test_labels_of_the_winograd_pairs_and_of_questions_run_the_other_way():
    pair = {"sentence1": "He said he left.", "sentence2": "Tom left.", "question": "Who left?", "sentence": "Tom left."}
    assert [entailment.wnli_row({**pair, "label": label})["answer"] for label in (0, 1)] == ["no", "yes"]
    assert [entailment.qnli_row({**pair, "label": label})["answer"] for label in (0, 1)] == ["yes", "no"]


@pytest.mark.parametrize("label", [-1, 3])
def test_rows_without_a_label_are_left_out(label):
    assert entailment.nli_row({**PAIR, "label": label}) is None


def test_a_row_with_an_empty_text_or_option_is_left_out():
    assert labelled.labelled({"text": " \n"}, 0, ("a", "b")) is None
    assert labelled.labelled({"text": "t"}, 0, ("a", " ")) is None
    assert labelled.labelled({"text": " t "}, 1, (" a", "b "), kind=("A", "B")) == {
        "text": "t",
        "kind": "B",
        "options": ["a", "b"],
        "answer": "b",
    }


@pytest.mark.parametrize(
    ("polarity", "answer"), [(0, "negative"), (1, "negative"), (2, None), (3, "positive"), (4, "positive")]
)
def test_neutral_tweets_are_left_out(polarity, answer):
    row = sentiment.sentiment140_row({"text": "so it goes", "polarity": polarity})
    assert (row and row["answer"]) == answer


def test_escapes_of_reviews_are_undone():
    assert sentiment.yelp_row({"text": r"""Said ""no"".\n\nNever \""again\"".""", "label": 0})["text"] == (
        'Said "no".\n\nNever "again".'
    )
    assert sentiment.imdb_row({"text": "Good.<br /><br />Very good.", "label": 1})["text"] == "Good.\n\nVery good."


@pytest.mark.parametrize(
    ("label", "score", "answer"),
    [(0.0, "0.0", "0"), (2.5, "2.5", "2"), (3.5, "3.5", "4"), (3.8, "3.8", "4"), (4.4, "4.4", "4"), (5.0, "5.0", "5")],
)
def test_stsb_scores_are_rounded_as_flan_does(label, score, answer):
    row = paraphrase.stsb_row({"sentence1": "a", "sentence2": "b", "label": float(np.float32(label))})
    assert (row["score"], row["answer"]) == (score, answer)
    assert row["options"] == ["0", "1", "2", "3", "4", "5"]


def test_stsb_without_a_score_is_left_out():
    assert paraphrase.stsb_row({"sentence1": "a", "sentence2": "b", "label": -1.0}) is None


STSB_ROW = {"sentence1": "a", "sentence2": "b", "label": 3.8}


def stsb_example(number, index=0, *, letters=False):
    """An example as metrics see it, rendered with one of the templates; and its target."""
    row, form = paraphrase.stsb_row(STSB_ROW), OptionForm("shown", letters)
    context = RenderContext(template=number)
    rendered = render_example(row, task_info("flan2021_stsb").templates, "stsb", index, context, form)
    return {**row, "accepted_targets": rendered.accepted_targets, "options": rendered.options}, rendered.targets


@pytest.mark.parametrize("number", range(8))
def test_stsb_is_judged_by_the_annotators_score(number):
    example, target = stsb_example(number)
    assert paraphrase.true_score(target, example=example, is_target=True) == ["3.8"]
    assert paraphrase.true_score("4", example=example, is_target=False) == "4"


@pytest.mark.parametrize("number", [8, 9])
def test_stsb_templates_that_ask_for_a_sentence_are_not_judged_as_scores(number):
    example, target = stsb_example(number)
    assert paraphrase.true_score(target, example=example, is_target=True) == [target]


def test_a_letter_is_read_as_the_label_it_stands_for():
    drawn = [stsb_example(0, index, letters=True) for index in range(30)]
    example, target = next((e, t) for e, t in drawn if e["options"][0] != "0")
    letters = example["options"]
    assert target == letters[4]
    assert paraphrase.true_score(target, example=example, is_target=True) == ["3.8"]
    assert paraphrase.true_score(letters[1], example=example) == "1"
    as_label = labelled.as_label(("no", "yes"))
    seen = {"options": np.array([b"A", b"B"], object), "accepted_targets": np.array([b"B"], object)}
    assert as_label("B", example=seen, is_target=True) == ["yes"]
    assert [as_label(text, example=seen) for text in ("a", "(b)", "yes")] == ["no", "(b)", "yes"]


def test_metrics_of_a_task_with_its_postprocessing():
    task = seqio.TaskRegistry.get("flan2021_glue_mrpc")
    examples = [{"options": ["no", "yes"], "accepted_targets": [answer]} for answer in ("yes", "no", "yes")]
    targets = [task.postprocess_fn(e["accepted_targets"][0], example=e, is_target=True) for e in examples]
    predictions = [
        task.postprocess_fn(text, example=e, is_target=False)
        for e, text in zip(examples, ("yes", "yes", "no"), strict=True)
    ]
    figures = [metric(targets, predictions) for metric in task.metric_fns]
    assert figures == [{"f1": pytest.approx(50.0)}, {"exact_match": pytest.approx(100 / 3)}]


TEXT = "Don't  panic, it's the EU's “New Deal” — ¿sí?"


def test_text_formatting_takes_away_what_it_says_and_nothing_else():
    cased = text_formatting.true_case_row({"en": TEXT, "da": "x"})
    bare = text_formatting.fix_punct_row({"en": TEXT, "da": "x"})
    joined = text_formatting.word_segment_row({"en": TEXT, "da": "x"})
    assert {row["answer"] for row in (cased, bare, joined)} == {"Don't panic, it's the EU's “New Deal” — ¿sí?"}
    assert cased["lower"] == "don't panic, it's the eu's “new deal” — ¿sí?"
    assert bare["bare"] == "Dont panic its the EUs New Deal sí"
    assert joined["joined"] == "Don'tpanic,it'stheEU's“NewDeal”—¿sí?"


def test_text_formatting_can_be_turned_round():
    text = text_formatting.true_case_row({"en": TEXT})["answer"]
    bare = text_formatting.without_punctuation(text)
    left = iter(bare.replace(" ", ""))
    marks = [character for character in text.replace(" ", "") if not unicodedata.category(character).startswith("P")]
    assert all(next(left) == character for character in marks)
    assert sorted(text_formatting.lower(text)) == sorted(character.lower() for character in text)
    assert text.replace(" ", "") == text_formatting.without_spaces(text)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (text_formatting.true_case_row, "all small, 3 of 4"),
        (text_formatting.fix_punct_row, "No mark here"),
        (text_formatting.fix_punct_row, "... !"),
        (text_formatting.word_segment_row, " Alone. "),
        (text_formatting.true_case_row, " "),
        (text_formatting.word_segment_row, ""),
    ],
)
def test_texts_with_nothing_to_restore_are_left_out(row, text):
    assert row({"en": text}) is None


def test_text_formatting_tasks_share_no_row():
    parts = [
        seqio.TaskRegistry.get(f"flan2021_{name}").source.slices for name in ("true_case", "fix_punct", "word_segment")
    ]
    taken = [range(*part[split].bounds(100_000)) for part in parts for split in ("train", "validation")]
    taken.append(range(*parts[0]["test"].bounds(100_000)))
    assert len({part["test"] for part in parts}) == 1
    assert [len(one) for one in taken] == [30_000, 200] * 3 + [3_000]
    assert sum(map(len, taken)) == len(set().union(*taken))


@pytest.mark.parametrize(
    ("text", "phrase", "index", "marked"),
    [
        ("He saw that he won.", "he", 3, "He saw that *he* won."),
        ("He saw that he won.", "he", 0, "*He* saw that he won."),
        ("He saw that he won.", "he", 2, "He saw that *he* won."),
        ("The theme of the day: her, not hers.", "her", 5, "The theme of the day: *her*, not hers."),
        ("Ann, she said.", "they", 1, "Ann, she said."),
        ("a b", "b", 9, "a *b*"),
        ("Is it (it)?", "it", 2, "Is it (*it*)?"),
    ],
)
def test_stars_mark_the_phrase_nearest_to_its_place(text, phrase, index, marked):
    assert coreference.with_stars(text, phrase, index) == marked


def test_wsc_marks_its_pronoun():
    example = {
        "text": "Mark told Pete many lies about himself, which Pete put in his book. He should have been truthful.",
        "span1_text": "Mark",
        "span1_index": 0,
        "span2_text": "He.",
        "span2_index": 13,
        "label": 1,
    }
    row = coreference.wsc_row(example)
    assert row["text"].endswith("in his book. *He* should have been truthful.")
    assert (row["noun"], row["pronoun"], row["answer"], row["relation"]) == ("Mark", "He", "yes", "refers to")
    assert coreference.wsc_row({**example, "label": 0})["answer"] == "no"


def test_winogrande_options_continue_the_sentence():
    example = {
        "sentence": "Ann paid Eve because _ had lost the bet.",
        "option1": "Ann",
        "option2": "Eve",
        "label": 0,
    }
    row = coreference.winogrande_row(example)
    assert row["context"] == "Ann paid Eve because"
    assert row["options"] == ["Ann had lost the bet.", "Eve had lost the bet."]
    assert (row["answer"], row["name"]) == (row["options"][0], "Ann")
    assert row["filled"] == "Ann paid Eve because Ann had lost the bet."
    assert coreference.winogrande_row({**example, "label": -1}) is None
    assert coreference.winogrande_row({**example, "sentence": "_ won."}) is None


def test_pronouns_of_definite_resolution():
    example = {"sentence": "The bee landed, since it smelled it.", "pronoun": "it", "candidates": ["The bee", "it all"]}
    row = coreference.definite_pronoun_row({**example, "label": 1})
    assert (row["marked"], row["answer"]) == ("The bee landed, since *it* smelled it.", "it all")


def test_copa_asks_for_cause_or_effect():
    example = {
        "premise": "The man broke his toe.",
        "choice1": "He got a hole.",
        "choice2": "He dropped it.",
        "label": 1,
    }
    cause, effect = (common_sense.copa_row({**example, "question": word}) for word in ("cause", "effect"))
    assert cause["answer"] == effect["answer"] == "He dropped it."
    assert (cause["sought"], cause["connector"], cause["clause"]) == ("cause", "because", "The man broke his toe")
    assert (effect["sought"], effect["connector"]) == ("effect", "so")


def test_hellaswag_without_the_marks_of_its_source():
    row = common_sense.hellaswag_row(
        {
            "context": "[header] How to tie a knot [title] Get a rope. [step] Take the rope",
            "endings": ["[substeps] in your hand.", "away.", "off. [title] Wait.", "home."],
            "activity_label": "Crafts",
            "label": 2,
        }
    )
    assert row["context"] == "How to tie a knot\nGet a rope.\nTake the rope"
    assert row["options"] == ["in your hand.", "away.", "off.\nWait.", "home."]
    assert row["answer"] == "off.\nWait."


@pytest.mark.parametrize(("label", "answer"), [(1, "He won."), (2, "He lost."), (-1, None), (0, None)])
def test_story_endings_are_counted_from_one(label, answer):
    row = common_sense.story_cloze_row({"context": "He ran.", "endings": ["He won.", "He lost."], "label": label})
    assert (row and row["answer"]) == answer


def test_translation_goes_both_ways():
    row = seqio.TaskRegistry.get("flan2021_wmt16_translate_roen").source.make_row(
        {"en": "Good day. ", "ro": " Bună ziua."}
    )
    assert row == {"english": "Good day.", "language": "Romanian", "answer": "Bună ziua."}
    assert translation.pair_row("Czech", "cs", {"en": "Word", "cs": " "}) is None
    for name in ("para_crawl_enes", "wmt14_enfr", "wmt16_translate_roen"):
        templates = task_info(f"flan2021_{name}").templates
        pairs = [template.render(row) for template in templates]
        assert {target for _, target in pairs} == {"Bună ziua.", "Good day."}
        assert all((target == "Good day.") == ("Bună" in asked) for asked, target in pairs)
        assert all(("Good day." in asked) != ("Bună" in asked) for asked, _ in pairs)


def test_correlations_need_numbers_that_vary_and_not_a_crash_of_the_task():
    task = seqio.TaskRegistry.get("flan2021_stsb")
    for metric in task.metric_fns:
        with pytest.raises(DataError, match="all 2 predictions count as -1"):
            metric([["3.8"], ["1.0"]], ["A sentence.", "Another one."])
