"""The openai labeler over a real HTTP connection: a name for each direction, scored by the same model; what is no
answer is a failure with its kind, never a label; the key is in no file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from skillaxes.errors import RunFolderError, UsageError
from skillaxes.labeling import label
from skillaxes.run_folder import schema

FEW = {"labeler": "openai", "model": "test-model", "pairs": 10, "detections": 3, "baselines": 0, "concurrency": 4}


def run(folder: Any, server: Any, **options: Any) -> Any:
    return label(folder.run_dir, folder.traces, **{**FEW, "base_url": server.url, **options})


def test_labels_and_scores(folder: Any, serve: Callable[..., Any]) -> None:
    server = serve()
    summary = run(folder, server, pairs=12, detections=6, baselines=2)
    assert summary.exit_code == 0 and summary.n_labelled == 2
    lines = (folder.run_dir / schema.LABELS).read_text().splitlines()
    assert len(lines) == 2
    for index, line in enumerate(lines):
        record = json.loads(line)
        mark = "ab"[index]
        assert record["kind"] == "name" and record["status"] == "labelled" and record["direction"] == index
        assert record["keywords"] == {
            "positive": ["speaks", "of", f"upward{mark}"],
            "negative": ["speaks", "of", f"downward{mark}"],
        }
        assert record["title"] == f"speaks of upward{mark} vs. speaks of downward{mark}"
        assert record["attributes"]["positive"] and record["axes"] and record["analysis"]
        assert record["scores"]["pairs"]["accuracy"] == 1.0 and record["scores"]["pairs"]["pairs"] == 12
        assert record["scores"]["detection"]["traces"] == 6
        assert record["rung"] == "json_schema" and record["model"] == "test-model"
        assert record["usage"]["input_tokens"] > 0 and record["usage"]["requests"] == 1 + 2 * 24 + 6
        assert record["cost"] is None  # the table knows no price of such a model
    assert len(server.requests) == summary.usage.requests


def test_no_key_is_wrong_usage_before_anything_is_written(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    before = sorted(path.name for path in folder.run_dir.iterdir())
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set") as error:
        label(folder.run_dir, folder.traces, labeler="openai")
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    assert sorted(path.name for path in folder.run_dir.iterdir()) == before


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("I think group A is about maths.", "unparseable"),
        ('{"analysis": "a"', "unparseable"),
        ("", "empty_reply"),
        ('{"analysis": "x"}', "wrong_schema"),
        ('{"keywords_a": "two words", "keywords_b": "three plain words"}', "not_three_words"),
        ('{"keywords_a": 3, "keywords_b": "three plain words"}', "wrong_schema"),
        ('{"keywords_a": "three plain words", "keywords_b": "Three plain words"}', "same_name"),
        ("null", "unparseable"),
        ("[1, 2, 3]", "unparseable"),
    ],
)
def test_a_reply_that_is_no_label_is_a_failure(folder: Any, serve: Callable[..., Any], reply: str, kind: str) -> None:
    summary = run(folder, serve(lambda request: reply))
    assert summary.exit_code == 1 and summary.n_failed == 2 and summary.n_labelled == 0
    for record in summary.records:
        assert record["status"] == "failed" and record["failure"]["kind"] == kind
        assert record["failure"]["request_id"].startswith("req-")
        assert record["title"] is None and record["keywords"] == {"positive": [], "negative": []}
        assert record["scores"]["pairs"] is None and record["verdict"]["text"] == f"no label: {kind}"
    assert not (folder.run_dir / "label_cache.jsonl").exists()


def test_one_repair_turn(folder: Any, serve: Callable[..., Any], chat_module: Any) -> None:
    def behave(request: Any) -> str:
        good = chat_module.honest(request)
        if request.task == "label" and len(request.body["messages"]) == 2:
            return good.replace("speaks of", "it speaks loudly of")
        return good

    server = serve(behave)
    summary = run(folder, server)
    assert summary.n_labelled == 2
    repairs = [request.body["messages"] for request in server.requests if len(request.body["messages"]) == 4]
    assert len(repairs) == 2
    assert "exactly three" in repairs[0][3]["content"] and repairs[0][2]["role"] == "assistant"
    n_requests = len(server.requests)
    run(folder, server)
    assert len(server.requests) == n_requests  # the repaired reply was recorded under the question


def test_uninterpretable_is_an_answer(folder: Any, serve: Callable[..., Any], chat_module: Any) -> None:
    def behave(request: Any) -> str:
        fields = json.loads(chat_module.honest(request))
        if request.task == "label":
            fields |= {"interpretable": False, "keywords_a": "", "keywords_b": ""}
        return json.dumps(fields)

    summary = run(folder, serve(behave))
    assert summary.exit_code == 0 and summary.n_uninterpretable == 2
    assert summary.records[0]["verdict"] == {"survives": False, "text": "uninterpretable, says the labeler"}
    assert summary.records[0]["scores"]["pairs"] is None


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("message", ["1 validation error: response_format", "bad request"])
def test_a_refused_form_is_stepped_down_once(
    folder: Any, serve: Callable[..., Any], chat_module: Any, status: int, message: str
) -> None:
    refusals = []

    def behave(request: Any) -> Any:
        form = request.body.get("response_format", {}).get("type", "text")
        if form != "text":
            refusals.append(form)
            return chat_module.Answer(status=status, error={"error": {"message": message}})
        return "Sure! Here it is:\n```json\n" + chat_module.honest(request) + "\n```\nHope this helps."

    summary = run(folder, serve(behave), retries=1)
    assert summary.n_labelled == 2 and {record["rung"] for record in summary.records} == {"text"}
    assert len(refusals) == (4 if status == 500 else 2)  # the client repeats a 500 by itself


def test_object_rung(folder: Any, serve: Callable[..., Any], chat_module: Any) -> None:
    def behave(request: Any) -> Any:
        if request.body["response_format"]["type"] == "json_schema":
            return chat_module.Answer(status=400, error="'response_format.type' must be 'json_object'")
        return chat_module.honest(request)

    assert {record["rung"] for record in run(folder, serve(behave)).records} == {"json_object"}


def test_settings_are_sent_only_when_set(folder: Any, serve: Callable[..., Any]) -> None:
    server = serve()
    run(folder, server, pairs=0, detections=0)
    assert set(server.requests[0].body) == {"model", "messages", "response_format"}
    run(
        folder, server, pairs=0, detections=0, overwrite=True,
        temperature=0.5, reasoning_effort="low", service_tier="flex", max_output_tokens=77,
    )  # fmt: skip
    body = server.requests[-1].body
    assert (body["temperature"], body["reasoning_effort"], body["service_tier"]) == (0.5, "low", "flex")
    assert body["max_tokens"] == 77


def test_the_field_of_the_cap_is_swapped_when_refused(folder: Any, serve: Callable[..., Any], chat_module: Any) -> None:
    def behave(request: Any) -> Any:
        if "max_tokens" in request.body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return chat_module.Answer(status=400, error={"error": {"message": message}})
        return chat_module.honest(request)

    server = serve(behave)
    summary = run(folder, server, max_output_tokens=500)
    assert summary.n_labelled == 2 and summary.records[0]["rung"] == "json_schema"
    assert sum("max_tokens" in request.body for request in server.requests) == 1


def test_the_key_is_in_no_file_and_no_message(folder: Any, serve: Callable[..., Any], chat_module: Any) -> None:
    key = "sk-secret-of-the-tests-0123456789"

    def behave(request: Any) -> Any:
        message = f"Incorrect API key provided: {key} (or sk-secret*****6789)."
        return chat_module.Answer(status=401, error={"error": {"message": message, "code": "invalid_api_key"}})

    server = serve(behave)
    summary = run(folder, server, base_url=server.url.replace("http://", "http://user:hush@"))
    assert {record["failure"]["kind"] for record in summary.records} == {"authentication"}
    for path in folder.run_dir.iterdir():
        content = path.read_bytes()
        assert b"secret" not in content and b"hush" not in content, path
    assert summary.records[0]["failure"]["status"] == 401


def test_labels_of_other_options_are_not_replaced_unasked(folder: Any, serve: Callable[..., Any]) -> None:
    label(folder.run_dir, folder.traces)
    before = (folder.run_dir / schema.LABELS).read_bytes()
    with pytest.raises(RunFolderError, match=r"labels by keywords made with other options.*--overwrite"):
        run(folder, serve())
    assert (folder.run_dir / schema.LABELS).read_bytes() == before
    assert run(folder, serve(), overwrite=True).n_labelled == 2


def test_judgements_without_an_answer_are_in_the_record(
    folder: Any, serve: Callable[..., Any], chat_module: Any
) -> None:
    def behave(request: Any) -> Any:
        if request.task == "label":
            return chat_module.honest(request)
        return chat_module.Answer(status=403, error={"error": {"message": "not today"}})

    server = serve(behave)
    summary = run(folder, server)
    assert summary.n_labelled == 2 and summary.exit_code == 1
    for record in summary.records:
        (failures,) = record["judge_failures"]
        assert failures["kind"] == "permission" and failures["count"] == 10 + 10 + 3
        assert failures["request_id"].startswith("req-") and failures["status"] == 403
        assert record["scores"] == {"pairs": None, "disjoint": None, "detection": None}
        assert record["verdict"]["text"] == "not scored: the judge gave no answer (permission)"
    server.behave = chat_module.honest
    assert run(folder, server).exit_code == 0  # what was missing is asked for again
