"""A record becomes text in one way: messages of ``input``, then ``output``, or the pattern; an unknown field is named
together with the known ones. The window is the part of the text that the row has seen."""

from __future__ import annotations

import pytest

from skillaxes.errors import TracesError, UsageError
from skillaxes.labeling.options import make_options
from skillaxes.labeling.texts import Reader, Template, Window, masked, window_of
from skillaxes.labeling.token_estimate import cut_at, safe_count

CHAT = {
    "id": "a",
    "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
    "output": "2",
}


def test_default_is_messages_then_output() -> None:
    rendered = Template().render(0, CHAT)
    assert rendered.text == "Be brief.\n\n1+1?\n\n2"
    assert rendered.text[: rendered.prompt_end] == rendered.prompt == "Be brief.\n\n1+1?"


def test_messages_in_parts() -> None:
    record = {"input": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}
    assert Template().render(0, {**record, "output": {"role": "assistant", "content": "c"}}).text == "a\n\nb\n\nc"


def test_pattern() -> None:
    record = {"problem": "P", "meta": {"answer": 3, "steps": ["x", "y"]}}
    assert Template(r"Q: {problem}\n{{A}}: {meta[answer]} {meta[steps][1]}").render(0, record).text == "Q: P\n{A}: 3 y"


def test_unknown_fields_are_named() -> None:
    with pytest.raises(TracesError, match="no field 'input': the record has problem, solution; say with --template"):
        Template().render(0, {"problem": "P", "solution": "S"})
    with pytest.raises(TracesError, match="record 4 of the traces has no field 'b': field 'a' has c"):
        Template("{a[b]}").render(4, {"a": {"c": 1}})


@pytest.mark.parametrize("pattern", ["no field", "{", "{a!r}", "{a:>5}", "{}", "{a[}"])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(UsageError, match="--template"):
        Template(pattern)


def test_a_pattern_reaches_no_attribute() -> None:
    with pytest.raises(TracesError):
        Template("{a.__class__}").render(0, {"a": 1})


def test_part_and_pattern_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--template with --text output"):
        make_options(template="{a}", text="output")


def reader(text: str, window: Window) -> Reader:
    return Reader(Template(), text, window, None, ())


def test_parts_of_a_trace() -> None:
    whole = Window(None, True)
    assert reader("input", whole).trace(0, None, CHAT).text == "Be brief.\n\n1+1?"
    assert reader("output", whole).trace(0, None, CHAT).text == "2"
    assert reader("both", whole).trace(0, None, CHAT).text == "Be brief.\n\n1+1?\n\n2"


def test_window_of_the_store() -> None:
    record = {"input": "one two three four five six seven eight nine ten", "output": "eleven"}
    window, _ = window_of("store", [1, 4])  # counted from 0, the stop excluded
    assert reader("both", window).trace(0, None, record).text == "one two three four"
    assert reader("both", window).trace(0, None, record).length == 56  # confounds and the length judge see it all
    assert reader("output", window).trace(0, None, record).text == ""
    assert window_of("all", [1, 4])[0] == Window(None, True)
    assert window_of("store", [1, None])[0] == Window(None, True)
    for unknown in (None, "the whole trace", "1:160"):
        window, sentence = window_of("store", unknown)
        assert (
            window == Window(None, False)
            and f"the store says {'only ' + repr(unknown) if unknown else 'nothing'}" in sentence
        )


def test_masking_takes_names_numbers_and_variables_away() -> None:
    first = masked("Anna has 3 apples, and she buys 4x + 2 more. How many?")
    second = masked("Boris has 17 apples, and he buys 9y + 11 more. How many?")
    assert first == second == ["has", "apples", "and", "buys", "more", "many"]


def test_pieces_are_bounded_and_cover_the_text() -> None:
    for text in ("", "abc", "a" * 5000, "\n" * 500 + " " * 500, "x² ≤ 3·∫f(t)dt", "漢字かな" * 9, "\u2028\x1c\x00"):
        assert cut_at(text, 10**9) == len(text)
        assert cut_at(text, 0) == 0
        assert 0 <= safe_count(text) <= len(text.encode())
    assert safe_count("a" * 5000) >= 1600
