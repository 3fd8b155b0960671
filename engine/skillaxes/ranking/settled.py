"""Which members of a top-k list can no longer change, given how far the directions can still turn."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-6  # of a cosine, by the float32 products behind it: 4e-8 on real activations, more where the mean is far


def settled_members(scores: Tensor, next_score: float, angle: float) -> Tensor:
    """Which members stay in the list whatever the exact direction is, of shape (n,), bool. Membership, not order.

    Parameters
    ----------
    scores : Tensor of shape (n,), cosines of the members on this side, best first, larger is better
    next_score : cosine of the best row that is not in the list; -inf when there is none
    angle : bound on the angle to the exact direction, radians

    A unit vector v' at an angle of at most a from v has ``|x·v' - x·v| <= |x| (sin(a) sqrt(1 - c²) + (1 - cos(a))
    |c|)`` where c is the cosine of x and v.
    """
    bound = torch.tensor(angle, dtype=torch.float64)
    everything = torch.cat([scores.double(), torch.tensor([next_score], dtype=torch.float64)])
    cosines = everything.clamp(-1, 1)
    error = bound.sin() * (1 - cosines.square()).sqrt() + (1 - bound.cos()) * cosines.abs() + ROUNDING
    lowest = everything[:-1] - error[:-1]
    highest = everything[-1] + error[-1]
    return lowest > highest
