"""Rows of FLAN 2021's reading tasks that are more than a choice of fields, from small examples as TFDS gives them."""

import pytest
import seqio

from t5x_instruct.data.preprocessors import OptionForm, RenderContext, Rendered, render_example
from t5x_instruct.data.tasks import task_info
from t5x_instruct.evaluation.text_metrics import Judgement, multirc
from tasks.flan2021 import (
    conversational_qa,
    open_domain_qa,
    read_comp_and_common_sense,
    reading_comprehension,
    structure_to_text,
    summarization,
)


def squad_example(texts: list[str], impossible: bool = False) -> dict:
    return {
        "id": "1",
        "title": "Beyonc%C3%A9_Knowles",
        "context": " She was born in Houston. ",
        "plausible_answers": {"text": ["Houston"], "answer_start": [16]},
        "question": " Where was she born?",
        "is_impossible": impossible,
        "answers": {"text": texts, "answer_start": [0] * len(texts)},
    }


def test_squad_accepts_all_answers_and_learns_the_first():
    row = reading_comprehension.squad_row(squad_example(["in Houston", "Houston", "in Houston "]))
    assert row == {
        "title": "Beyoncé Knowles",
        "context": "She was born in Houston.",
        "question": "Where was she born?",
        "answer": "in Houston",
        "answers": ["in Houston", "Houston"],
    }


def test_unanswerable_questions_have_one_answer_that_every_template_announces():
    row = reading_comprehension.squad_v2_row(squad_example([], impossible=True))
    assert (row["answer"], row["answers"]) == ("unanswerable", ["unanswerable"])
    assert reading_comprehension.squad_v2_row(squad_example(["Houston"]))["answers"] == ["Houston"]
    assert reading_comprehension.squad_row(squad_example([])) is None
    for name, word in (("squad_v2", "unanswerable"), ("quac", conversational_qa.NO_ANSWER)):
        asking = [t for t in task_info(f"flan2021_{name}").templates if "answer" in t.target_fields]
        assert len(asking) == 7
        assert all(word in t.inputs for t in asking)


@pytest.mark.parametrize(
    ("given", "written"),
    [("1517-October-31", "31 October 1517"), ("-October-31", "31 October"), ("3-0", "3-0"), ("2001-02", "2001-02")],
)
def test_dates_of_drop_are_written_as_its_evaluation_reads_them(given, written):
    example = {
        "passage": "P.",
        "question": "Q?",
        "answer": given,
        "validated_answers": ["7", "", written],
        "query_id": "",
    }
    row = reading_comprehension.drop_row(example)
    assert (row["answer"], row["answers"]) == (written, [written, "7"])


def test_drop_leaves_out_what_has_no_first_answer():
    example = {"passage": "P.", "question": "Q?", "answer": "", "validated_answers": ["7"], "query_id": ""}
    assert reading_comprehension.drop_row(example) is None


def multirc_example(question: int, answer: int, label: int) -> dict:
    return {
        "paragraph": "Ann and Bo came.",
        "question": "Who came?",
        "answer": ["Ann", "Bo", "Eve"][answer],
        "idx": {"paragraph": 4, "question": question, "answer": answer},
        "label": label,
    }


def shown(row: dict, letters: bool) -> Rendered:
    """The first rendering whose options are lettered, or any."""
    name = "flan2021_multirc"
    renderings = (
        render_example(
            row, task_info(name).templates, name, 0, RenderContext(template=0, variant=v), OptionForm("shown", letters)
        )
        for v in range(50)
    )
    return next(one for one in renderings if (one.options == ["no", "yes"]) != letters)


@pytest.mark.parametrize("letters", [False, True])
def test_answers_to_one_question_of_multirc_are_judged_together(letters):
    examples = [multirc_example(q, a, label) for q, a, label in ((7, 0, 1), (7, 1, 1), (7, 2, 0), (8, 0, 1), (8, 2, 0))]
    rows = [reading_comprehension.multirc_row(example) for example in examples]
    assert [row["group"] for row in rows] == ["4/7"] * 3 + ["4/8"] * 2
    task = seqio.TaskRegistry.get("flan2021_multirc")
    targets, predictions = [], []
    for index, row in enumerate(rows):
        rendered = shown(row, letters)
        example = {"options": rendered.options, "accepted_targets": rendered.accepted_targets, "group": row["group"]}
        targets.append(task.postprocess_fn(rendered.targets, example=example, is_target=True))
        said = rendered.targets if index else "What?"  # the first one is answered wrongly
        predictions.append(task.postprocess_fn(said, example=example, is_target=False))
    assert targets == [Judgement(row["answer"], row["group"]) for row in rows]
    # Of 3 'yes' 2 are found, nothing else is said: P 1, R 2/3. One of two questions is right throughout.
    assert multirc(targets, predictions) == {"f1a": pytest.approx(80), "exact_match": pytest.approx(50)}


