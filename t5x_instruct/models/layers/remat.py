"""What the backward pass computes again of a layer: policies by name, over values that the layers name.

A policy trades memory for work. From the most memory and the least work to the opposite:

==========  =============================================================================================
none        Everything a derivative needs is kept.
minimal     Projections and what attention gives are kept: norms, rotations, activations are computed again.
save_dots   Projections are kept, attention is computed again too.
full        Only the layer's input is kept.
offloaded   What "minimal" keeps and the layer's input, in the host's memory (pinned), fetched layer by layer.
==========  =============================================================================================

Each gives the same gradient. Offloading costs the way over PCIe both ways; where the devices are CPUs their memory is
the host's, and XLA leaves the values where they are: the policy is then "minimal".
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name

Named = Literal["layer_input", "projection", "attention"]

_POLICIES = jax.checkpoint_policies

#: What the backward pass may keep of a layer, by name; "none" keeps everything and is no policy.
REMAT_POLICIES: Mapping[str, Callable[..., Any] | None] = {
    "none": None,
    "minimal": _POLICIES.save_only_these_names("projection", "attention"),
    "save_dots": _POLICIES.save_only_these_names("projection"),
    "full": _POLICIES.nothing_saveable,
    "offloaded": _POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=list(get_args(Named)),
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def named(x: jax.Array, name: Named) -> jax.Array:
    """Gives a value the name by which policies know it; changes nothing else.

    Args:
        x: the value.
        name: "layer_input": what a layer is given; "projection": what `Linear` gives; "attention": what attention
            gives before its last projection.
    """
    value: jax.Array = checkpoint_name(x, name)
    return value
