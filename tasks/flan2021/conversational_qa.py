"""FLAN 2021, conversational question answering: one question in the middle of a conversation about a text.

CoQA has whole conversations: of each one question is asked, drawn by hash among those that have something before
them, with the conversation up to it. In QuAC's data set in TFDS every question is an example of its own, without what
was said before it; what the student knew (title, introduction, section) is given instead.
"""

from typing import Any

from t5x_instruct.evaluation.text_metrics import squad, trivia_qa
from t5x_instruct.templates.prompts import Template, draw
from tasks.flan2021.registry import add_flan_task, cap
from tasks.flan2021.rows import Row, accepted, complete

CLUSTER = "conversational_qa"
NO_ANSWER = "I don't know"
"""What is learned where the text does not answer a question of QuAC."""

_QUAC_NO_ANSWER = "CANNOTANSWER"

Example = dict[str, Any]


def coqa_row(example: Example) -> Row | None:
    """One question of a conversation with what was said before it.

    Left out are conversations of one question, and those with more or fewer answers than questions.
    """
    questions, answers = example["questions"], example["answers"]["input_text"]
    if len(questions) < 2 or len(questions) != len(answers):
        return None
    now = 1 + draw(len(questions) - 1, "coqa", example["story"])
    before = zip(questions[:now], answers[:now], strict=True)
    dialogue = "\n".join(f"Q: {question.strip()}\nA: {answer.strip()}" for question, answer in before)
    return complete(
        {"story": example["story"], "dialogue": dialogue, "question": questions[now], "answer": answers[now]}
    )


def quac_row(example: Example) -> Row | None:
    """One question with the section it is asked about; all annotators' answers are accepted."""
    given = [example["orig_answer"]["text"], *example["answers"]["text"]]
    answers = accepted(NO_ANSWER if text.strip() == _QUAC_NO_ANSWER else text for text in given)
    if not answers:
        return None
    return complete(
        {
            "title": example["title"],
            "background": example["background"],
            "section": example["section_title"],
            "context": example["context"].strip().removesuffix(_QUAC_NO_ANSWER),
            "question": example["question"],
            "answer": answers[0],
            "answers": answers,
        },
        "background",
    )


COQA: list[Template | str] = [
    "{story}\n\n{dialogue}\nQ: {question}\nA:",
    "Read the story, follow the conversation about it and answer the last question.\n\n{story}\n\n{dialogue}\n"
    "Q: {question}",
    "Two people talk about this text:\n{story}\n\nSo far they have said:\n{dialogue}\n\nNow comes: {question}\n"
    "What is the reply?",
    "Conversation so far:\n{dialogue}\n\nThe text that it is about:\n{story}\n\nNext question: {question}",
    'Text: {story}\n\nAfter these questions and answers\n{dialogue}\nsomebody asks: "{question}" Answer briefly.',
    "{story}\n\nA reader has asked about this:\n{dialogue}\n\nHelp the reader once more: {question}",
    Template(
        "{story}\n\n{dialogue}\n\nWhat could be asked next, so that the conversation goes on naturally?", "{question}"
    ),
    Template("Go on with this interview about the text: one more question.\n\n{story}\n\n{dialogue}\nQ:", "{question}"),
    Template(
        'The conversation below is about a text.\n\nText: {story}\n\n{dialogue}\n\nThe next answer is "{answer}". '
        "Which question does it answer?",
        "{question}",
    ),
    Template(
        "Write down a conversation in which questions about this story are asked and answered.\n\n{story}",
        "{dialogue}",
    ),
]

_ELSE = f'If the text does not say, answer "{NO_ANSWER}".'

QUAC: list[Template | str] = [
    f"{{title}}: {{section}}\n\n{{context}}\n\n{{question}}\n{_ELSE}",
    f"Background: {{background}}\n\nText: {{context}}\n\nA student asks: {{question}}\nQuote the part of the text that"
    f" answers. {_ELSE}",
    f"You are a teacher with this text about {{title}} in front of you.\n\n{{context}}\n\nYour student, who cannot see"
    f" it, wants to know: {{question}} {_ELSE}",
    f"{_ELSE} Question: {{question}}\nText ({{section}}): {{context}}\nAnswer:",
    f"{{background}}\n\n{{section}}\n{{context}}\n\nFind the passage that answers this question: {{question}} {_ELSE}",
    f"Answer with the words of the article.\n\nArticle on {{title}}, section {{section}}: {{context}}\n\n"
    f"Q: {{question}}\n{_ELSE}",
    f"Q: {{question}}\nThis is about {{title}}. The answer may stand here:\n{{context}}\n\n{_ELSE}",
    Template(
        "{background}\n\nThere is also a section on: {section}. What would you ask to learn what it says?", "{question}"
    ),
    Template(
        "Text about {title}: {context}\n\nWrite the question of a curious student that is answered by:\n{answer}",
        "{question}",
    ),
    Template(
        "A student who asks about {title} ({section}) is told:\n{answer}\n\nWhat was the question?",
        "{question}",
    ),
]

add_flan_task(
    "coqa",
    cluster=CLUSTER,
    dataset="coqa",
    version="1.0.0",
    train="train[:-100]",
    validation="train[-100:]",
    test="test",
    row=coqa_row,
    templates=COQA,
    metrics=[squad],
)

add_flan_task(
    "quac",
    cluster=CLUSTER,
    dataset="quac",
    version="1.0.0",
    train=cap("train[:-200]"),
    validation="train[-200:]",
    test="validation",
    row=quac_row,
    templates=QUAC,
    metrics=[trivia_qa],
)
