"""Which processes join a run of several hosts, and what they say of themselves when they do."""

import jax
import pytest

from t5x_instruct.common import hosts
from t5x_instruct.common.errors import ConfigError

VARIABLES = ("T5X_INSTRUCT_COORDINATOR", "T5X_INSTRUCT_NUM_HOSTS", "T5X_INSTRUCT_HOST", "JAX_PLATFORMS")
VARIABLES += ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


@pytest.fixture
def asked(monkeypatch):
    """What JAX is asked to join, in place of joining."""
    calls = []
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **named: calls.append((args, named)))
    before = jax.config.jax_enable_preemption_service
    yield calls
    jax.config.update("jax_enable_preemption_service", before)


def enter(timeout=30.0):
    with hosts.joined(hosts.HostSettings(timeout)):
        pass


def test_a_machine_by_itself_joins_nothing(asked):
    enter()
    assert asked == []


def test_the_variables_say_which_host_of_how_many(asked, monkeypatch):
    for name, value in zip(VARIABLES, ("10.0.0.1:8476", "4", "2"), strict=False):
        monkeypatch.setenv(name, value)
    enter()
    # JAX's own timeout is the longer one: its message names nobody.
    assert asked == [(("10.0.0.1:8476", 4, 2), {"heartbeat_timeout_seconds": 120})]


def test_a_slice_of_several_hosts_is_joined_as_jax_finds_it(asked, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "vm-0,vm-1")
    enter()
    assert asked == [((), {"heartbeat_timeout_seconds": 120})]


def test_a_slice_that_cannot_be_joined_is_not_trained_on_by_each_host_alone(asked, monkeypatch):
    def fail(**named):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "vm-0,vm-1")
    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ConfigError, match="coordinator_address should be defined"):
        enter()


def test_variables_that_are_no_numbers_are_refused_together(asked, monkeypatch):
    monkeypatch.setenv("T5X_INSTRUCT_COORDINATOR", "10.0.0.1:8476")
    monkeypatch.setenv("T5X_INSTRUCT_HOST", "first")
    with pytest.raises(ConfigError) as refused:
        enter()
    assert len(refused.value.problems) == 2
    assert "T5X_INSTRUCT_HOST='first'" in str(refused.value)
    with pytest.raises(ConfigError, match="HEARTBEAT_TIMEOUT = 0"):
        hosts.HostSettings(0)
