"""The documentation: every link leads somewhere, and the README stays readable."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

from trajseg.checkpoints.catalogue import ENGINES
from trajseg.cli import main
from trajseg.engines.registry import engine_factory
from trajseg.engines.settings import SettingsFactory

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    files = [link.partition("#")[0] for link in links if not link.startswith(("http://", "https://", "#"))]
    missing = [link for link in files if link and not (page.parent / link).exists()]
    assert missing == []


def test_no_line_of_the_readme_is_longer_than_120_characters() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", ["docs/reliability.md", "SECURITY.md"])
def test_every_test_that_proves_a_sentence_is_there(page: str) -> None:
    """Files are given by path, or by name if that is unambiguous; a test follows its file or the previous test."""
    missing, file = [], Path()
    named = re.findall(r"`([\w/]*(?:\.py)?)(?:::(\w+))?`", (ROOT / page).read_text(encoding="utf-8"))
    for name, test in named:
        if name.endswith(".py") and "test_" in name:
            places = [ROOT / name] if "/" in name else sorted((ROOT / "tests").rglob(name))
            if len(places) != 1 or not places[0].is_file():
                missing.append(name)
                continue
            file = places[0]
        if test and f"def {test}(" not in file.read_text(encoding="utf-8"):
            missing.append(f"{file.name}::{test}")
    assert missing == []
    assert len(named) > 15


def test_every_page_is_reachable_from_an_index() -> None:
    indexed = "".join(
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in ("index.md", "decisions/README.md", "lab/README.md")
    )
    pages = [page for page in (ROOT / "docs").rglob("*.md") if page.name not in ("index.md", "README.md")]
    assert [page.name for page in pages if f"{page.name})" not in indexed] == []


def test_the_generated_pages_are_up_to_date() -> None:
    written = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))
    remedy = "run: python scripts/write_docs.py"
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == written["cli"](), remedy
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == written["api"](), remedy
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == written["documentation"](), remedy


@pytest.mark.parametrize("engine", ENGINES)
def test_the_pages_on_engines_have_every_engine_and_each_of_its_settings(engine: str) -> None:
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{engine}` \|", page, re.MULTILINE)
    factory = engine_factory(engine)
    assert isinstance(factory, SettingsFactory)
    names = {variable.removeprefix(f"TRAJSEG_{engine.upper()}_").lower() for variable in factory.variables}
    page += (ROOT / "docs" / "sam3-and-molmo2.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    assert names - {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set()


def commands_of(page: Path) -> list[str]:
    """The arguments of each `trajseg` command in a page's code blocks."""
    lines, fenced = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line)
    parts = re.split(r"\n|&&", "\n".join(lines).replace("\\\n", " "))
    found = (re.match(r"\s*(?:[A-Z_]+=\S+ )*trajseg (.*)", part) for part in parts)
    return [match[1] for match in found if match]


def check_command(words: list[str]) -> None:
    """Parses a command without running it. Raises click.UsageError."""
    command: click.Command = main
    context: click.Context | None = None
    name: str | None = "trajseg"
    while isinstance(command, click.Group):
        context = command.make_context(name, list(words), parent=context)
        words = [*context._protected_args, *context.args]
        if not words:
            return
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    command.make_context(name, words, parent=context)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "cli.md" and commands_of(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_command_of_a_page_can_be_typed_as_it_stands(page: Path) -> None:
    wrong = []
    for command in commands_of(page):
        words = shlex.split(command, comments=True)
        try:
            if "..." not in words:
                check_command(words)
        except click.exceptions.Exit:
            pass
        except click.UsageError as error:
            if "does not exist" not in error.message:
                wrong.append(f"{command}: {error.message}")
    assert wrong == []
