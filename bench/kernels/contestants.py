"""The contestants of the fused kernels, and the check that each must pass before its time counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from skillaxes_kernels import (
    PanelSpec,
    Prepared,
    Projection,
    accumulate,
    prepare,
    project,
    reference,
    round_directions,
    select_backend,
)

Result = tuple[Tensor, Tensor | None]
LIBRARY = "library product"  # plain, uncentred, of operands in the panel's dtype
# Relative to |y| |direction|, and to the largest entry of z. Half precision alone, with its 8 or 11 bits, would fail.
LARGEST_ERROR = 2e-5


@dataclass(frozen=True)
class Inputs:
    """A panel with a mean ten times its spread, rounded directions, and weights for the second product."""

    panel: Tensor
    directions: Tensor
    shift: Tensor
    weights: Tensor

    @property
    def panel_bytes(self) -> int:
        """Bytes of the panel."""
        return self.panel.numel() * self.panel.element_size()


def make_inputs(b: int, d: int, n: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Seeded inputs, made on the device itself: a panel of 4 GiB takes long over a wire."""
    generator = torch.Generator(device).manual_seed(0)
    shift = 10 * torch.randn(d, generator=generator, device=device)
    panel = torch.empty((b, d), dtype=dtype, device=device)
    for start in range(0, b, 4096):
        rows = panel[start : start + 4096]
        rows.copy_(torch.randn(rows.shape, generator=generator, device=device).add_(shift))
    directions = torch.randn((d, n), generator=generator, device=device) / d**0.5
    weights = torch.randn((b, n), generator=generator, device=device)
    return Inputs(panel, round_directions(directions, dtype, device), shift, weights)


def projectors(inputs: Inputs, compiled: bool) -> dict[str, Callable[[], Result]]:
    """The implementations of dots of centred rows and their squared norms, by name, without those that decline."""
    x, w, m = inputs.panel, inputs.directions, inputs.shift
    found: dict[str, Callable[[], Result]] = {}
    for name, backend in _backends(x).items():
        found[name] = _projector(x, prepare(PanelSpec.of(x), w, m, backend=backend))
    if compiled:
        whole = torch.compile(_centred_project, dynamic=False)
        found["torch.compile"] = lambda: whole(x, w, m)
    half = w.to(x.dtype)
    found[LIBRARY] = lambda: (_product(x, half), None)
    return found


def accumulators(inputs: Inputs, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """The implementations of ``y^T @ weights``, by name; ours add to z, so their first result is the one to check."""
    x, m, weights = inputs.panel, inputs.shift, inputs.weights
    z = torch.zeros((x.shape[1], weights.shape[1]), device=x.device)
    found: dict[str, Callable[[], Tensor]] = {}
    for name, backend in _backends(x).items():
        seen = project(x, prepare(PanelSpec.of(x), inputs.directions, m, backend=backend))
        found[name] = _accumulator(z, seen, weights)
    if compiled:
        whole = torch.compile(_centred_accumulate, dynamic=False)
        found["torch.compile"] = lambda: whole(x, weights, m)
    high = weights.to(x.dtype)
    pair = torch.cat((high, (weights - high.float()).to(x.dtype)), dim=1)
    found[LIBRARY] = lambda: _product(x.T, pair)
    return found


def error_of_projector(inputs: Inputs, name: str, result: Result, sample: int = 64) -> float:
    """The worst error of the first and last rows against the float64 definition, relative to ``|y| |direction|``."""
    rows = torch.cat((inputs.panel[:sample], inputs.panel[-sample:]))
    dots, norms = (None if t is None else torch.cat((t[:sample], t[-sample:])) for t in result)
    centred = name != LIBRARY
    true = reference.project(rows, inputs.directions, inputs.shift if centred else None)
    sizes = true.sq_norms.sqrt()[:, None] * inputs.directions.double().norm(dim=0)
    worst = float(((dots - true.dots) / sizes).abs().max())
    if norms is not None:
        worst = max(worst, float(((norms - true.sq_norms) / true.sq_norms).abs().max()))
    return worst


def error_of_accumulator(inputs: Inputs, name: str, z: Tensor, sample: int = 64) -> float:
    """The worst error of the first and last columns, relative to the size of the sums it is made of."""
    n = inputs.weights.shape[1]
    columns = torch.cat((inputs.panel[:, :sample], inputs.panel[:, -sample:]), dim=1).double()
    shift = torch.cat((inputs.shift[:sample], inputs.shift[-sample:])).double()
    if name == LIBRARY:
        z, shift = z[:, :n].float() + z[:, n:].float(), 0 * shift
    y = columns - shift
    seen = torch.cat((z[:sample], z[-sample:]))
    size = columns.norm(dim=0)[:, None] * inputs.weights.double().norm(dim=0)
    return float(((seen - y.T @ inputs.weights.double()) / size).abs().max())


def _backends(panel: Tensor) -> dict[str, str]:
    if panel.device.type == "cpu":
        return {"skillaxes on the CPU": "cpu"}
    fused = select_backend(PanelSpec.of(panel)).name == "triton"
    return {**({"fused kernel": "triton"} if fused else {}), "plain torch": "torch"}


def _projector(panel: Tensor, prepared: Prepared) -> Callable[[], Result]:
    def run() -> Result:
        seen = project(panel, prepared)
        return seen.dots, seen.sq_norms

    return run


def _accumulator(z: Tensor, seen: Projection, weights: Tensor) -> Callable[[], Tensor]:
    z = z.clone()

    def run() -> Tensor:
        accumulate(z, seen, weights)
        return z

    return run


def _centred_project(x: Tensor, w: Tensor, m: Tensor) -> Result:
    y = x.float() - m
    return y @ w, (y * y).sum(dim=1)


def _centred_accumulate(x: Tensor, weights: Tensor, m: Tensor) -> Tensor:
    return (x.float() - m).T @ weights


def _product(a: Tensor, b: Tensor) -> Tensor:
    # float32 results from half-precision operands exist in cuBLAS only; a CPU gets float32 operands.
    if a.dtype == torch.float32:
        return a @ b
    if a.device.type == "cpu":
        return a.float() @ b.float()
    return torch.mm(a, b, out_dtype=torch.float32)
