"""The replies of a model: the form of each, and how it is read from a text.

A reply is a pydantic model. Its JSON schema goes with the question, for servers that generate by it, and its fields
check the answer. Reading forgives what small models do without a schema: JSON among prose, lines of ``field: value``,
field names in any spelling, lists written as text, quotes and full stops around words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from skillaxes.labeling.labels import NEGATIVE, NEITHER, POSITIVE, Label

_FIELD_LINE = re.compile(r"^[\s*#\"'-]*([A-Za-z][A-Za-z _]{2,20}?)[\s*\"']*[:=][\s*]*(.+?)[\s*,]*$", re.MULTILINE)
_LONGEST_REPLY = 100_000
_EDGE = " \t\r\n.,;:!?\"'“”‘’*_`()[]"
_LONGEST_WORD = 32
_MOST_ITEMS = 12
_LONGEST_SENTENCE = 400


class UnusableReply(Exception):
    """A reply that is no answer to its question.

    Attributes
    ----------
    kind : ``unparseable``, ``wrong_schema``, ``not_three_words`` or ``same_name``
    """

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind


class ReplyModel(BaseModel):
    """The form of the reply to one question."""

    checked_first: ClassVar[tuple[str, ...]] = ()  # fields whose problems are reported before those of others

    @classmethod
    @cache
    def strict_schema(cls) -> dict[str, Any]:
        """The JSON schema as servers want it under ``strict``: every field required, no others, no defaults."""
        properties = {
            name: {key: value for key, value in field.items() if key not in ("title", "default")}
            for name, field in cls.model_json_schema()["properties"].items()
        }
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The reply with these fields; others are ignored.

        Raises
        ------
        UnusableReply : a field that is missing or wrong
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise cls._unusable(error) from None

    @classmethod
    def from_prose(cls, text: str) -> Self | None:
        """The reply in a text without any fields; None if there is none."""
        return None

    @classmethod
    def _unusable(cls, error: ValidationError) -> UnusableReply:
        def rank(problem: Any) -> int:
            field = problem["loc"][0] if problem["loc"] else None
            return cls.checked_first.index(field) if field in cls.checked_first else len(cls.checked_first)

        problem = min(error.errors(include_url=False, include_input=False), key=rank)
        if problem["type"] in _KINDS:
            return UnusableReply(problem["type"], problem["msg"])
        return UnusableReply("wrong_schema", f'"{problem["loc"][0]}": {problem["msg"]}')


_KINDS = ("wrong_schema", "not_three_words", "same_name")


def _must_be(info: ValidationInfo, needed: str) -> PydanticCustomError:
    return PydanticCustomError("wrong_schema", '"{name}" must be {needed}', {"name": info.field_name, "needed": needed})


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _truth(value: Any) -> Any:
    """A text as the bool it stands for, anything else as it is."""
    return value.strip(_EDGE).lower() not in ("false", "no") if isinstance(value, str) else value


def _true_or_false(value: Any, info: ValidationInfo) -> bool:
    value = _truth(value)
    if not isinstance(value, bool):
        raise _must_be(info, "true or false")
    return value


def _texts(value: Any, info: ValidationInfo) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part for part in re.split(r"[;\n]", value) if part.strip()]
    if not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        raise _must_be(info, "a list of texts")
    return tuple(part.strip() for part in value if part.strip())[:_MOST_ITEMS]


def _three_words(value: Any, info: ValidationInfo) -> str:
    if not info.data.get("interpretable"):
        return ""  # of groups that nothing tells apart no name is read
    if isinstance(value, list | tuple):
        value = " ".join(str(part) for part in value)
    if not isinstance(value, str):
        raise _must_be(info, "a text of three words")
    words = [word for word in (word.strip(_EDGE) for word in value.split()) if word]
    context = {"name": info.field_name, "count": len(words)}
    if len(words) != 3:
        raise PydanticCustomError("not_three_words", '"{name}" has {count} words and must have exactly three', context)
    if any(len(word) > _LONGEST_WORD or not any(map(str.isalpha, word)) for word in words):
        raise PydanticCustomError("not_three_words", '"{name}" must be three words of a language', context)
    return " ".join(words)


def _other_name(value: str, info: ValidationInfo) -> str:
    if value and value.lower() == info.data.get("keywords_a", "").lower():
        raise PydanticCustomError("same_name", "both groups have the same name")
    return value


_Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
# The pattern guides servers that generate by the schema; here the words are checked one by one.
_ThreeWords = Annotated[
    str,
    BeforeValidator(_three_words),
    Field(description="exactly three words", json_schema_extra={"pattern": "^[^ ]+ [^ ]+ [^ ]+$"}),
]


class LabelReply(ReplyModel):
    """The reply to ``LABEL_QUESTION``, its fields in the order in which they are asked for."""

    checked_first = ("interpretable", "keywords_a", "keywords_b")

    analysis: Annotated[str | SkipJsonSchema[None], BeforeValidator(_text_or_none)] = None
    axes: _Texts = ()
    attributes_a: _Texts = ()
    attributes_b: _Texts = ()
    interpretable: Annotated[bool, BeforeValidator(_true_or_false)] = True
    keywords_a: _ThreeWords
    keywords_b: Annotated[_ThreeWords, AfterValidator(_other_name)]

    @model_validator(mode="before")
    @classmethod
    def _forgive(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Field names in any spelling; names of groups are needed only where something tells the groups apart."""
        found = {name.strip().lower().replace(" ", "_"): value for name, value in fields.items()}
        missing = [name for name in ("keywords_a", "keywords_b") if name not in found]
        if _truth(found.get("interpretable", True)) is not True:
            found |= {"keywords_a": "", "keywords_b": ""}
        elif missing:
            raise PydanticCustomError("wrong_schema", "it lacks {fields}", {"fields": " and ".join(missing)})
        return found

    def label(self) -> Label:
        """The label of the reply; A is the positive group."""
        return Label(
            positive=tuple(self.keywords_a.split()),
            negative=tuple(self.keywords_b.split()),
            axes=self.axes,
            positive_attributes=self.attributes_a,
            negative_attributes=self.attributes_b,
            analysis=self.analysis,
            interpretable=self.interpretable,
        )


