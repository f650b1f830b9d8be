"""Learning-rate schedules. Steps count from the start of this run, so a warm-up always warms up."""

import jax
import jax.numpy as jnp
import optax

from t5x_instruct.common.errors import ConfigError


def _warmed_up(peak: float, warmup_steps: int, rest: optax.Schedule) -> optax.Schedule:
    """Rises over `warmup_steps` steps so that step `warmup_steps - 1` is the first at `peak`; no step has rate 0."""
    if warmup_steps < 0:
        raise ConfigError(f"WARMUP_STEPS {warmup_steps} is negative")
    if warmup_steps == 0:
        return rest
    rise = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([rise, rest], [warmup_steps])


def _decay_steps(name: str, total_steps: int, warmup_steps: int) -> int:
    if total_steps <= warmup_steps:
        raise ConfigError(f"{name}: TRAIN_STEPS {total_steps} must exceed WARMUP_STEPS {warmup_steps}")
    return total_steps - warmup_steps


def constant(learning_rate: float, warmup_steps: int = 0) -> optax.Schedule:
    """The same rate at every step after the warm-up (Flan-T5's choice).

    Args:
        learning_rate: the rate.
        warmup_steps: steps of linear rise.
    """
    return _warmed_up(learning_rate, warmup_steps, optax.constant_schedule(learning_rate))


def linear(learning_rate: float, total_steps: int, warmup_steps: int = 0, end_factor: float = 0.0) -> optax.Schedule:
    """Falls linearly to `end_factor` of the peak at step `total_steps`.

    Args:
        learning_rate: the peak.
        total_steps: length of the run in steps, warm-up included.
        warmup_steps: steps of linear rise.
        end_factor: what is left of the peak at the end.

    Raises:
        ConfigError: the warm-up is not shorter than the run.
    """
    steps = _decay_steps("linear", total_steps, warmup_steps)
    fall = optax.linear_schedule(learning_rate, learning_rate * end_factor, steps)
    return _warmed_up(learning_rate, warmup_steps, fall)


def cosine(learning_rate: float, total_steps: int, warmup_steps: int = 0, end_factor: float = 0.0) -> optax.Schedule:
    """Falls along half a cosine to `end_factor` of the peak at step `total_steps` (arXiv:1608.03983).

    Args:
        learning_rate: the peak.
        total_steps: length of the run in steps, warm-up included.
        warmup_steps: steps of linear rise.
        end_factor: what is left of the peak at the end.

    Raises:
        ConfigError: the warm-up is not shorter than the run.
    """
    steps = _decay_steps("cosine", total_steps, warmup_steps)
    return _warmed_up(learning_rate, warmup_steps, optax.cosine_decay_schedule(learning_rate, steps, end_factor))


def wsd(
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    decay_fraction: float = 0.1,
    end_factor: float = 0.0,
) -> optax.Schedule:
    """Warm-up, stable, decay: stays at the peak, then falls linearly to `end_factor` of it at step `total_steps`.

    A stable stretch can be gone on from: a longer run of the same seed is the same run up to the shorter one's decay.

    Args:
        learning_rate: the peak.
        total_steps: length of the run in steps, warm-up included.
        warmup_steps: steps of linear rise.
        decay_fraction: share of `total_steps` that the fall takes.
        end_factor: what is left of the peak at the end.

    Raises:
        ConfigError: the fraction is not in (0, 1], or warm-up and decay do not fit into the run.

    Source: Hu et al. 2024 (arXiv:2404.06395); Hägele et al. 2024 (arXiv:2405.18392) for the linear decay.
    """
    if not 0 < decay_fraction <= 1:
        raise ConfigError(f"wsd.decay_fraction = {decay_fraction}: must be above 0 and at most 1")
    decay_steps = max(round(decay_fraction * total_steps), 1)
    stable_steps = _decay_steps("wsd", total_steps, warmup_steps) - decay_steps
    if stable_steps < 0:
        raise ConfigError(
            f"wsd: WARMUP_STEPS {warmup_steps} and a decay of {decay_steps} steps (decay_fraction {decay_fraction}) "
            f"exceed TRAIN_STEPS {total_steps}"
        )
    fall = optax.linear_schedule(learning_rate, learning_rate * end_factor, decay_steps, stable_steps)
    return _warmed_up(learning_rate, warmup_steps, fall)


def inverse_sqrt(learning_rate: float, warmup_steps: int = 0) -> optax.Schedule:
    """Falls as ``sqrt(warmup_steps / step)`` after the warm-up, without knowing the run's length.

    Args:
        learning_rate: the peak, at step `warmup_steps`.
        warmup_steps: steps of linear rise, and the time scale of the fall; 0 falls as ``1 / sqrt(1 + step)``.

    Source: Raffel et al. 2020, section 3.1.2 (T5), there with 10,000 steps and without the rise.
    """
    scale = max(warmup_steps, 1)

    def fall(step: jax.typing.ArrayLike) -> jax.Array:
        return learning_rate * jnp.sqrt(scale / (scale + jnp.asarray(step, jnp.float32)))

    return _warmed_up(learning_rate, warmup_steps, fall)
