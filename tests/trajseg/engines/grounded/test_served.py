"""The served chooser against a fake server that checks each request against vLLM's protocol."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from trajseg.engines.grounded.dialogue import Question
from trajseg.engines.grounded.grammar import verdict_grammar
from trajseg.engines.grounded.served import ServedChooser
from trajseg.errors import InputError, TrajSegError

PICTURE = np.full((6, 8, 3), (200, 30, 30), np.uint8)
QUESTION = Question(["Frame: ", PICTURE, "which?"], verdict_grammar([1, 2]))
ANSWER = '{"1": "a dog: accept", "2": "a cat: reject"}'
RESPONSE_FORMATS = {"text", "json_object", "json_schema"}


class FakeVllm:
    """A fake of `vllm serve` 0.33 that rejects what its /v1/chat/completions would reject, and answers by script.

    `replies` are texts to answer, or statuses to fail with.
    """

    def __init__(self, *replies: str | int) -> None:
        self.replies = list(replies)
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST" or request.url.path != "/v1/chat/completions":
            return httpx.Response(404, json={"error": {"message": "Not Found"}})
        body = json.loads(request.content)
        self.requests.append(body)
        try:
            self.check(body)
        except (AssertionError, KeyError, TypeError) as error:
            return httpx.Response(400, json={"error": {"message": f"{type(error).__name__}: {error}"}})
        reply = self.replies.pop(0)
        if isinstance(reply, int):
            return httpx.Response(reply, json={"error": {"message": "later"}})
        message = {"role": "assistant", "content": reply}
        return httpx.Response(200, json={"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    @staticmethod
    def check(body: dict[str, Any]) -> None:
        """What vLLM's pydantic models and its multimodal parser require."""
        known = {"model", "messages", "temperature", "max_tokens", "response_format", "chat_template_kwargs"}
        assert set(body) <= known, "guided_json and other fields of older releases are not known"
        assert body["model"] == "served-vlm"
        [message] = body["messages"]
        assert message["role"] == "user"
        for part in message["content"]:
            if part["type"] == "text":
                assert isinstance(part["text"], str)
                continue
            assert part["type"] == "image_url"
            head, _, data = part["image_url"]["url"].partition(",")
            assert head == "data:image/jpeg;base64"
            assert Image.open(io.BytesIO(base64.b64decode(data, validate=True))).size == (8, 6)
        form = body["response_format"]
        assert form["type"] in RESPONSE_FORMATS
        schema = form["json_schema"]
        assert isinstance(schema["name"], str)
        assert schema["schema"]["type"] == "object"
        assert isinstance(body["chat_template_kwargs"]["enable_thinking"], bool)


def chooser(server: Callable[[httpx.Request], httpx.Response], **options: Any) -> ServedChooser:
    return ServedChooser(
        "http://gpu:8000/v1", "served-vlm", pause=0.01, transport=httpx.MockTransport(server), **options
    )


def test_answer_is_returned_and_pictures_are_sent_between_the_texts() -> None:
    server = FakeVllm(ANSWER)
    assert chooser(server).answer(QUESTION) == ANSWER
    [request] = server.requests
    assert [part["type"] for part in request["messages"][0]["content"]] == ["text", "image_url", "text"]
    assert request["response_format"]["json_schema"]["schema"]["required"] == ["1", "2"]
    assert request["temperature"] == 0


def test_busy_server_is_retried() -> None:
    server = FakeVllm(503, ANSWER)
    assert chooser(server).answer(QUESTION) == ANSWER
    assert len(server.requests) == 2


def test_answer_with_other_spacing_is_accepted() -> None:
    assert chooser(FakeVllm('{\n "1":"a dog: accept","2":"a cat: reject" }')).answer(QUESTION) == ANSWER


@pytest.mark.parametrize("reply", ['{"1": "x: accept"}', "The first one.", '{"1": "x: accept", "2": "x: maybe"}'])
def test_an_answer_outside_the_schema_is_an_error(reply: str) -> None:
    with pytest.raises(TrajSegError, match="does not follow the schema"):
        chooser(FakeVllm(reply)).answer(QUESTION)


def test_error_includes_the_server_s_message() -> None:
    with pytest.raises(TrajSegError, match=r"400.*AssertionError"):
        ServedChooser("http://gpu:8000/v1", "another", transport=httpx.MockTransport(FakeVllm())).answer(QUESTION)


def test_unreachable_server() -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ProxyError("no route")

    with pytest.raises(TrajSegError, match="cannot be reached"):
        chooser(gone).answer(QUESTION)


def test_key_is_sent_as_a_bearer_token() -> None:
    seen: list[str] = []
    server = FakeVllm(ANSWER)

    def watch(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", ""))
        return server(request)

    chooser(watch, key="secret").answer(QUESTION)
    assert seen == ["Bearer secret"]


@pytest.mark.parametrize("address", ["gpu:8000", "file:///etc", "ftp://gpu/v1", ""])
def test_only_web_addresses_are_accepted(address: str) -> None:
    with pytest.raises(InputError, match="not an http or https URL"):
        ServedChooser(address, "served-vlm")
