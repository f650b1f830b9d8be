import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_instruct.common.errors import ConfigError
from t5x_instruct.training import schedules
from t5x_instruct.training.optimizers import adamw, decay_mask, lion, sgd


@given(st.integers(0, 20), st.integers(1, 50), st.sampled_from(["constant", "linear", "cosine"]))
def test_warmup_starts_above_zero_and_peaks_when_it_says(warmup, extra, name):
    arguments = {} if name == "constant" else {"total_steps": warmup + extra, "end_factor": 0.1}
    schedule = getattr(schedules, name)(0.5, warmup_steps=warmup, **arguments)
    rates = np.array([float(schedule(step)) for step in range(warmup + extra + 1)])
    assert rates[0] > 0
    np.testing.assert_allclose(rates[:warmup], 0.5 * np.arange(1, warmup + 1) / max(warmup, 1), rtol=1e-5)
    assert rates[warmup] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.5 if name == "constant" else 0.05)
    assert (np.diff(rates[warmup:]) <= 1e-7).all()


def test_cosine_is_half_a_cosine():
    schedule = schedules.cosine(2.0, total_steps=8)
    expected = [1 + np.cos(np.pi * step / 8) for step in range(9)]
    np.testing.assert_allclose([float(schedule(step)) for step in range(9)], expected, atol=1e-6)


def test_wsd_stays_then_falls():
    schedule = schedules.wsd(2.0, total_steps=20, warmup_steps=4, decay_fraction=0.25, end_factor=0.5)
    rates = [float(schedule(step)) for step in range(22)]
    expected = [0.5, 1.0, 1.5, 2.0] + [2.0] * 11 + [2.0 - 0.2 * step for step in range(6)] + [1.0]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_a_longer_wsd_run_is_the_same_until_the_shorter_one_decays():
    short, long = (schedules.wsd(0.1, total_steps=total, warmup_steps=3) for total in (20, 60))
    assert [float(short(step)) for step in range(19)] == [float(long(step)) for step in range(19)]
    assert float(short(19)) < float(long(19))


def test_wsd_has_to_fit():
    with pytest.raises(ConfigError, match="WARMUP_STEPS 6 and a decay of 5 steps .* exceed TRAIN_STEPS 10"):
        schedules.wsd(0.1, total_steps=10, warmup_steps=6, decay_fraction=0.5)
    with pytest.raises(ConfigError, match="decay_fraction = 0"):
        schedules.wsd(0.1, total_steps=10, decay_fraction=0)


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_inverse_square_root_falls_from_its_peak(warmup):
    schedule = schedules.inverse_sqrt(0.3, warmup_steps=warmup)
    rates = np.array([float(schedule(step)) for step in range(30)])
    np.testing.assert_allclose(rates[:warmup], 0.3 * np.arange(1, warmup + 1) / max(warmup, 1), rtol=1e-6)
    steps = np.arange(max(warmup, 1), 30)
    np.testing.assert_allclose(rates[warmup:][: len(steps)], 0.3 * np.sqrt(max(warmup, 1) / steps), rtol=1e-6)


def test_warmup_longer_than_the_run_is_refused():
    for make in (schedules.linear, schedules.cosine, schedules.wsd):
        with pytest.raises(ConfigError, match="TRAIN_STEPS 5 must exceed WARMUP_STEPS 5"):
            make(0.1, total_steps=5, warmup_steps=5)
    with pytest.raises(ConfigError, match="negative"):
        schedules.constant(0.1, warmup_steps=-1)


