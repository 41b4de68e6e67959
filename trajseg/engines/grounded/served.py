"""A chooser behind an OpenAI-compatible address, such as `vllm serve`; pictures are sent only there."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import cv2
import httpx
import numpy as np
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from trajseg.engines.grounded.dialogue import Question
from trajseg.engines.grounded.prompts import Part
from trajseg.errors import InputError, TrajSegError

JPEG_QUALITY = 92
ATTEMPTS = 4
TEMPORARY = frozenset({408, 429, 502, 503, 504})
"""Status codes after which the same request may succeed."""


class ServedChooser:
    """Asks a served vision language model; the server enforces the grammar's JSON schema on answers.

    Args:
        address: up to and including /v1.
        model: its name on the server.
        key: sent as a bearer token, if given.
        timeout: seconds for one answer.
        pause: seconds before the second attempt; later pauses are longer.
        transport: httpx's, for tests.

    Raises:
        InputError: the address is not an http or https URL.
    """

    def __init__(
        self,
        address: str,
        model: str,
        key: str = "",
        timeout: float = 120.0,
        pause: float = 0.5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        url = httpx.URL(address)
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(
                f"The chooser's address {address!r} is not an http or https URL.", "Use one such as http://gpu:8000/v1."
            )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.model, self.family, self._pause = model, model, pause
        self._client = httpx.Client(
            base_url=address.rstrip("/") + "/", headers=headers, timeout=timeout, transport=transport
        )

    def answer(self, question: Question) -> str:
        """See Chooser. Retries when the server is busy."""
        retrying = Retrying(
            retry=retry_if_exception(_is_temporary),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=self._pause, max=8),
            reraise=True,
        )
        try:
            reply = retrying(self._post, self._request(question))
        except httpx.HTTPStatusError as error:
            raise TrajSegError(
                f"The chooser at {self._client.base_url} answers {error.response.status_code}: "
                f"{error.response.text[:300]}",
                "Check its model name (TRAJSEG_GROUNDED_CHOOSER), its key and its log.",
            ) from error
        except (httpx.HTTPError, ValueError) as error:
            raise TrajSegError(
                f"The chooser at {self._client.base_url} cannot be reached: {error}",
                "Start it, or fix TRAJSEG_GROUNDED_ADDRESS.",
            ) from error
        return self._checked(reply, question)

    def _post(self, request: Mapping[str, Any]) -> Any:
        response = self._client.post("chat/completions", json=request)
        response.raise_for_status()
        return response.json()

    def _request(self, question: Question) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": [_content(part) for part in question.parts]}],
            "temperature": 0,
            "max_tokens": question.most_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": question.grammar.name,
                    "schema": dict(question.grammar.schema),
                    "strict": True,
                },
            },
            "chat_template_kwargs": {"enable_thinking": False},
        }

    def _checked(self, reply: Any, question: Question) -> str:
        try:
            [choice] = reply["choices"]
            text = str(choice["message"]["content"]).strip()
        except (KeyError, TypeError, ValueError) as error:
            raise TrajSegError(
                f"The chooser at {self._client.base_url} does not answer in OpenAI's format: {str(reply)[:300]}",
                "Its address must be that of an OpenAI-compatible server, up to /v1.",
            ) from error
        normal = question.grammar.normalised(text)
        if normal is None:
            raise TrajSegError(
                f"The chooser {self.model} does not follow the schema: {text[:300]!r}.",
                "Its server must support response_format json_schema, as vLLM does; `transformers serve` does not.",
            )
        return normal


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in TEMPORARY
    return isinstance(error, httpx.TransportError)


def _content(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": _data_url(part)}}


def _data_url(picture: np.ndarray) -> str:
    _, packed = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(packed.tobytes()).decode("ascii")
