"""Law: the judge sees what is wrong and nothing else: signs and lengths do not matter, directions and rows do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from bench.judge import Answer, judge
from bench.reference import Reference


def reference() -> Reference:
    return Reference(
        directions=np.eye(2, 6),
        eigenvalues=np.array([2.0, 1.0]),
        next_eigenvalue=0.5,
        total_variance=4.0,
        positive=np.array([[0, 1, 2], [3, 4, 5]]),
        negative=np.array([[9, 8, 7], [6, 5, 4]]),
        residuals=np.zeros(2),
        method="dense",
    )


def test_the_exact_answer_in_other_signs_lengths_and_order_is_exact() -> None:
    exact = reference()
    answer = Answer(
        directions=exact.directions * np.array([[-3.0], [0.5]]),
        positive=np.array([[7, 8, 9], [5, 4, 3]]),
        negative=np.array([[2, 0, 1], [4, 5, 6]]),
    )
    verdict = judge(exact, answer)
    assert verdict["error"] == 0
    assert (verdict["overlap"], verdict["exact_lists"], verdict["lists"]) == (1.0, 4, 4)


def test_a_small_angle_is_measured_below_the_rounding_of_one() -> None:
    exact = reference()
    angle = 1e-10
    turned = exact.directions.copy()
    turned[0] = [np.cos(angle), 0, np.sin(angle), 0, 0, 0]
    verdict = judge(exact, Answer(turned, exact.positive, exact.negative))
    assert verdict["error"] == pytest.approx(angle**2 / 2, rel=1e-6)
    assert verdict["errors"][1] == 0


def test_a_wrong_row_costs_its_list() -> None:
    exact = reference()
    positive = exact.positive.copy()
    positive[1, 0] = 42
    verdict = judge(exact, Answer(exact.directions, positive, exact.negative))
    assert verdict["exact_lists"] == 3
    assert verdict["overlap"] == pytest.approx(1 - 1 / 12)


def test_another_number_of_directions_is_refused() -> None:
    exact = reference()
    with pytest.raises(ValueError, match="the exact ones are"):
        judge(exact, Answer(exact.directions[:1], exact.positive, exact.negative))


def test_answers_survive_a_file(tmp_path: Path) -> None:
    exact = reference()
    Answer(exact.directions, exact.positive, exact.negative).save(tmp_path / "a.npz")
    loaded = Answer.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.positive, exact.positive)


def test_the_answer_of_a_run_folder_in_its_old_format_too(run_folder: Path) -> None:
    found = Answer.from_run_folder(run_folder)
    table = pq.read_table(run_folder / "topk.parquet")
    for side in ("positive", "negative"):
        listed = table.filter((pc.field("side") == side) & (pc.field("direction") == 2)).sort_by("position")
        assert getattr(found, side)[2].tolist() == listed["row"].to_pylist()
    manifest = json.loads((run_folder / "manifest.json").read_text())
    (run_folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": 1}))
    names = ["settled" if name == "certified" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), run_folder / "topk.parquet")
    old = Answer.from_run_folder(run_folder)
    np.testing.assert_array_equal(old.directions, found.directions)
    np.testing.assert_array_equal(old.positive, found.positive)
    np.testing.assert_array_equal(old.negative, found.negative)
