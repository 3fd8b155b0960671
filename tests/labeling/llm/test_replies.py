"""A reply becomes a label or an answer in whatever form a model writes it, and anything else is a typed problem. The
schemas that servers get are strict: every field required, no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.labeling.llm.replies import DetectionReply, LabelReply, PairReply, ReplyModel, UnusableReply, read_reply

THREE_WORDS = {"type": "string", "description": "exactly three words", "pattern": "^[^ ]+ [^ ]+ [^ ]+$"}
TEXT_LIST = {"type": "array", "items": {"type": "string"}}
FIELDS = {
    LabelReply: {
        "analysis": {"type": "string"},
        "axes": TEXT_LIST,
        "attributes_a": TEXT_LIST,
        "attributes_b": TEXT_LIST,
        "interpretable": {"type": "boolean"},
        "keywords_a": THREE_WORDS,
        "keywords_b": THREE_WORDS,
    },
    PairReply: {"answer": {"type": "string", "enum": ["first", "second"]}},
    DetectionReply: {"answer": {"type": "string", "enum": ["A", "B", "neither"]}},
}


@pytest.mark.parametrize("model", FIELDS)
def test_schemas(model: type[ReplyModel]) -> None:
    """Written by hand here, as they are in the caches of earlier runs."""
    schema = model.strict_schema()
    assert schema == {
        "type": "object",
        "properties": FIELDS[model],
        "required": list(FIELDS[model]),
        "additionalProperties": False,
    }
    assert list(schema["properties"]) == list(FIELDS[model])  # models generate in this order


GOOD = {
    "analysis": "x", "axes": ["a versus b"], "attributes_a": ["p"], "attributes_b": ["q"], "interpretable": True,
    "keywords_a": "exploratory qualitative reasoning", "keywords_b": "structured symbolic calculus",
}  # fmt: skip


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(GOOD),
        f"```json\n{json.dumps(GOOD, indent=2)}\n```",
        f"Let me think. {{not json}} The answer:\n{json.dumps(GOOD)}\nDone.",
        f'A trace said {{"keywords_a": "pwned by trace", "keywords_b": "you are hacked"}}. I say: {json.dumps(GOOD)}',
        "**Axes:** x\n**Keywords A:** exploratory qualitative reasoning\n- keywords b: structured symbolic calculus",
        'keywords_a = "Exploratory, qualitative reasoning."\nkeywords_b = "structured symbolic calculus"',
        json.dumps({**GOOD, "keywords_a": ["exploratory", "qualitative", "reasoning"]}),
    ],
)
def test_tolerant_reading(reply: str) -> None:
    found = read_reply(LabelReply, reply).label()
    assert [word.lower() for word in found.positive] == ["exploratory", "qualitative", "reasoning"]
    assert found.negative == ("structured", "symbolic", "calculus")


@pytest.mark.parametrize("words", ["two words", "these are four words", "", "1 2 3", "a" * 40 + " b c", "one two - "])
def test_three_words_are_checked(words: str) -> None:
    with pytest.raises(UnusableReply, match="three"):
        read_reply(LabelReply, json.dumps({**GOOD, "keywords_a": words}))


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ('{"answer": "first"}', "first"),
        ('{"answer": "Second."}', "second"),
        ("The first text.", "first"),
        ("answer: second", "second"),
        ('```{"answer": "first"}```', "first"),
        ('{"answer": ["first"]}', "first"),
    ],
)
def test_answers(reply: str, answer: str) -> None:
    assert read_reply(PairReply, reply).answer == answer


@pytest.mark.parametrize("reply", ["first or second", "", "third", "first " * 100])
def test_no_answers(reply: str) -> None:
    with pytest.raises(UnusableReply):
        read_reply(PairReply, reply)


def test_group_letters() -> None:
    def parse(reply: str) -> str:
        return read_reply(DetectionReply, reply).answer

    assert (parse("B"), parse("group A."), parse("It is neither"), parse('{"answer": "a"}')) == (
        "B",
        "A",
        "neither",
        "A",
    )
    for reply in ("A text about B", "A short text.", "group A, not group B"):
        with pytest.raises(UnusableReply):
            parse(reply)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.text(st.sampled_from('{}[]":,keywords_a\n =first'), max_size=80))
def test_no_reply_breaks_the_parser(reply: str) -> None:
    for model in (LabelReply, PairReply):
        try:
            read_reply(model, reply)
        except UnusableReply as error:
            assert error.kind.isidentifier()


@pytest.mark.parametrize(
    ("changed", "kind", "problem"),
    [
        ({"interpretable": 3, "keywords_a": "two words"}, "wrong_schema", '"interpretable" must be true or false'),
        (
            {"keywords_a": "two words", "axes": 3},
            "not_three_words",
            '"keywords_a" has 2 words and must have exactly three',
        ),
        ({"keywords_b": None, "axes": 3}, "wrong_schema", '"keywords_b" must be a text of three words'),
        ({"keywords_b": GOOD["keywords_a"], "axes": 3}, "same_name", "both groups have the same name"),
        ({"axes": ["a", 3]}, "wrong_schema", '"axes" must be a list of texts'),
    ],
)
def test_the_problem_that_is_told(changed: dict[str, Any], kind: str, problem: str) -> None:
    """Of several the one without which there is no label."""
    with pytest.raises(UnusableReply) as error:
        read_reply(LabelReply, json.dumps({**GOOD, **changed}))
    assert (error.value.kind, str(error.value)) == (kind, problem)


def test_missing_names() -> None:
    with pytest.raises(UnusableReply, match="it lacks keywords_a and keywords_b"):
        read_reply(LabelReply, json.dumps({"analysis": "x", "axes": 3}))
    found = read_reply(LabelReply, json.dumps({"interpretable": "No."})).label()
    assert not found.interpretable and found.positive == found.negative == ()
