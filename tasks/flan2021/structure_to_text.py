"""FLAN 2021, structure to text: sentences that say what a set of words, triples or attributes says.

The data sets are GEM's. Their training examples have one text each; where an example has several, all of them are
references and the best counts.
"""

import re
from typing import Any

from t5x_instruct.evaluation.text_metrics import rouge
from t5x_instruct.templates.prompts import Template
from tasks.flan2021.registry import add_flan_task, cap
from tasks.flan2021.rows import Row, accepted, complete

CLUSTER = "structure_to_text"

_ATTRIBUTE = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]")
_BRACKETED = re.compile(r"\[[^\]]*\]")
_INNER_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")

Example = dict[str, Any]


def common_gen_row(example: Example) -> Row | None:
    """Words that a sentence about an everyday scene has to use."""
    return _row(example, concepts=", ".join(word.strip() for word in example["concepts"] if word.strip()))


def dart_row(example: Example) -> Row | None:
    """Triples, one a line, as TFDS writes them: subject, relation and object in a row.

    Markers such as [TABLECONTEXT] stand for the table that a triple was taken from and are left out.
    """
    triples = [" ".join(_BRACKETED.sub(" ", triple).split()) for triple in example["tripleset"]]
    return _row(example, facts="\n".join(triple for triple in triples if triple))


def e2e_nlg_row(example: Example) -> Row | None:
    """What is known of a restaurant: 'name[Alimentum], eatType[pub]' becomes 'name: Alimentum, eat type: pub'."""
    given = example["meaning_representation"].strip()
    pairs = [f"{_words(name)}: {value.strip()}" for name, value in _ATTRIBUTE.findall(given)]
    return _row(example, attributes=", ".join(pairs) or given)


def web_nlg_row(example: Example) -> Row | None:
    """Triples of DBpedia, one a line: 'Aarhus_Airport | cityServed | "Aarhus, Denmark"' without its code spelling."""
    return _row(example, facts="\n".join(_dbpedia(triple) for triple in example["input"] if triple.strip()))


def _dbpedia(triple: str) -> str:
    parts = [part.strip().strip('"').replace("_", " ").strip() for part in triple.split(" | ")]
    if len(parts) == 3:
        parts[1] = _words(parts[1])
    return " | ".join(parts)


def _words(name: str) -> str:
    """'priceRange' as 'price range'."""
    return _INNER_CAPITAL.sub(" ", name).lower().strip()


def _row(example: Example, **fields: str) -> Row | None:
    """The row with its references; None where there is nothing to say or no text that says it."""
    references = accepted([example["target"], *example["references"]])
    return complete({**fields, "answer": references[0], "answers": references}) if references else None


COMMON_GEN: list[Template | str] = [
    "Write a sentence with these words: {concepts}",
    "{concepts}\n\nWhat might be going on here? Describe the scene in one sentence and use every word.",
    "Put these together into a sentence that makes sense: {concepts}",
    "Concepts: {concepts}\nSentence:",
    "Think of an everyday situation in which {concepts} all occur. Describe it in a line.",
    "I need an example sentence for my language class. It has to contain: {concepts}",
    "Use the following words, in any order and form, in one plain sentence.\n{concepts}",
    Template("List the most important words of this sentence: {answer}", "{concepts}"),
    Template("{answer}\n\nWhich concepts does the sentence above bring together?", "{concepts}"),
    Template('Reduce "{answer}" to its key words, separated by commas.', "{concepts}"),
]

DART: list[Template | str] = [
    "Say in good English what these records say.\n\n{facts}",
    "{facts}\n\nTurn this into a sentence or two.",
    "Facts:\n{facts}\n\nText:",
    "A table holds the following entries. Write them out for people who do not read tables.\n\n{facts}",
    "Write a short text with all of this information and nothing else:\n{facts}",
    "Each line gives a subject, a relation and an object.\n{facts}\n\nVerbalise them.",
    "Here is what my database knows:\n{facts}\nHow would you tell it to someone?",
    Template("Break this down into facts of subject, relation and object, one a line.\n\n{answer}", "{facts}"),
    Template("{answer}\n\nWhich records of a database is this text made from?", "{facts}"),
    Template('Extract the triples from: "{answer}"', "{facts}"),
]

E2E_NLG: list[Template | str] = [
    "Describe this restaurant: {attributes}",
    "{attributes}\n\nWrite a line for a restaurant guide from these data.",
    "Data: {attributes}\nDescription:",
    "Recommend a place to a friend. All you know about it is: {attributes}",
    "Turn the attributes into a sentence or two that anybody would understand.\n\n{attributes}",
    "Say in whole sentences: {attributes}",
    "The entry in the city guide says {attributes}. Tell me about it, and leave nothing out.",
    Template("{answer}\n\nList what this says about the place as attributes with their values.", "{attributes}"),
    Template("Fill in the form of a restaurant guide from this description: {answer}", "{attributes}"),
    Template("Description: {answer}\nData:", "{attributes}"),
]

WEB_NLG: list[Template | str] = [
    "Write a text that states these facts.\n\n{facts}",
    "{facts}\n\nThe lines above come from a knowledge base. Express them in plain English.",
    "Triples:\n{facts}\n\nIn words:",
    "Tell a reader of an encyclopedia the following, in full sentences:\n{facts}",
    "What do these statements (subject | property | value) say? Write it as one short passage.\n{facts}",
    "Make a fluent sentence, or a few, of this:\n\n{facts}\n\nDo not add anything.",
    "Please put my notes into sentences.\n{facts}",
    Template("Write what this says as lines of subject | property | value.\n\n{answer}", "{facts}"),
    Template("{answer}\n\nWhich entries should a knowledge base get from this text?", "{facts}"),
    Template("In words: {answer}\n\nTriples:", "{facts}"),
]

for _name, _make_row, _templates in (
    ("common_gen", common_gen_row, COMMON_GEN),
    ("dart", dart_row, DART),
    ("e2e_nlg", e2e_nlg_row, E2E_NLG),
    ("web_nlg_en", web_nlg_row, WEB_NLG),
):
    add_flan_task(
        _name,
        cluster=CLUSTER,
        dataset=f"gem/{_name}",
        version="1.1.0",
        train=cap("train[:-200]"),
        validation="train[-200:]",
        # As FLAN does; CommonGen's official test set has no references.
        test="validation",
        row=_make_row,
        templates=_templates,
        metrics=[rouge],
    )
