"""What a backend process does before it serves, so that no request has to wait for it."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

import pytest
from pydantic import SecretStr

from backend import composition
from backend.label_studio.api import LabelStudioApi
from backend.settings import Settings
from trajseg.errors import LabelStudioError


@pytest.mark.parametrize("token", ["", "0123456789abcdef0123456789abcdef01234567"])
def test_label_studios_sdk_is_loaded_at_the_start_if_there_is_a_token(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(composition, "load_sdk", lambda: done.append("loaded"))
    monkeypatch.setattr(gc, "freeze", lambda: done.append("frozen"))
    composition.settle(Settings(label_studio_api_key=SecretStr(token)))
    assert done == (["loaded"] if token else []) + ["frozen"]


def test_without_a_token_the_sdk_is_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_sdk", ModuleType("label_studio_sdk"))
    with pytest.raises(LabelStudioError, match="no Label Studio token"):
        LabelStudioApi("http://127.0.0.1:9", "")
