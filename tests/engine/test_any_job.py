"""The law: whatever matrix and options, a job ends with right answers or with a refusal in one line, never otherwise.

Small random jobs: few rows or columns, zeros, NaN, constant columns, duplicates, outliers, short rows, every dtype,
solver, chunking and way of ranking. Judged by float64; what is unsure must have been called unsure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.matrices import Exact, angles, bounds, listed, power_law, rounded, said, write_store, wrong_lists

import skillaxes
from skillaxes.errors import SkillaxesError
from skillaxes.run_folder.schema import RANKINGS

JOBS = 25  # of each seed


def matrix(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    mean, seed = float(rng.choice([0, 0.1, 5, 100])), int(rng.integers(10**6))
    rows = power_law(n, d, exponent=rng.uniform(0, 1.5), mean=mean, seed=seed) * 10 ** rng.uniform(-3, 2)
    if rng.random() < 0.3:
        rows[rng.random(n) < 0.2] = 0
    if rng.random() < 0.3:
        rows[:, rng.random(d) < 0.3] = rng.choice([0, 1.5, -77])
    if rng.random() < 0.3:
        rows[rng.integers(0, n, n // 3)] = rows[0]
    if rng.random() < 0.2:
        rows[rng.integers(0, n, 2)] *= 1e-4
    if rng.random() < 0.2:
        rows[rng.integers(0, n, 2)] *= 20
    if rng.random() < 0.2:
        rows = np.round(rows)
    return np.clip(rows, -6e4, 6e4)


def job(rng: np.random.Generator) -> tuple[np.ndarray, str, dict[str, Any], dict[str, Any]]:
    n = int(rng.choice([2, 3, 4, 7, 16, 17, 31, 64, 65, 130, 600, 1537, 3000]))
    d = int(rng.choice([1, 2, 3, 5, 16, 17, 48, 49, 100, 260]))
    dtype = str(rng.choice(["float16", "bfloat16", "float32", "float64"]))
    rows = rounded(matrix(rng, n, d), dtype)
    options: dict[str, Any] = {
        "components": int(rng.integers(1, min(n, d, 12) + 1)),
        "top": min(int(rng.integers(1, n // 2 + 1)), 20),
        "solver": str(rng.choice(["krylov", "covariance", "incremental"])),
        "rank_by": str(rng.choice(RANKINGS)),
        "max_reads": int(rng.choice([2, 8])),
    }
    if rng.random() < 0.3:
        rows[rng.random(n) < 0.1, rng.integers(d)] = np.nan
        options["bad_rows"] = "skip"
    layout: dict[str, Any] = {"chunk_rows": max(int(rng.integers(1, n + 1)), n // 20)}
    if rng.random() < 0.2 and dtype != "bfloat16":
        layout["compressed"] = True
    return rows, dtype, options, layout


@pytest.mark.filterwarnings("error:.*invalid value.*:RuntimeWarning")
@pytest.mark.parametrize("seed", range(6))
def test_any_job(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng([seed, 2604])
    answered = 0
    for number in range(JOBS):
        rows, dtype, options, layout = job(rng)
        store = write_store(tmp_path / "store", rows, dtype, **layout)
        run_dir = tmp_path / f"run{number}"
        about = f"job {number}: {rows.shape} {dtype} {options} {layout}"
        try:
            found = skillaxes.discover(store, run_dir, **options)
        except SkillaxesError as error:
            assert error.exit_code == 2 and "\n" not in str(error), about
            assert not run_dir.exists(), about
            continue
        answered += 1
        judge(found, rows, options, about)
    assert answered >= JOBS // 2, "hardly a job was answered: nothing is tested"


def judge(found: skillaxes.Discovery, rows: np.ndarray, options: dict[str, Any], about: str) -> None:
    components, k = found.directions.components.astype(np.float64), options["components"]
    assert np.isfinite(components).all(), about
    np.testing.assert_allclose(components @ components.T, np.eye(k), atol=1e-4, err_msg=about)
    exact = Exact(rows, np.isfinite(rows).all(axis=1))
    remark = said(found, "no_variance")
    empty = [] if remark is None else remark["values"]["directions"]
    meant = [i for i in range(min(k, len(exact.components))) if i not in empty]
    if not meant:
        return
    true = angles(components[meant], exact.components[meant])
    assert (bounds(found)[meant] >= 0.7 * true - 1e-6).all(), f"{about}: {bounds(found)[meant]} does not hold {true}"
    turned = (components[meant] * exact.components[meant]).sum(axis=1) < 0
    unsure = {i for i, turn in zip(meant, turned, strict=True) if turn}
    if rows.shape[1] > 1:  # with one column all cosines are 1 or -1, and which rows tie is up to rounding
        wrong = wrong_lists(found, exact, rank_by=options["rank_by"], k=k, top=options["top"], certified_only=True)
        assert not [end for end in wrong if end[0] in meant and end[0] not in unsure], f"{about}: {wrong}"
    table = found.topk.to_pydict()
    listed_rows = rows[table["row"]]
    cosines = (listed_rows * components[table["direction"]]).sum(axis=1) / np.linalg.norm(listed_rows, axis=1)
    np.testing.assert_allclose(table["cosine"], cosines, atol=2e-5, err_msg=about)
    tied = said(found, "ties")
    for direction in range(k):
        both = set(listed(found.topk, direction, "positive")) & set(listed(found.topk, direction, "negative"))
        assert not both or (tied is not None and direction in tied["values"]["directions"]), about