def test_hidden_labels_are_left_out():
    assert reading_comprehension.multirc_row(multirc_example(0, 0, -1)) is None
    cosmos = {"context": "C", "question": "Q", **{f"answer{i}": str(i) for i in range(4)}, "label": -1, "id": "x"}
    assert read_comp_and_common_sense.cosmos_qa_row(cosmos) is None
    row = read_comp_and_common_sense.cosmos_qa_row(cosmos | {"label": 2})
    assert (row["options"], row["answer"]) == (["0", "1", "2", "3"], "2")


def trivia_example(aliases: list[str], value: str = "Sunset Boulevard") -> dict:
    answer = {"value": value, "aliases": aliases, "normalized_aliases": [alias.lower() for alias in aliases]}
    return {"question": "Which Lloyd Webber musical came in 1993 ", "answer": answer}


def test_trivia_qa_accepts_every_alias():
    row = open_domain_qa.trivia_qa_row(trivia_example(["Sunset Blvd", "Sunset Boulevard"]))
    assert row["question"] == "Which Lloyd Webber musical came in 1993?"
    assert row["answer"] == "Sunset Boulevard"
    assert row["answers"] == ["Sunset Boulevard", "Sunset Blvd", "sunset blvd", "sunset boulevard"]
    assert open_domain_qa.trivia_qa_row(trivia_example([], "<unk>")) is None


def test_natural_questions_are_completed_and_all_their_answers_accepted():
    row = open_domain_qa.natural_questions_row({"question": "who sang it", "answer": ["Cher ", "Sonny", "Cher"]})
    assert row == {"question": "who sang it?", "answer": "Cher", "answers": ["Cher", "Sonny"]}
    assert open_domain_qa.natural_questions_row({"question": "who", "answer": []}) is None


def test_the_answer_of_arc_is_found_by_its_letter():
    example = {"question": "Q?", "choices": {"text": ["a", "b", "c"], "label": [2, 0, 1]}, "answerKey": 0}
    assert open_domain_qa.arc_row(example)["answer"] == "b"
    assert open_domain_qa.arc_row(example | {"answerKey": 4}) is None


def coqa_example(story: str, turns: int) -> dict:
    answers = {"input_text": [f"a{i}" for i in range(turns)], "answer_start": [0] * turns, "answer_end": [1] * turns}
    return {"source": "wiki", "story": story, "questions": [f"q{i}?" for i in range(turns)], "answers": answers}


def test_a_question_of_coqa_comes_after_all_that_was_said_before():
    asked = set()
    for number in range(40):
        row = conversational_qa.coqa_row(coqa_example(f"Story {number}.", 4))
        turn = int(row["question"][1])
        asked.add(turn)
        assert row["answer"] == f"a{turn}"
        assert row["dialogue"] == "\n".join(f"Q: q{i}?\nA: a{i}" for i in range(turn))
    assert asked == {1, 2, 3}
    once = coqa_example("Once.", 9)
    assert conversational_qa.coqa_row(once) == conversational_qa.coqa_row(once)
    assert conversational_qa.coqa_row(coqa_example("Short.", 1)) is None


def test_what_quac_cannot_answer():
    example = {
        "context": "She wrote notes. CANNOTANSWER",
        "followup": "y",
        "yesno": "x",
        "question": "Did she sing?",
        "answers": {"text": ["CANNOTANSWER", "She wrote", "CANNOTANSWER"], "answer_start": [17, 0, 17]},
        "orig_answer": {"text": "CANNOTANSWER", "answer_start": 17},
        "section_title": "Work",
        "background": "",
        "title": "Ada",
    }
    row = conversational_qa.quac_row(example)
    assert row["context"] == "She wrote notes."
    assert (row["answer"], row["answers"]) == ("I don't know", ["I don't know", "She wrote"])


