"""Cluster 'dates_and_units': calendar, clock and units of measure, made up from a seed."""

from collections.abc import Callable

from t5x_instruct.data.tasks import add_task
from t5x_instruct.evaluation.metrics import exact_match
from tasks.starter.tables import made, words

CLUSTER = "dates_and_units"

Below = Callable[[int], int]
Row = dict[str, str | list[str]]

MONTHS = words("January February March April May June July August September October November December")
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

# larger unit, smaller unit, how many of the smaller make one of the larger.
UNITS = [
    ("kilometers", "meters", 1000),
    ("meters", "centimeters", 100),
    ("centimeters", "millimeters", 10),
    ("kilograms", "grams", 1000),
    ("tonnes", "kilograms", 1000),
    ("liters", "milliliters", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("centuries", "years", 100),
    ("decades", "years", 10),
    ("feet", "inches", 12),
    ("yards", "feet", 3),
    ("dozens", "pieces", 12),
]


def _month_after(below: Below) -> Row:
    start, step = below(12), 1 + below(23)
    return {
        "month": MONTHS[start],
        "step": str(step),
        "months": "month" if step == 1 else "months",
        "options": MONTHS,
        "answer": MONTHS[(start + step) % 12],
    }


def _weekday_after(below: Below) -> Row:
    start, step = below(7), 2 + below(40)
    return {
        "weekday": WEEKDAYS[start],
        "step": str(step),
        "options": WEEKDAYS,
        "answer": WEEKDAYS[(start + step) % 7],
    }


def _conversion(below: Below) -> Row:
    larger, smaller, factor = UNITS[below(len(UNITS))]
    amount = 2 + below(19)
    return {"amount": str(amount), "unit": larger, "wanted": smaller, "answer": str(amount * factor)}


def _leap_year(below: Below) -> Row:
    # Half of the years are multiples of 4, so that 'no' is not the answer to nearly everything.
    year = 1800 + (4 * below(100) if below(2) else below(400))
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return {"year": str(year), "options": ["yes", "no"], "answer": "yes" if leap else "no"}


def _clock(below: Below) -> Row:
    hour, minute, step = below(24), 5 * below(12), 1 + below(11)
    return {
        "time": f"{hour:02d}:{minute:02d}",
        "step": str(step),
        "hours": "hour" if step == 1 else "hours",
        "answer": f"{(hour + step) % 24:02d}:{minute:02d}",
    }


add_task(
    "month_after",
    cluster=CLUSTER,
    source=made("month_after", 320, _month_after),
    templates=[
        "Which month comes {step} {months} after {month}?",
        "It is {month}. Which month will it be in {step} {months}?",
        "Month: {month}\n{months} later: {step}\nResult:",
        "Count {step} {months} on from {month} and name the month you reach.",
        "A bill from {month} is due {step} {months} later. In which month? One word.",
        "Add {step} {months} to {month}. The answer is one of these:\n{options}",
    ],
    metrics=[exact_match],
)

add_task(
    "weekday_after",
    cluster=CLUSTER,
    source=made("weekday_after", 320, _weekday_after),
    templates=[
        "If today is {weekday}, what day of the week will it be in {step} days?",
        "Which weekday comes {step} days after a {weekday}?",
        "Today: {weekday}\nDays to wait: {step}\nThat day:",
        "The meeting is {step} days after {weekday}. On which weekday is it? Answer with the day only.",
        "Start at {weekday}, go {step} days forward. Choose the day: {options_inline}.",
        "Name the day of the week {step} days from {weekday}.",
    ],
    metrics=[exact_match],
)

add_task(
    "unit_conversion",
    cluster=CLUSTER,
    source=made("unit_conversion", 320, _conversion),
    templates=[
        "How many {wanted} are {amount} {unit}?",
        "Convert {amount} {unit} to {wanted}. Give the number only.",
        "{amount} {unit} = ? {wanted}",
        "Express {amount} {unit} in {wanted}.",
        "Amount: {amount} {unit}\nIn {wanted}:",
        "I have {amount} {unit}. What is that in {wanted}? Just write the number.",
    ],
    metrics=[exact_match],
)

add_task(
    "leap_year",
    cluster=CLUSTER,
    source=made("leap_year", 420, _leap_year),
    templates=[
        "Was or will {year} be a leap year? Answer yes or no.",
        "Does February {year} have 29 days in the Gregorian calendar? {options_inline}?",
        "Year: {year}\nLeap year (yes/no):",
        "Is {year} a leap year?\n{options}",
        "Decide whether the year {year} has 366 days. Reply with yes or no.",
        "Leap year check for {year}:",
    ],
    metrics=[exact_match],
)

add_task(
    "clock_time",
    cluster=CLUSTER,
    source=made("clock_time", 280, _clock),
    templates=[
        "It is {time}. What time will it be in {step} {hours}? Use the 24-hour clock.",
        "Add {step} {hours} to {time}.",
        "Start: {time}\nDuration: {step} {hours}\nEnd:",
        "A train leaves at {time} and travels for {step} {hours}. When does it arrive? Write hh:mm.",
        "What does a digital clock show {step} {hours} after {time}?",
        "{time} plus {step} {hours} is",
    ],
    metrics=[exact_match],
)