class _AnswerReply(ReplyModel):
    """A reply of one word out of a few."""

    answer: str

    @classmethod
    def _answers(cls) -> tuple[str, ...]:
        return get_args(cls.model_fields["answer"].annotation)

    @model_validator(mode="before")
    @classmethod
    def _forgive(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        said = str(fields.get("answer", "")).strip(_EDGE).lower()
        for answer in cls._answers():
            if said == answer.lower():
                return {"answer": answer}
        raise PydanticCustomError(
            "wrong_schema", '"answer" must be one of {answers}', {"answers": ", ".join(cls._answers())}
        )

    @classmethod
    def from_prose(cls, text: str) -> Self | None:
        """The answer that a short text holds among other words, as long as it is the only one."""
        said = [answer for answer in cls._answers() if re.search(_spoken(answer), text)]
        return cls(answer=said[0]) if len(said) == 1 and len(text) <= _LONGEST_SENTENCE else None


def _spoken(answer: str) -> str:
    # A single letter is an article or a variable as well.
    return rf"(?i:\bgroup\s+{answer}\b)|^\W*{answer}\W*$" if len(answer) == 1 else rf"(?i:\b{re.escape(answer)}\b)"


class PairReply(_AnswerReply):
    """The reply to ``PAIR_QUESTION``: the text of group A, by its position."""

    answer: Literal["first", "second"]


class DetectionReply(_AnswerReply):
    """The reply to ``DETECT_QUESTION``."""

    answer: Literal["A", "B", "neither"]

    def group(self) -> str:
        """The group of the text: one of ``labels.GROUPS``."""
        return {"A": POSITIVE, "B": NEGATIVE, "neither": NEITHER}[self.answer]


M = TypeVar("M", bound=ReplyModel)


def read_reply(model: type[M], text: str) -> M:
    """The reply in a text: its last usable JSON object, else its lines of ``field: value``, else its prose.

    Raises
    ------
    UnusableReply : none of them is a reply of this form
    """
    # The last one: a reply may quote a trace, and a trace may hold an object that looks like an answer.
    problem = UnusableReply("unparseable", "there is no JSON object in it")
    for fields in _objects(text[:_LONGEST_REPLY]):
        try:
            return model.from_fields(fields)
        except UnusableReply as error:
            if problem.kind == "unparseable":
                problem = error
    found = model.from_prose(text)
    if found is None:
        raise problem
    return found


def _objects(reply: str) -> Iterator[dict[str, Any]]:
    """JSON objects in a reply, the last first; then its lines of ``field: value`` as one."""
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    position = reply.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(reply, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            if isinstance(value, dict):
                found.append(value)
        position = reply.find("{", end)
    yield from reversed(found)
    if not found:
        lines = {name: value.strip("\"'") for name, value in _FIELD_LINE.findall(reply)}
        if lines:
            yield lines
