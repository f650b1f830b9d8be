"""The fastest way to run a training run on a slice, and the cheapest slice: guessed first, then compiled."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.plan.candidates import Candidate, Guess, Guesser
from t5x_instruct.plan.compiled import Plan, plan_training
from t5x_instruct.plan.prices import price_an_hour
from t5x_instruct.plan.roofline import step_seconds
from t5x_instruct.plan.topologies import Slices, hbm_limit
from t5x_instruct.runs.opening import planned_model
from t5x_instruct.runs.training_run import TrainRun

#: A candidate that is guessed to take so many times the best compiled one's time is not compiled.
HOPELESS = 1.5


class Trial(NamedTuple):
    """A candidate that was compiled.

    Attributes:
        candidate: which.
        plan: what the compiler says of it.
        seconds: the estimate of its step; None if it does not fit.
        price: of a step, in the prices' currency; None without prices, or if it does not fit.
    """

    candidate: Candidate
    plan: Plan
    seconds: float | None
    price: float | None


class Found(NamedTuple):
    """What a search has found.

    Attributes:
        trials: all that was compiled, the best first: those that fit by price, where prices are known, else by time.
        guessed: how many candidates the slices divide.
        too_large: how many of them cannot fit by their state and what they keep alone.
    """

    trials: tuple[Trial, ...]
    guessed: int
    too_large: int

    @property
    def best(self) -> Trial | None:
        """The fastest, or with prices the cheapest, that fits."""
        return self.trials[0] if self.trials and self.trials[0].plan.fits else None


class Progress(NamedTuple):
    """How far a search is.

    Attributes:
        trial: what has just been compiled.
        done: compiled so far.
        most: compiled in the end, at most.
        seconds_left: until then, at the pace so far.
    """

    trial: Trial
    done: int
    most: int
    seconds_left: float


def search(
    run: TrainRun,
    choices: Sequence[Slices],
    *,
    most: int = 12,
    prices: Mapping[str, float] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Found:
    """Looks for the fastest mesh, rematerialisation, micro-batches and row shape of a run.

    Tokens a step stay what they are; rows may become longer and fewer. All that a slice divides is guessed from
    traced shapes; what cannot fit is dropped, and the rest is compiled in the order of the guess, which is corrected
    by what has been compiled. It is a search and no proof: another candidate may be a little faster.

    Args:
        run: the run.
        choices: the slices it may run on.
        most: candidates of each of them that are compiled.
        prices: of a chip-hour by generation.
        progress: called after each compilation.

    Raises:
        ConfigError: no slice divides the run, the prices lack a generation, or the run trains adapters, whose frozen
            model the guess knows nothing of.
    """
    if run.model.lora is not None:
        raise ConfigError("the search is for runs that train all parameters; with LORA_RANK plan each choice by itself")
    hourly = {one: price_an_hour(one, prices) for one in choices} if prices is not None else {}
    guesser = Guesser(run)
    all_guesses = {one: guesser.guesses(one) for one in choices}
    if not any(all_guesses.values()):
        raise ConfigError(
            f"no mesh of {', '.join(one.name for one in choices)} divides this run: BATCH_SIZE {run.data.batch_size}, "
            "heads, widths and lengths; `plan` without --search names what does not divide"
        )
    possible = {
        one: [guess for guess in guesses if guess.hbm_bytes <= hbm_limit(one.generation)]
        for one, guesses in all_guesses.items()
    }
    left = sum(min(most, len(guesses)) for guesses in possible.values())
    trials: list[Trial] = []
    start = time.monotonic()
    for slices, guesses in possible.items():
        queue = _Queue(guesses)
        for _ in range(min(most, len(guesses))):
            guess = queue.next()
            if guess is None:
                break
            trials.append(_compiled(run, guess.candidate, hourly))
            queue.learn(guess, trials[-1])
            if progress:
                pace = (time.monotonic() - start) / len(trials)
                progress(Progress(trials[-1], len(trials), max(left, len(trials)), pace * (left - len(trials))))
        left = len(trials) + sum(min(most, len(possible[one])) for one in choices[choices.index(slices) + 1 :])
    guessed = sum(map(len, all_guesses.values()))
    ordered = sorted(trials, key=lambda one: (not one.plan.fits, one.price or 0.0, one.seconds or 0.0))
    return Found(tuple(ordered), guessed, guessed - sum(map(len, possible.values())))


def _compiled(run: TrainRun, candidate: Candidate, hourly: Mapping[Slices, float]) -> Trial:
    applied = candidate.applied(run)
    plan = plan_training(applied, planned_model(applied.model), candidate.slices)
    seconds = step_seconds(plan) if plan.fits else None
    price = None
    if seconds is not None and candidate.slices in hourly:
        price = hourly[candidate.slices] * seconds / 3600
    return Trial(candidate, plan, seconds, price)


class _Queue:
    """Guesses in the order in which they are worth compiling, by what has been compiled so far.

    Args:
        guesses: of one choice of slices, the fastest first.
    """

    def __init__(self, guesses: Sequence[Guess]):
        self._left = list(guesses)
        self._best: float | None = None
        # By mesh: how many times the guess a compiled step takes.
        self._factors: dict[tuple[tuple[str, int], ...], float] = {}

    def next(self) -> Guess | None:
        """The most promising one; None if the rest is hopeless."""
        if not self._left:
            return None
        chosen = min(self._left, key=self._expected)
        if self._best is not None and self._expected(chosen) > HOPELESS * self._best:
            return None
        self._left.remove(chosen)
        return chosen

    def learn(self, guess: Guess, trial: Trial) -> None:
        """Drops what cannot be better than what was compiled, and corrects the guesses of its mesh."""
        one = guess.candidate
        if trial.seconds is None:
            self._left = [other for other in self._left if not _needs_more(other.candidate, one)]
            return
        self._best = min(trial.seconds, self._best or trial.seconds)
        self._factors[one.mesh] = trial.seconds / guess.seconds
        # More pieces of the same only send more.
        self._left = [
            other
            for other in self._left
            if not (_alike(other.candidate, one) and other.candidate.micro_batches > one.micro_batches)
        ]

    def _expected(self, guess: Guess) -> float:
        return guess.seconds * self._factors.get(guess.candidate.mesh, 1.0)


def _alike(one: Candidate, other: Candidate) -> bool:
    """Whether two differ in their micro-batches alone."""
    return one._replace(micro_batches=0) == other._replace(micro_batches=0)


def _needs_more(one: Candidate, too_large: Candidate) -> bool:
    """Whether a candidate cannot fit if another does not: larger pieces, or everything kept instead of something."""
    if one.micro_batches > too_large.micro_batches:
        return False
    return _alike(one, too_large) or (one.remat == "none" and _alike(one._replace(remat=too_large.remat), too_large))
