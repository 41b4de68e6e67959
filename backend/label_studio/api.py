"""Requests to one Label Studio server with one token: retries, a deadline, and errors with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import httpx
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.request_options import RequestOptions
from pydantic import ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from backend.label_studio.refusals import NEW_TOKEN, UnavailableError, refusal, retry_after_seconds
from backend.patience import DeadlineError, Patience, patient_transport
from backend.tls import certificate_trouble, ssl_context
from trajseg.errors import LabelStudioError

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio

LONGEST_WISH_SECONDS = 8.0
"""A longer Retry-After is left to the caller instead of being waited for here."""
TokenKind = Literal["none", "legacy", "personal access", "access"]
T = TypeVar("T")

_START_LABEL_STUDIO = "Start Label Studio, or set LABEL_STUDIO_URL to its address; `trajseg doctor` checks both."

NO_SDK_RETRIES: RequestOptions = {"max_retries": 0}
"""Options of every call of the SDK: `again` and `once` decide about retries."""


def load_sdk() -> type[LabelStudio]:
    """The SDK's client. It imports pandas, so commands and workers that never need it start in half the time."""
    from label_studio_sdk import LabelStudio

    return LabelStudio


class LabelStudioApi:
    """One Label Studio server with one token: label-studio-sdk, and plain requests for what the SDK lacks.

    Args:
        url: Label Studio's address.
        api_key: legacy token, or personal access token (exchanged and renewed by label-studio-sdk).
        attempts: how often a request is sent at most.
        wait: longest pause between two attempts, seconds.
        timeout: for one request, seconds.
        deadline: seconds for all requests together, however slowly answers arrive; None: no limit.

    Every method raises LabelStudioError, which says what went wrong and what to do.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        attempts: int = 4,
        wait: float = 8.0,
        timeout: float = 60.0,
        deadline: float | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        api_key = api_key.strip()
        self.token_kind = token_kind(api_key)
        self._attempts = attempts
        self._wait = wait
        patience = Patience(deadline) if deadline is not None else None
        self._http = httpx.Client(
            timeout=timeout, follow_redirects=True, transport=patient_transport(ssl_context(), patience)
        )
        if self.token_kind == "none":
            raise LabelStudioError("There is no Label Studio token.", NEW_TOKEN)
        try:
            self.sdk = load_sdk()(base_url=self.url, api_key=api_key, httpx_client=self._http, max_retries=0)
        except ApiError as error:
            # The SDK checks the expiry date of a personal access token before it sends anything.
            raise refusal(error, self.url) from error
        # Without the slash the SDK drops the last part of the path, and token exchange fails below a path prefix.
        self.sdk._client_wrapper._tokens_client._base_url = f"{self.url}/"

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def send(self, method: str, path: str, **arguments: Any) -> Any:
        """One request that the SDK has no call for; the answer's JSON. `path` starts at Label Studio's root.

        Call it within `again` or `once`, which retry it and explain its errors.
        """
        headers = self.sdk._client_wrapper.get_headers()
        if "files" in arguments:
            # httpx writes the boundary of the parts into this header.
            headers = {key: value for key, value in headers.items() if key.lower() != "content-type"}
        answer = self._http.request(method, f"{self.url}{path}", headers=headers, **arguments)
        if answer.status_code >= 300:
            raise ApiError(status_code=answer.status_code, headers=dict(answer.headers), body=_body(answer))
        return answer.json()

    def again(self, call: Callable[[], T]) -> T:
        """The result of a call that reads or changes: retried on connection errors, 5xx and 429."""
        return self._call(call, _worth_another_try)

    def once(self, call: Callable[[], T]) -> T:
        """The result of a call that creates: retried only if the request cannot have arrived."""
        return self._call(call, lambda error: isinstance(error, httpx.ConnectError | httpx.ConnectTimeout))

    def _pause(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: Retry-After if present, else exponential back-off."""
        error = state.outcome.exception() if state.outcome else None
        wanted = retry_after_seconds(error.headers) if isinstance(error, ApiError) else None
        if wanted is not None:
            return min(wanted, self._wait)
        return float(wait_exponential(multiplier=min(0.5, self._wait), max=self._wait)(state))

    def _call(self, call: Callable[[], T], worth: Callable[[BaseException], bool]) -> T:
        retrying = Retrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._pause,
            retry=retry_if_exception(worth),
            reraise=True,
        )
        try:
            return retrying(call)
        except ApiError as error:
            raise refusal(error, self.url) from error
        except DeadlineError as error:
            raise UnavailableError(
                f"Label Studio at {self.url} did not answer in time.", "Look at Label Studio's log and its load."
            ) from error
        except httpx.LocalProtocolError as error:
            # The exception's text quotes the header, and with it the token.
            raise LabelStudioError(
                f"The request to Label Studio at {self.url} cannot be sent: a header is invalid.", NEW_TOKEN
            ) from error
        except httpx.TransportError as error:
            raise LabelStudioError(
                f"Label Studio does not answer at {self.url}: {error or type(error).__name__}.",
                certificate_trouble(error) or _START_LABEL_STUDIO,
            ) from error
        except (httpx.HTTPError, ValueError) as error:
            # Pydantic's message spans several lines and quotes the answer.
            reason = "its answer has an unexpected form" if isinstance(error, ValidationError) else error
            raise LabelStudioError(
                f"The server at {self.url} is not Label Studio: {reason}.", _START_LABEL_STUDIO
            ) from error


def token_kind(api_key: str) -> TokenKind:
    """The kind of a token; whatever is not a JSON Web Token can only be a legacy one."""
    import jwt

    if not api_key.strip():
        return "none"
    try:
        claims = jwt.decode(api_key, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return "legacy"
    return "access" if claims.get("token_type") == "access" else "personal access"


def _body(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text


def _worth_another_try(error: BaseException) -> bool:
    if isinstance(error, ApiError):
        status = error.status_code or 0
        # A long Retry-After is for the caller to wait out.
        return (status >= 500 or status == 429) and (retry_after_seconds(error.headers) or 0.0) <= LONGEST_WISH_SECONDS
    return isinstance(error, httpx.TransportError)