def test_adamw_is_the_published_update():
    """Algorithm 2 of arXiv:1711.05101 with the schedule multiplier folded into the rate, three steps by hand."""
    rng = np.random.default_rng(0)
    kernel, scale = rng.normal(size=(3, 2)), rng.normal(size=2)
    params = {"mlp": {"kernel": jnp.asarray(kernel, jnp.float32)}, "norm": {"scale": jnp.asarray(scale, jnp.float32)}}
    b1, b2, eps, decay, rate = 0.8, 0.9, 1e-3, 0.3, 0.05
    optimizer = adamw(schedules.constant(rate), b1=b1, b2=b2, eps=eps, weight_decay=decay)
    state = optimizer.transform.init(params)
    moments = {"kernel": (0.0, 0.0), "scale": (0.0, 0.0)}
    expected = {"kernel": kernel, "scale": scale}
    for step in range(1, 4):
        gradients = {"kernel": rng.normal(size=(3, 2)), "scale": rng.normal(size=2)}
        tree = {"mlp": {"kernel": gradients["kernel"]}, "norm": {"scale": gradients["scale"]}}
        direction, state = optimizer.transform.update(tree, state, params)
        params = {k: {n: p - rate * direction[k][n] for n, p in sub.items()} for k, sub in params.items()}
        for name, g in gradients.items():
            m, v = moments[name]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            moments[name] = m, v
            update = (m / (1 - b1**step)) / (np.sqrt(v / (1 - b2**step)) + eps)
            decayed = decay * expected[name] if name == "kernel" else 0.0  # no decay on norm scales
            expected[name] = expected[name] - rate * (update + decayed)
    np.testing.assert_allclose(params["mlp"]["kernel"], expected["kernel"], rtol=1e-5)
    np.testing.assert_allclose(params["norm"]["scale"], expected["scale"], rtol=1e-5)


def followed(optimizer, gradients):
    """A kernel and a norm scale after some steps at the optimizer's rate."""
    params = {"kernel": jnp.array([2.0, -1.0]), "scale": jnp.array([1.0, 3.0])}
    state = optimizer.transform.init(params)
    for step, gradient in enumerate(gradients):
        direction, state = optimizer.transform.update({"kernel": gradient, "scale": gradient}, state, params)
        params = {name: p - optimizer.learning_rate(step) * direction[name] for name, p in params.items()}
    return params


def test_lion_is_the_published_update():
    gradients = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    got = followed(lion(schedules.constant(0.1), b1=0.6, b2=0.8, weight_decay=0.5), gradients)
    momentum, kernel, scale = np.zeros(2), np.array([2.0, -1.0]), np.array([1.0, 3.0])
    for g in gradients:
        sign = np.sign(0.6 * momentum + 0.4 * g)
        momentum = 0.8 * momentum + 0.2 * g
        kernel, scale = kernel - 0.1 * (sign + 0.5 * kernel), scale - 0.1 * sign
    np.testing.assert_allclose(got["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(got["scale"], scale, rtol=1e-5)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.7, False), (0.7, True)])
def test_sgd_with_momentum(momentum, nesterov):
    gradients = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    optimizer = sgd(schedules.constant(0.1), momentum=momentum, nesterov=nesterov, weight_decay=0.5)
    got = followed(optimizer, gradients)
    total, kernel, scale = np.zeros(2), np.array([2.0, -1.0]), np.array([1.0, 3.0])
    for g in gradients:
        total = momentum * total + g
        direction = g + momentum * total if nesterov else total
        kernel, scale = kernel - 0.1 * (direction + 0.5 * kernel), scale - 0.1 * direction
    np.testing.assert_allclose(got["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(got["scale"], scale, rtol=1e-5)


def test_decay_spares_norms_and_biases():
    params = {"a": {"kernel": 0, "bias": 0}, "layer_norm": {"scale": 0}, "embedder": {"embedding": 0}}
    assert decay_mask(params) == {
        "a": {"kernel": True, "bias": False},
        "layer_norm": {"scale": False},
        "embedder": {"embedding": True},
    }


def test_adamw_reports_every_bad_value():
    with pytest.raises(ConfigError) as error:
        adamw(schedules.constant(0.1), b1=1.0, b2=-0.1, weight_decay=-1, clip_norm=0)
    assert len(error.value.problems) == 4
