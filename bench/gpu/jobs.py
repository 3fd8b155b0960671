"""The whole job beside in-memory ``torch.pca_lowrank`` and, where it is installed, cuML: from files to top-k lists.

Our job begins at the zarr store, the peers at the same rows in a .npy file, all in the page cache. Before a time
counts, the directions' residuals ||C v - lambda v|| / lambda are measured in float64 on the card, by code that none of
the contestants shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.gpu.stores import Run, finish, reached
from bench.inputs import write_npy
from bench.judge import Answer
from bench.kernels.gpu import Line, timed_line
from bench.panels import warm

SHAPES, TINY_SHAPES = ((200_000, 4_096), (50_000, 30_720)), ((400, 64),)
K, TOP = 10, 10
LARGEST_RESIDUAL = 3e-3  # of sines of angles about 1e-3, the tolerance of our job
_WIDEST_COVARIANCE = 8_192  # cuML solves the eigenproblem of the whole covariance; wider ones take minutes


def jobs(run: Run) -> list[Line]:
    """Time every contestant from files to lists, with the residual of its answer."""
    lines: list[Line] = []
    for rows, columns in TINY_SHAPES if run.tiny else SHAPES:
        case = {"rows": rows, "columns": columns, "dtype": "float16", "components": K}
        if run.late():
            lines.append(run.book.append("job", case, {"skipped": "out of time"}))
            continue
        store = run.store(rows, columns)
        source = store.with_suffix(".npy")
        if not source.exists():
            write_npy(store, source)
        warm(store), warm(source)
        ours: Answer | None = None
        for who, solve in _contestants(store, source, columns, run.device).items():
            line, answer = _contest(run, {**case, "who": who}, solve, source, ours)
            ours = ours or answer
            lines.append(line)
        source.unlink()
    return lines


def _contestants(store: Path, source: Path, columns: int, device: torch.device) -> dict[str, Callable[[], Answer]]:
    found: dict[str, Callable[[], Answer]] = {
        "skillaxes": lambda: _ours(store, device),
        "pca_lowrank": lambda: _lowrank(source, device),
    }
    if find_spec("cuml") is not None and columns <= _WIDEST_COVARIANCE:
        found["cuML PCA"] = lambda: _cuml(source, device)
    return found


def _contest(
    run: Run, case: dict[str, Any], solve: Callable[[], Answer], source: Path, ours: Answer | None
) -> tuple[Line, Answer | None]:
    seconds, answer = [], None
    try:
        for number in range(1 if run.tiny else 4):  # the first one compiles and warms up
            finish(run.device)
            start = time.perf_counter()
            answer = solve()
            finish(run.device)
            if number or run.tiny:
                seconds.append(time.perf_counter() - start)
            if seconds and run.late():
                break
        assert answer is not None
        error = residual(source, answer.directions, run.device)
    except torch.OutOfMemoryError as problem:
        return run.book.append("job", case, {"skipped": str(problem).splitlines()[0]}), None
    if not error <= LARGEST_RESIDUAL:
        run.failures += 1
        return run.book.append("job", case, {"error": error, "failed": f"residual above {LARGEST_RESIDUAL}"}), answer
    more = {"error": error}
    if ours is not None:
        pairs = zip(_listed(answer), _listed(ours), strict=True)
        more["rows_shared"] = float(np.mean([len(set(a) & set(b)) / len(a) for a, b in pairs]))
    return timed_line(run, "job", case, seconds, source.stat().st_size, **more), answer


def _ours(store: Path, device: torch.device) -> Answer:
    import skillaxes

    with reached(device):
        found = skillaxes.discover(store, components=K, top=TOP, device=str(device))
    return Answer.from_discovery(found)


def _lowrank(source: Path, device: torch.device) -> Answer:
    matrix = _matrix(source, device)
    norms, mean = torch.linalg.vector_norm(matrix, dim=1), matrix.mean(dim=0)
    matrix -= mean
    torch.manual_seed(3)  # its random start decides the last digits: the same ones in every run
    v = torch.pca_lowrank(matrix, q=2 * K, center=False, niter=7)[2][:, :K]
    return Answer(v.T.cpu().numpy(), *_ends((matrix @ v + mean @ v) / norms[:, None]))


def _cuml(source: Path, device: torch.device) -> Answer:
    import cupy
    from cuml.decomposition import PCA

    matrix = _matrix(source, device)
    norms = torch.linalg.vector_norm(matrix, dim=1)
    fitted = PCA(n_components=K, output_type="cupy").fit(cupy.from_dlpack(matrix))
    v = torch.from_dlpack(cupy.ascontiguousarray(fitted.components_)).T
    return Answer(v.T.cpu().numpy(), *_ends(matrix @ v / norms[:, None]))


def _matrix(source: Path, device: torch.device) -> Tensor:
    return torch.from_numpy(np.load(source)).to(device).float()


def _ends(cosines: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows at the positive and at the negative end of each direction, (k, top)."""
    positive, negative = (torch.topk(cosines, TOP, dim=0, largest=largest).indices.T for largest in (True, False))
    return positive.cpu().numpy(), negative.cpu().numpy()


def _listed(answer: Answer) -> list[list[int]]:
    """The rows at both ends of each direction."""
    return np.concatenate([answer.positive, answer.negative], axis=1).tolist()


def residual(source: Path, directions: np.ndarray, device: torch.device) -> float:
    """The largest ||C v - lambda v|| / lambda of directions (k, d), in float64."""
    matrix = np.load(source, mmap_mode="r")
    v = torch.from_numpy(directions).to(device).double().T
    v /= torch.linalg.vector_norm(v, dim=0)
    step = max(1, (256 << 20) // (8 * matrix.shape[1]))

    def panels() -> Any:
        for start in range(0, len(matrix), step):
            yield torch.from_numpy(np.array(matrix[start : start + step])).to(device).double()

    mean = sum(panel.sum(dim=0) for panel in panels()) / len(matrix)
    product = torch.zeros_like(v)
    for panel in panels():
        centred = panel.sub_(mean)
        product += centred.T @ (centred @ v)
    product /= len(matrix) - 1
    values = (product * v).sum(dim=0)
    return float((torch.linalg.vector_norm(product - v * values, dim=0) / values).max())
