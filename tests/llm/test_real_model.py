"""A real language model on this machine labels and scores two directions of the sample, end to end over HTTP. It is
small and not clever: what must hold is that its replies become labels, judgements, counts and costs."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skillaxes
from skillaxes.labeling import estimate, label

pytestmark = pytest.mark.llm
SAMPLE = Path(__file__).resolve().parents[2] / "bench" / "sample"
OPTIONS: dict[str, Any] = {
    "labeler": "openai", "model": "smollm2-135m", "top": 3, "trace_tokens": 64, "pairs": 10, "detections": 6,
    "baselines": 0, "concurrency": 2, "context_tokens": 8192, "temperature": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("model_server", Path(__file__).with_name("model_server.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_server"] = module
    spec.loader.exec_module(module)
    running = module.ModelServer(module.Model())
    yield running
    running.close()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm") / "run"
    skillaxes.discover(SAMPLE / "activations.zarr", folder, components=2, pool=60)
    return folder


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prices") / "prices.json"
    path.write_text(json.dumps({"models": {"smollm2-135m": {"input": 1.0, "cached_input": 0.1, "output": 4.0}}}))
    return path


def test_two_directions_end_to_end(server: Any, run_dir: Path, prices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    options = {**OPTIONS, "base_url": server.url, "prices": prices}
    planned = estimate(run_dir, SAMPLE / "traces.jsonl", **options)
    summary = label(run_dir, SAMPLE / "traces.jsonl", **options)
    assert summary.exit_code == 0 and summary.n_failed == 0
    scored = 0
    for record in summary.records:
        assert record["kind"] == "name" and record["rung"] == "json_schema"
        if record["status"] == "labelled":
            assert [len(record["keywords"][side]) for side in ("positive", "negative")] == [3, 3]
            assert record["scores"]["pairs"]["unanswered"] == 0
            assert 0 <= record["scores"]["pairs"]["low"] <= record["scores"]["pairs"]["high"] <= 1
            assert record["scores"]["detection"]["traces"] == 6
            scored += 1
        assert record["usage"]["output_tokens"] > 0 and record["cost"] > 0
    assert scored, "the model called both directions uninterpretable"
    assert len(server.requests) <= planned.requests
    assert 0 < summary.usage.input_tokens <= planned.input_tokens  # the estimate is on the safe side
    assert summary.usage.cached_input_tokens > summary.usage.input_tokens / 3  # the shared prefix is found again
    n_requests = len(server.requests)
    again = label(run_dir, SAMPLE / "traces.jsonl", **options)
    assert len(server.requests) == n_requests and again.spent == 0.0
    assert [record["title"] for record in again.records] == [record["title"] for record in summary.records]


def test_plain_text_becomes_labels_or_failures(server: Any, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a guided form the model mostly talks; what it says is a label or a typed failure, nothing else."""
    from skillaxes.labeling.llm import structured

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(structured, "RESPONSE_FORMATS", ("json_object", "text"))
    options = {**OPTIONS, "base_url": server.url, "pairs": 0, "detections": 0, "max_output_tokens": 160}
    summary = label(run_dir, SAMPLE / "traces.jsonl", overwrite=True, **options)
    for record in summary.records:
        assert record["rung"] == "text"
        if record["status"] == "failed":
            assert record["failure"]["kind"] in (
                "unparseable",
                "wrong_schema",
                "not_three_words",
                "cut_off",
                "same_name",
            )
            assert record["failure"]["request_id"].startswith("llm-")
