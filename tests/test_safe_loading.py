"""Only tensors are unpickled from files; every place that could load more is checked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for folder in ("trajseg", "backend", "worker", "label_config", "scripts", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)  # fmt: skip
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
ONLY_ERRORS = {"trajseg/model/weights.py"}
"""Imports pickle to catch what torch raises when it refuses a file."""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(one.value) for one in call.keywords if one.arg == name), None)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_loaded_cannot_run_code(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for called, call in calls(path):
        if called == "torch.load":
            assert keyword(call, "weights_only") is True, f"{name}:{call.lineno}"
        if called in ("np.load", "numpy.load"):
            assert keyword(call, "allow_pickle") in (None, False), f"{name}:{call.lineno}"
        if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            assert "Safe" in ast.unparse(call), f"{name}:{call.lineno}"
        if called.endswith((".extractall", ".unpack_archive")):
            assert keyword(call, "filter") == "data", f"{name}:{call.lineno}"
        assert called not in ("eval", "exec", "os.system", "builtins.eval"), f"{name}:{call.lineno}"
        assert keyword(call, "shell") is not True if _literal(call, "shell") else True, f"{name}:{call.lineno}"
        if _literal(call, "trust_remote_code"):
            assert keyword(call, "trust_remote_code") is False, f"{name}:{call.lineno}"


def _literal(call: ast.Call, name: str) -> bool:
    return any(one.arg == name and isinstance(one.value, ast.Constant) for one in call.keywords)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_that_unpickles_is_imported(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    name = str(path.relative_to(ROOT))
    found = imported & FORBIDDEN_MODULES
    if name in ONLY_ERRORS:
        used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert {text for text in used if text.startswith("pickle.")} == {"pickle.UnpicklingError"}
    else:
        assert found == set(), name


def test_the_check_finds_what_it_looks_for() -> None:
    loads = [call for path in SOURCES for called, call in calls(path) if called == "torch.load"]
    assert len(loads) >= 4
