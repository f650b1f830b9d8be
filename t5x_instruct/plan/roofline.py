"""How long a step takes at least, and what that says of the use of the chips."""

from typing import NamedTuple

from t5x_instruct.plan.compiled import Plan

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


def estimate(plan: Plan) -> Estimate:
    """The roofline of a plan's step.

    Args:
        plan: of a step that fits.
    """
    chip, devices = plan.slices.chip, plan.slices.num_devices
    sent = {name: sum(one.seconds for one in plan.collectives if one.network == name) for name in ("ici", "dcn")}
    return Estimate(compute=plan.step_flops / devices / chip.flops, hbm=plan.hbm_traffic / chip.hbm_bandwidth, **sent)


def mfu(plan: Plan, step_seconds: float) -> float:
    """Model FLOPs utilisation: the model's own operations over what the chips could have done in that time."""
    return plan.model_flops / (step_seconds * plan.slices.num_devices * plan.slices.chip.flops)
