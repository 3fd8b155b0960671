"""Diagnostics of a result, one sentence each: mean direction, layer scale, norm, stability, rows left out and more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillaxes.pca.base import PCAResult, Solution
from skillaxes.pca.stability import Stability, subspaces
from skillaxes.ranking.topk import Ranking
from skillaxes.run.job import Job
from skillaxes.run_folder.schema import NORM_CORRELATED, REPRODUCIBLE, SIDES, Diagnostic

_ONE_SIGN = 0.99  # share of rows whose raw cosines have one sign
_NO_VARIANCE = 1e-14  # of the largest eigenvalue: a zero eigenvalue is no larger than this after float32 products
_ULP = {"bfloat16": 2**-7, "float16": 2**-10, "float32": 2**-23, "float64": 2**-23}  # float64 is read as float32


def diagnostics(job: Job, solution: Solution, ranking: Ranking) -> list[Diagnostic]:
    """The diagnostics of a result, in the order in which they are printed."""
    result, stability, bad = solution.result, solution.stability, solution.bad_rows
    top, tolerance = job.config.ranking.top, job.config.solver.tolerance
    found = []
    if bool((ranking.centered.positive.rows >= 0).any()):
        found.append(_mean_direction(result, ranking, top))
    if job.layers:
        found.append(_layer_scale(result, job.layer_ids))
    found.append(_norm(ranking))
    if not bool(stability.cosines.isnan().any()):
        found.append(_stability(result, stability))
    if ranking.n_zero:
        text = f"{ranking.n_zero:,} rows of zeros have no cosine and are in no list"
        found.append(_diagnostic("zero_rows", text, count=ranking.n_zero))
    if len(bad):
        named = ", ".join(f"{row:,}" for row in bad[:8]) + (" ..." if len(bad) > 8 else "")
        text = f"{len(bad):,} rows with NaN or infinity were left out: {named}"
        found.append(_diagnostic("bad_rows", text, rows=bad.tolist()))
    empty = _without_variance(result, job.store.dtype)
    if empty:
        text = (
            f"the rows vary along directions {_joined(empty)} by no more than the rounding of their numbers: these "
            f"directions are arbitrary and mean nothing; type --components {max(empty[0], 1)}"
        )
        found.append(_diagnostic("no_variance", text, directions=empty))
    tied = _at_both_ends(ranking, top)
    if tied:
        text = (
            f"so many rows have one and the same score that some are listed at both ends of directions "
            f"{_joined(tied)}: type a smaller --top"
        )
        found.append(_diagnostic("ties", text, directions=tied))
    if not result.converged:
        largest = int(result.residuals.argmax())
        text = (
            f"direction {largest} has a residual of {float(result.residuals[largest]):.1e}, above the tolerance of "
            f"{tolerance:.0e}: {job.solver.remedy}"
        )
        found.append(_diagnostic("not_converged", text, residuals=result.residuals.tolist()))
    elif solution.searched and float(result.residuals.max()) > tolerance:
        rough = [i for i, value in enumerate(result.residuals.tolist()) if value > tolerance]
        text = (
            f"directions {_joined(rough)} have residuals of up to {float(result.residuals.max()):.1e}, above the "
            f"tolerance of {tolerance:.0e}: beside so large a leading variance float32 resolves them no better"
        )
        found.append(_diagnostic("precision", text, residuals=result.residuals.tolist(), directions=rough))
    return found


def shared_top(ranking: Ranking, top: int) -> list[float]:
    """Number of rows that are in both the raw and the centred top list of each direction, averaged over both sides."""
    shared = []
    for direction in range(len(ranking.raw.positive.rows)):
        count = 0
        for side in SIDES:
            raw, centered = (
                getattr(lists, side).rows[direction, :top].tolist() for lists in (ranking.raw, ranking.centered)
            )
            count += len(set(raw) & set(centered) - {-1})
        shared.append(count / 2)
    return shared


def layer_energy(components: Tensor, layers: Sequence[slice]) -> list[list[float]]:
    """Share of the squared entries of each direction in each layer, k lists of n_layers."""
    return [[float(row[part].square().sum()) for part in layers] for row in components]


def _mean_direction(result: PCAResult, ranking: Ranking, top: int) -> Diagnostic:
    share = ranking.positive_share
    one_sign = [i for i, value in enumerate(share) if max(value, 1 - value) >= _ONE_SIGN]
    shared = shared_top(ranking, top)
    text = f"raw and centred cosine share {np.mean(shared):.1f} of the top {top} rows on average"
    if one_sign:
        text += f"; the mean is so large that directions {_joined(one_sign)} have raw cosines of one sign only"
    spread = float(np.sqrt(max(result.total_variance, 0)))
    return _diagnostic(
        "mean_direction",
        text,
        shared=shared,
        one_sign=one_sign,
        positive_share=share.tolist(),
        mean_norm=float(torch.linalg.vector_norm(result.mean)),
        spread=spread,
    )


def _layer_scale(result: PCAResult, layer_ids: Sequence[int | str]) -> Diagnostic:
    shares = (result.layer_variance / result.layer_variance.sum().clamp(min=1e-300)).tolist()
    first = int(np.argmax(shares))
    even = 1 / len(shares)
    text = f"layer {layer_ids[first]} holds {shares[first]:.0%} of the variance (an even share is {even:.0%})"
    return _diagnostic("layer_scale", text, layers=list(layer_ids), variance_share=shares)


def _norm(ranking: Ranking) -> Diagnostic:
    correlations = ranking.norm_correlation
    strong = [i for i, value in enumerate(correlations) if abs(value) >= NORM_CORRELATED]
    if strong:
        text = f"the raw cosines of directions {_joined(strong)} correlate with the row norm (" + ", ".join(
            f"{correlations[i]:+.2f}" for i in strong
        )
        text += ")"
    else:
        text = f"no direction's raw cosines correlate with the row norm by {NORM_CORRELATED} or more"
    return _diagnostic("norm", text, correlations=correlations.tolist())


def _stability(result: PCAResult, stability: Stability) -> Diagnostic:
    cosines = stability.cosines
    weak = [i for i, value in enumerate(cosines.tolist()) if value < REPRODUCIBLE]
    groups = [group for group in subspaces(result.explained_variance, stability.standard_errors) if len(group) > 1]
    if weak:
        text = f"directions {_joined(weak)} are sample-dependent: |cos| between random halves is below {REPRODUCIBLE}"
    else:
        text = f"every direction is reproducible: |cos| between random halves is at least {float(cosines.min()):.2f}"
    if groups:
        text += "; eigenvalues too close to tell apart: " + ", ".join(f"{g[0]}-{g[-1]}" for g in groups)
        text += " - read each such group as one subspace"
    return _diagnostic("stability", text, split_half=cosines.tolist(), sample_dependent=weak, subspaces=groups)


def _without_variance(result: PCAResult, dtype: str) -> list[int]:
    """Directions whose eigenvalue may be the rounding of the rows or of the products alone.

    Rounding to ``dtype`` adds noise of variance (ulp x)² / 12 to an entry x. The eigenvalues of n rows of noise are at
    most (1 + sqrt(d / n))² times that (Marchenko & Pastur 1967). The products are in float32.
    """
    d = result.mean.numel()
    spread = (1 + math.sqrt(d / max(result.n_samples, 1))) ** 2
    rounding = _ULP[dtype] ** 2 / 12 * float(result.mean.square().max()) * spread
    limit = max(rounding, _NO_VARIANCE * float(result.explained_variance[0]))
    return [i for i, value in enumerate(result.explained_variance.tolist()) if value <= limit]


def _at_both_ends(ranking: Ranking, top: int) -> list[int]:
    """Directions with a row in the lists of both sides: of equal scores the lower row comes first on either side."""
    lists, k = ranking.lists, len(ranking.raw.positive.rows)
    ends = [(lists.positive.rows[i, :top].tolist(), lists.negative.rows[i, :top].tolist()) for i in range(k)]
    return [i for i, (positive, negative) in enumerate(ends) if (set(positive) & set(negative)) - {-1}]


def _diagnostic(kind: str, text: str, **values: Any) -> Diagnostic:
    return {"kind": kind, "text": text, "values": values}


def _joined(indices: Sequence[int]) -> str:
    """``"0, 2, 5"``."""
    return ", ".join(map(str, indices))
