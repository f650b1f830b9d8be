"""How long it takes to look for contamination: generated texts, nothing prepared, one process.

    python benchmarks/overlap.py [--train 100000] [--evaluated 10000] [--words 200] [--json]

Texts are words drawn with Zipf frequencies, after instructions that a task's examples share. One in a hundred evaluated
examples is a copy of a training example, one in a hundred has a passage of one; the script ends with 1 if they are not
found or others are. The time is wall time and has the generating of texts not in it.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator

import numpy as np

from t5x_instruct.data.overlap import Texts, find_overlap

VOCABULARY = 50_000
TASKS = 20
BATCH = 4096
EVERY = 100


def words(rng: np.random.Generator, count: int, mean: int) -> list[list[int]]:
    """Word numbers of texts with lengths around a mean."""
    lengths = np.clip(rng.lognormal(np.log(mean), 0.6, count), 8, 2000).astype(int)
    shares = np.cumsum(1 / (np.arange(VOCABULARY) + 2.7))
    drawn = np.searchsorted(shares, rng.random(int(lengths.sum())) * shares[-1])
    return [part.tolist() for part in np.split(drawn, np.cumsum(lengths)[:-1])]


def text(numbers: list[int]) -> str:
    return " ".join(f"{'bcdfghkl'[n % 8]}{'aeiou'[n % 5]}w{n:x}" for n in numbers)


def batches(name: str, made: list[str]) -> Iterator[Texts]:
    """The texts as those of several tasks, each with instructions of its own."""
    size = -(-len(made) // TASKS)
    for task in range(TASKS):
        frame = f"this is what you are asked to do in task {task} so please read it with care and answer:"
        own = made[task * size : (task + 1) * size]
        for first in range(0, len(own), BATCH):
            part = own[first : first + BATCH]
            yield Texts(f"{name}_{task}", first, [f"{frame} {one[:-20]}" for one in part], [one[-20:] for one in part])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=100_000, help="training examples")
    parser.add_argument("--evaluated", type=int, default=10_000, help="evaluated examples")
    parser.add_argument("--words", type=int, default=200, help="about as many words an example")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a sentence")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    train = [text(numbers) for numbers in words(rng, arguments.train, arguments.words)]
    evaluated = [text(numbers) for numbers in words(rng, arguments.evaluated, arguments.words)]
    for i in range(0, len(evaluated) - 1, EVERY):
        evaluated[i] = train[(i * 7) % len(train)]
        passage = train[(i * 11) % len(train)].split()[:40]
        evaluated[i + 1] = " ".join([*evaluated[i + 1].split()[:40], *passage])
    train_texts, evaluated_texts = list(batches("train", train)), list(batches("evaluated", evaluated))
    characters = sum(map(len, train)) + sum(map(len, evaluated))
    start = time.perf_counter()
    found = find_overlap(train_texts, evaluated_texts)
    seconds = time.perf_counter() - start
    planted = 2 * len(range(0, len(evaluated) - 1, EVERY))
    figures = {
        "train": arguments.train,
        "evaluated": arguments.evaluated,
        "million_characters": round(characters / 1e6, 1),
        "seconds": round(seconds, 1),
        "planted": planted,
        "found_a_quarter_or_more": sum(match.share > 1 / 4 for match in found.matches),
        "found_in_all": len(found.matches),
    }
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print(", ".join(f"{name} {value:,}" for name, value in figures.items()))
    return int(figures["found_a_quarter_or_more"] < 0.95 * planted)


if __name__ == "__main__":
    sys.exit(main())
