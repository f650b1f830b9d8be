"""How long a step takes at least, and what that says of the use of the chips."""

from typing import NamedTuple

from t5x_instruct.plan.collectives import seconds_together
from t5x_instruct.plan.compiled import Plan, Work
from t5x_instruct.plan.topologies import Slices

#: Share of the published peaks that large matrix products, long copies and rings reach in practice; the estimate of a
#: step's time rests on it, the bounds do not.
ACHIEVED = 0.8


class Estimate(NamedTuple):
    """Times of one step [s], each as if the others took none.

    Attributes:
        compute: matrix products at the chips' peak.
        hbm: what a device reads and writes, at its memory's full speed.
        ici: what is sent within a slice, at the wires' full speed.
        dcn: what is sent between slices.
    """

    compute: float
    hbm: float
    ici: float
    dcn: float

    @property
    def bound(self) -> str:
        """Which of them is the longest."""
        return max(self._fields, key=lambda name: getattr(self, name))

    @property
    def least_seconds(self) -> float:
        """No step can be faster: all four at once, at full speed."""
        return max(self)

    @property
    def step_seconds(self) -> float:
        """The estimate: all four at once, at the share of their speed that is reached."""
        return self.least_seconds / ACHIEVED


def estimate(work: Work, slices: Slices) -> Estimate:
    """The roofline of what is to be done.

    Args:
        work: of a step that fits, or of a part of one.
        slices: where.
    """
    chip, devices = slices.chip, slices.num_devices
    sent = {name: seconds_together(one for one in work.collectives if one.network == name) for name in ("ici", "dcn")}
    return Estimate(compute=work.flops / devices / chip.flops, hbm=work.hbm_traffic / chip.hbm_bandwidth, **sent)


def step_seconds(plan: Plan) -> float:
    """The estimate of a whole step [s]: its phases follow one another.

    Args:
        plan: of a step that fits.
    """
    if plan.phases:
        return sum(one.times * estimate(one.work, plan.slices).step_seconds for one in plan.phases.values())
    return estimate(plan.work, plan.slices).step_seconds


def mfu(plan: Plan, seconds: float) -> float:
    """Model FLOPs utilisation: the model's own operations over what the chips could have done in that time."""
    return plan.work.model_flops / (seconds * plan.slices.num_devices * plan.slices.chip.flops)
