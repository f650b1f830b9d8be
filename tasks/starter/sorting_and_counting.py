"""Cluster 'sorting_and_counting': small lists that are made up from a seed."""

from collections.abc import Callable

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match, token_f1
from tasks.starter.tables import made, pick, words

CLUSTER = "sorting_and_counting"

Below = Callable[[int], int]
Row = dict[str, str | list[str]]

WORDS = words(
    """
    apple basket candle desert engine forest garden hammer island jacket kettle ladder mirror needle orange
    pencil quilt rabbit saddle table umbrella violin window yogurt zebra anchor bridge castle dragon eagle
    feather guitar honey igloo jungle kitchen lemon market napkin ocean pepper queen river silver tiger uncle
    valley winter yellow zipper
    """
)


def _words(below: Below) -> Row:
    items = pick(below, WORDS, 3 + below(2))
    return {"items": ", ".join(items), "answer": ", ".join(sorted(items))}


def _numbers(below: Below) -> Row:
    numbers = pick(below, [str(n) for n in range(1, 100)], 3 + below(2))
    return {"items": ", ".join(numbers), "answer": ", ".join(sorted(numbers, key=int))}


def _count(below: Below) -> Row:
    word, *others = pick(below, WORDS, 3)
    times = 1 + below(4)
    items = [word] * times + [others[below(2)] for _ in range(1 + below(3))]
    return {
        "word": word,
        "items": ", ".join(pick(below, items, len(items))),
        "options": ["1", "2", "3", "4"],
        "answer": str(times),
    }


def _length(below: Below) -> Row:
    items = pick(below, WORDS, 2 + below(6))
    return {"items": ", ".join(items), "answer": str(len(items))}


def _place(below: Below) -> Row:
    items = pick(below, WORDS, 4)
    place = below(4)
    return {
        "items": ", ".join(items),
        "place": ["first", "second", "third", "last"][place],
        "options": items,
        "answer": items[place],
    }


add_task(
    "sort_words",
    cluster=CLUSTER,
    source=made("sort_words", 260, _words),
    templates=[
        "Sort these words alphabetically: {items}",
        "Put the following words in alphabetical order and part them by commas.\n{items}",
        "Words: {items}\nSorted:",
        "Arrange {items} from A to Z. Write nothing but the list.",
        "In which order do these words stand in a dictionary? {items}",
        "{items}\n\nList the words above in alphabetical order.",
    ],
    metrics=[exact_match, token_f1],
)

add_task(
    "sort_numbers",
    cluster=CLUSTER,
    source=made("sort_numbers", 260, _numbers),
    templates=[
        "Sort these numbers from smallest to largest: {items}",
        "Put {items} in increasing order, with commas between the numbers.",
        "Numbers: {items}\nIn ascending order:",
        "Order the numbers {items}, smallest first. Only the list, please.",
        "{items}\nRewrite the line above so that the numbers go up.",
    ],
    metrics=[exact_match, token_f1],
)

add_task(
    "count_word",
    cluster=CLUSTER,
    source=made("count_word", 280, _count),
    templates=[
        'How many times does "{word}" occur in this list? {items}',
        "Count the word {word} in: {items}",
        "List: {items}\nWord: {word}\nCount:",
        "{items}\n\nHow often is {word} mentioned above? Answer with a number.",
        "Choose how many times {word} is in the list {items}.\n{options}",
    ],
    metrics=[exact_match],
)

add_task(
    "count_items",
    cluster=CLUSTER,
    source=made("count_items", 260, _length),
    templates=[
        "How many words are in this list? {items}",
        "Count the items: {items}",
        "List: {items}\nNumber of entries:",
        "{items}\n\nTell me how many things are named above, in digits.",
        "Give the length of the list {items} as a number.",
    ],
    metrics=[exact_match],
)

add_task(
    "item_at_place",
    cluster=CLUSTER,
    source=made("item_at_place", 280, _place),
    templates=[
        "What is the {place} word in this list? {items}",
        "Write the {place} item of: {items}",
        "List: {items}\nThe {place} word:",
        "From the words {items}, repeat only the {place} one.",
        "{items}\n\nWhich word stands in the {place} place?",
    ],
    metrics=[exact_match],
)