def test_record_offers_the_names_of_the_article_and_accepts_each_spelling():
    example = {
        "passage": "Ann Lee met Bo.\n@highlight\nLee wins\n@highlight\nBo lost",
        "query": "Thanks to @placeholder's serve",
        "entities": ["Ann Lee", "Bo", "Lee"],
        "answers": ["Ann Lee", "Lee"],
        "idx": {"passage": 0, "query": 0},
    }
    row = read_comp_and_common_sense.record_row(example)
    assert row == {
        "passage": "Ann Lee met Bo.\n- Lee wins\n- Bo lost",
        "query": "Thanks to _____'s serve",
        "sentence": "Thanks to Ann Lee's serve",
        "options": ["Ann Lee", "Bo", "Lee"],
        "answer": "Ann Lee",
        "answers": ["Ann Lee", "Lee"],
    }
    task = "flan2021_record"
    rendered = render_example(row, task_info(task).templates, task, 0, RenderContext(template=0), OptionForm("shown"))
    assert rendered.accepted_targets == ["Ann Lee", "Lee"]
    assert rendered.options == ["Ann Lee", "Bo", "Lee"]
    assert read_comp_and_common_sense.record_row(example | {"answers": []}) is None
    many = example | {"entities": [f"Name {i}" for i in range(60)]}
    crowd = read_comp_and_common_sense.record_row(many)
    for variant in range(20):
        context = RenderContext(template=0, variant=variant)
        shown = render_example(crowd, task_info(task).templates, task, 0, context, OptionForm("shown"))
        assert "Name 59" in shown.inputs


def test_structures_are_written_out():
    said = {"target": "T.", "references": ["R.", "T. "]}
    assert structure_to_text.common_gen_row({"concepts": ["ski", "hill"], **said}) == {
        "concepts": "ski, hill",
        "answer": "T.",
        "answers": ["T.", "R."],
    }
    given = {"meaning_representation": "name[The Mill], eatType[pub], customer rating[5 out of 5]", **said}
    wanted = "name: The Mill, eat type: pub, customer rating: 5 out of 5"
    assert structure_to_text.e2e_nlg_row(given)["attributes"] == wanted
    triples = {"input": ['Aarhus_Airport | cityServed | "Aarhus, Denmark"', "A | runwayLength | 2776.0"], **said}
    assert structure_to_text.web_nlg_row(triples)["facts"] == (
        "Aarhus Airport | city served | Aarhus, Denmark\nA | runway length | 2776.0"
    )
    tables = {"tripleset": ["[TABLECONTEXT] [TITLE] Mars", "Mars MOONS 2"], **said}
    assert structure_to_text.dart_row(tables)["facts"] == "Mars\nMars MOONS 2"
    assert structure_to_text.common_gen_row({"concepts": ["ski"], "target": "", "references": []}) is None


def test_summaries_and_their_texts():
    assert summarization.multi_news_row({"document": "One.\n|||||\n Two. ||||| ", "summary": "– Both."}) == {
        "text": "One.\n\n---\n\nTwo.",
        "answer": "Both.",
    }
    chat = {"dialogue": "Ann: look\r\nAnn: <file_photo>\r\nBo: <3 it", "summary": "S.", "id": "1"}
    assert summarization.samsum_row(chat)["text"] == "Ann: look\nAnn: \nBo: <3 it"
    assert summarization.gigaword_row({"document": "prices rose ## percent", "summary": "prices up"}) is None
    assert summarization.gigaword_row({"document": "prices rose", "summary": "UNK up"}) is None
    assert summarization.aeslc_row({"email_body": "Hi\nthere\n", "subject_line": "\n"}) is None
    news = {"title": "Stocks at #36;5", "description": "Google #39;s &lt;b&gt;", "label": 3}
    assert summarization.ag_news_row(news) == {
        "title": "Stocks at $5",
        "text": "Google 's <b>",
        "options": ["World", "Sports", "Business", "Science/Tech"],
        "answer": "Science/Tech",
    }


def test_ten_opinions_are_listed():
    critics = {"key": [str(i) for i in range(12)], "value": [f"Good\n film {i}." for i in range(12)]}
    example = {"_movie_name": "the_film", "_movie_id": "f", "_critic_consensus": "It&#39;s good.", "_critics": critics}
    row = summarization.rotten_tomatoes_row(example)
    assert row["about"] == "the film"
    assert row["answer"] == "It's good."
    assert row["first"] == "Good film 0."
    assert row["text"].splitlines()[-1] == "10. Good film 9."
