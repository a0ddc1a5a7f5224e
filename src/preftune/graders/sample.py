"""What a model answered, as graders see it: `sample.output_text` and its neighbours."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preftune.errors import DataError
from preftune.graders.results import GradingError
from preftune.lines import parse_json
from preftune.types import Message, ToolCall, text_of

Item = Mapping[str, Any]
"""What is known of a prompt besides its messages, such as the right answer."""
VARIABLES = ("output_text", "output_json", "output_tools", "choices")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One answer: its text, and the tools it calls."""

    output_text: str
    output_tools: tuple[ToolCall, ...] = ()

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Sample":
        """Return the sample in a response's messages: the assistant's words and calls."""
        calls = tuple(call for message in messages for call in message.tool_calls)
        return cls(output_text=text_of(tuple(messages)), output_tools=calls)

    def value(self, name: str) -> Any:
        """Return one of `VARIABLES` as plain values.

        Raises:
            GradingError: `output_json` of a sample that is no JSON.
        """
        match name:
            case "output_text":
                return self.output_text
            case "output_json":
                return self._json()
            case "output_tools":
                return self._tools()
            case _:
                return self._choices()

    def as_dict(self) -> dict[str, Any]:
        """Return all variables, as a python grader gets them; `output_json` None if it is none."""
        try:
            parsed = self._json()
        except GradingError:
            parsed = None
        return {
            "output_text": self.output_text,
            "output_json": parsed,
            "output_tools": self._tools(),
            "choices": self._choices(),
        }

    def _json(self) -> Any:
        try:
            ((_, value),) = parse_json(b'{"value":%s}' % self.output_text.encode()).items()
        except (DataError, ValueError) as error:  # ValueError: the text brings fields of its own
            raise GradingError(
                "sample.output_json: the sample is not JSON", sample_parse_error=True
            ) from error
        return value

    def _tools(self) -> list[dict[str, Any]]:
        return [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in self.output_tools
        ]

    def _choices(self) -> list[dict[str, Any]]:
        message = {"role": "assistant", "content": self.output_text, "tool_calls": self._tools()}
        return [{"index": 0, "message": message}]


def plain_text(value: Any) -> str:
    """Return a value as it stands in a rendered template: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
