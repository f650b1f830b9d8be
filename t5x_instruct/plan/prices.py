"""What chips cost, from a file that the user keeps: prices change and depend on region and contract."""

import math
from collections.abc import Mapping
from pathlib import Path

from t5x_instruct.common.errors import ConfigError, unknown
from t5x_instruct.plan.topologies import CHIPS, Slices


def read_prices(path: str | Path) -> dict[str, float]:
    """Prices of a chip-hour by generation.

    Args:
        path: a text file with a line ``generation, price`` for each; what follows a # is a comment.

    Returns:
        Generation -> price, in the file's currency.

    Raises:
        ConfigError: the file cannot be read, or lines are wrong; all of them, with their numbers.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read prices from {path}: {error}") from error
    prices: dict[str, float] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, _, value = (part.strip() for part in text.partition(","))
        try:
            price = float(value)
        except ValueError:
            price = math.nan
        if name not in CHIPS:
            problems.append(f"{path}:{number}: {unknown('generation', name, CHIPS)}")
        elif not 0 < price < math.inf:
            problems.append(f"{path}:{number}: {text!r}: expected a generation, a comma and a price above 0")
        elif name in prices:
            problems.append(f"{path}:{number}: {name} has a price already, {prices[name]:g}")
        else:
            prices[name] = price
    if problems:
        raise ConfigError(problems)
    return prices


def price_an_hour(slices: Slices, prices: Mapping[str, float]) -> float:
    """What all chips of the slices cost in an hour.

    Raises:
        ConfigError: there is no price for this generation.
    """
    if slices.generation not in prices:
        raise ConfigError(f"{slices.name}: the prices have none for {slices.generation}, only for {', '.join(prices)}")
    return slices.num_chips * prices[slices.generation]
