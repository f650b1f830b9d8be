"""Cluster 'string_editing': words to take apart and put together, letter for letter."""

from collections.abc import Callable

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match, sequence_accuracy
from tasks.starter.sorting_and_counting import WORDS
from tasks.starter.tables import facts, made, pick, words

CLUSTER = "string_editing"

Below = Callable[[int], int]
Row = dict[str, str | list[str]]

SHORT_WORDS = words(
    """
    ant arm art bag ball bell bird blue boat book bread cake card chair clock cloud coat cold cup dance day desk
    door dream duck ear egg eye farm fish flag fork frog game gate gift girl gold grass green hair hand hat heart
    hill home hope horse house ice jam juice jump king kite lake lamp leaf light lion map milk moon mouse music
    name nest night nose paper path peach piano plane plant quick rain ring road roof rope sand ship shoe sky
    sleep snow song soup star stone storm sugar sun train tree truck water wheel wind wolf wood world zoo
    """
)


def _joined(below: Below) -> Row:
    items = pick(below, WORDS, 2 + below(2))
    return {"items": " ".join(items), "answer": "-".join(items)}


def _initials(below: Below) -> Row:
    items = pick(below, WORDS, 3 + below(2))
    return {"items": " ".join(items), "answer": "".join(word[0] for word in items)}


add_task(
    "reverse_word",
    cluster=CLUSTER,
    source=facts([{"word": w, "answer": w[::-1]} for w in SHORT_WORDS], key="word"),
    templates=[
        'Spell "{word}" backwards.',
        "Reverse the letters of {word}.",
        "Word: {word}\nReversed:",
        "Write {word} from the last letter to the first. Only the result.",
        "What do you get if you read {word} from right to left?",
    ],
    metrics=[exact_match],
)

add_task(
    "upper_case",
    cluster=CLUSTER,
    source=facts([{"word": w, "answer": w.upper()} for w in WORDS + SHORT_WORDS], key="word"),
    templates=[
        'Write "{word}" in capital letters.',
        "Convert to upper case: {word}",
        "Word: {word}\nUppercase:",
        "Shout this word by using only capitals: {word}",
        "Change every letter of {word} to a capital letter and print the word.",
    ],
    metrics=[sequence_accuracy],
)

add_task(
    "last_letter",
    cluster=CLUSTER,
    source=facts([{"word": w, "answer": w[-1]} for w in WORDS + SHORT_WORDS], key="word"),
    templates=[
        'What is the last letter of "{word}"?',
        "With which letter does the word {word} end?",
        "Word: {word}\nLast letter:",
        "Give only the final letter of {word}.",
        "Take {word} and throw away everything but the last letter.",
    ],
    metrics=[exact_match],
)

add_task(
    "hyphenate",
    cluster=CLUSTER,
    source=made("hyphenate", 240, _joined),
    templates=[
        "Join these words with hyphens: {items}",
        "Replace the spaces by hyphens.\n{items}",
        "Words: {items}\nJoined with '-':",
        "Write {items} as one string with a hyphen between the words.",
        "Put a hyphen wherever there is a space: {items}",
    ],
    metrics=[exact_match],
)

add_task(
    "initials",
    cluster=CLUSTER,
    source=made("initials", 240, _initials),
    templates=[
        "Take the first letter of each word and write them together: {items}",
        "What do the initials of these words spell? {items}",
        "Words: {items}\nFirst letters:",
        "{items}\n\nJoin the first letters of the words above, without spaces.",
        "Make an abbreviation in small letters from the words {items}.",
    ],
    metrics=[exact_match],
)
