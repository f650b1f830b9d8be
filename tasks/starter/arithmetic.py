"""Cluster 'arithmetic': sums that are made up from a seed."""

from collections.abc import Callable

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match
from tasks.starter.tables import made

CLUSTER = "arithmetic"

Below = Callable[[int], int]
Row = dict[str, str | list[str]]


def _sum(below: Below) -> Row:
    a, b = 2 + below(98), 2 + below(98)
    return {"a": str(a), "b": str(b), "answer": str(a + b)}


def _difference(below: Below) -> Row:
    b, answer = 1 + below(60), 1 + below(60)
    return {"a": str(answer + b), "b": str(b), "answer": str(answer)}


def _product(below: Below) -> Row:
    a, b = 2 + below(29), 2 + below(11)
    return {"a": str(a), "b": str(b), "answer": str(a * b)}


def _larger(below: Below) -> Row:
    a = 1 + below(990)
    b = a + 1 + below(9 + a // 4)
    options = [str(a), str(b)] if below(2) else [str(b), str(a)]
    return {"options": options, "answer": str(b)}


def _parity(below: Below) -> Row:
    number = 1 + below(999)
    return {"number": str(number), "options": ["even", "odd"], "answer": "odd" if number % 2 else "even"}


add_task(
    "addition",
    cluster=CLUSTER,
    source=made("addition", 280, _sum),
    templates=[
        "What is {a} + {b}?",
        "Add {a} and {b}.",
        "{a} + {b} =",
        "Calculate the sum of {a} and {b}. Write only the number.",
        "I have {a} marbles and get {b} more. How many do I have now? Number only.",
        "a: {a}\nb: {b}\na + b:",
        "How much is {a} plus {b}?",
    ],
    metrics=[exact_match],
)

add_task(
    "subtraction",
    cluster=CLUSTER,
    source=made("subtraction", 280, _difference),
    templates=[
        "What is {a} - {b}?",
        "Subtract {b} from {a}.",
        "{a} - {b} =",
        "Calculate {a} minus {b}. Reply with the result only.",
        "There are {a} apples and {b} are eaten. How many are left? Just the number.",
        "Find the difference between {a} and {b}.",
    ],
    metrics=[exact_match],
)

add_task(
    "multiplication",
    cluster=CLUSTER,
    source=made("multiplication", 360, _product),
    templates=[
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "{a} x {b} =",
        "Work out the product of {a} and {b} and write the number.",
        "{b} boxes hold {a} eggs each. How many eggs are there? Answer in digits.",
        "Factor 1: {a}\nFactor 2: {b}\nProduct:",
    ],
    metrics=[exact_match],
)

add_task(
    "larger_number",
    cluster=CLUSTER,
    source=made("larger_number", 280, _larger),
    templates=[
        "Which number is larger?\n{options}",
        "Which is greater, {options_inline}?",
        "Numbers: {options_inline}\nLarger one:",
        "{options}\nRepeat the bigger of these two numbers.",
        "Compare the numbers {options_inline} and write down the larger.",
        "Pick the maximum: {options_inline}",
    ],
    metrics=[exact_match],
)

add_task(
    "even_or_odd",
    cluster=CLUSTER,
    source=made("even_or_odd", 280, _parity),
    templates=[
        "Is {number} even or odd?",
        "Tell me whether {number} is {options_inline}.",
        "Number: {number}\nEven or odd:",
        "Decide if the number {number} is odd or even. One word.",
        "Which word describes {number}?\n{options}",
        "Can {number} be divided by two without a remainder? If so write even, otherwise odd.",
    ],
    metrics=[exact_match],
)
