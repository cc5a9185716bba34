"""The pages of the repository: what they link to and name is there, and what is there is named."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import attention_transfer

REPOSITORY = Path(__file__).parent.parent
SOURCE = Path(attention_transfer.__file__).parent
PAGES = sorted([
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").rglob("*.md"),
    *(REPOSITORY / "examples").rglob("*.md"),
])
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"


def without_code(text: str) -> str:
    """A page without its blocks and spans of code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def targets(text: str) -> list[str]:
    """Where the links and pictures of a page lead, those to other sites left out."""
    found = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", without_code(text))
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", without_code(text), flags=re.MULTILINE)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Names of a page's headings, as hosting sites make them."""
    titles = re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong: list[str] = []
    for target in targets(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (
            anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8"))
        ):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_to_files_and_headings(page: Path):
    assert not broken(page)


def test_broken_links_are_found(tmp_path: Path):
    (tmp_path / "there.md").write_text("# A `title`, of two\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) ![b](gone.png) [c](there.md#a-title-of-two) [d](there.md#another) [e](https://example.org)\n"
        "`[f](code.md)` [g](#page)\n\n```\n[h](block.md)\n```\n[i]: away.md\n# Page\n"
    )
    assert broken(page) == ["gone.png", "there.md#another", "away.md"]


def rooms() -> set[str]:
    """Folders and top-level modules of the package, as the page writes them."""
    folders = {path.parent for path in SOURCE.rglob("*.py")} - {SOURCE}
    modules = {path.name for path in SOURCE.glob("*.py")} - {"__init__.py"}
    return {f"{path.relative_to(SOURCE).as_posix()}/" for path in folders} | modules


def test_the_architecture_has_a_line_for_every_room_and_for_no_other():
    lines = re.findall(r"^\| `([\w/.]+)` \|", ARCHITECTURE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = [line for line in lines if line.endswith(("/", ".py"))]
    assert sorted(named) == sorted(rooms())


def test_the_architecture_names_files_that_exist():
    named = set(re.findall(r"`([a-z_][\w/.]*(?:\.py|/))`", ARCHITECTURE.read_text(encoding="utf-8")))
    assert {"capture/hooks.py", "tests/test_architecture.py"} <= named
    outside = {name for name in named if not (SOURCE / name).exists() and not (REPOSITORY / name).exists()}
    # A name without a folder is that of any file; in capitals are names that are yet to be chosen.
    assert not {name for name in outside if not re.search("NAME|FAMILY", name) and not [*SOURCE.rglob(name)]}


def test_the_index_leads_to_every_page():
    index = REPOSITORY / "docs" / "index.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve() for target in targets(index.read_text(encoding="utf-8"))
    }
    pages = {*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "examples").rglob("*.md")}
    assert not {page.relative_to(REPOSITORY) for page in pages - linked - {index}}


@pytest.mark.more
def test_the_documentation_builds_without_a_warning_and_has_every_public_name(tmp_path: Path):
    pytest.importorskip("sphinx", reason="needs the extra `docs`")
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "-c", "docs", ".", str(tmp_path)]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "docs" / "reference").glob("*.html"))
    described = set(re.findall(r'id="attention_transfer\.(\w+)"', pages))
    assert described == set(dir(attention_transfer)) - {"METHODS", "MODELS"}
    assert {path.stem for path in (REPOSITORY / "docs").glob("*.md")} <= {
        path.stem for path in (tmp_path / "docs").glob("*.html")
    }


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert (citation["title"], citation["version"]) == (project["name"], project["version"])
    assert citation["license"] == project["license"]


# ---------------------------------------------------------------- CONTRIBUTING.md

CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKED = [SOURCE / "methods" / name for name in ("similarity_preserving.py", "registry.py")]


def test_the_walk_through_a_method_quotes_it_as_it_is():
    blocks = re.findall(r"^```python\n(.*?)^```", CONTRIBUTING, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) > 3
    walked = "".join(path.read_text(encoding="utf-8") for path in WALKED)
    assert not [block for block in blocks if block not in walked]


def test_the_walk_through_a_method_names_files_that_exist():
    named = re.findall(r"`((?:src|tests|docs|examples)/[\w/]+\.\w+)`", CONTRIBUTING)
    assert len(named) > 3
    assert not [name for name in named if not (REPOSITORY / name).exists()]
    inside = re.findall(r"`((?:methods|runs)/[\w/]+\.py|settings\.py)`", CONTRIBUTING)
    assert len(inside) > 3
    assert not [name for name in inside if not (SOURCE / name).exists()]


def commands() -> list[list[str]]:
    """What the page says to type, but for `make`, of which tests/test_setup.py and .ci/run know."""
    lines = re.findall(r"^\$ (.*)$", CONTRIBUTING, flags=re.MULTILINE)
    typed = [shlex.split(line, comments=True) for line in lines]
    # The index is written into the package; tests/commands/ hold it to the code.
    return [words for words in typed if words[0] != "make" and "attention_transfer.commands.index" not in words]


@pytest.mark.more
@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_commands_of_the_walk_run(command: list[str], tmp_path: Path):
    program, *arguments = command
    module = {".venv/bin/python": [], ".venv/bin/attention-transfer": ["-m", "attention_transfer.cli"]}[program]
    # Tests are found from the repository; runs are written elsewhere.
    folder = tmp_path if module else REPOSITORY
    # Where examples are found, and a package that is not installed.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE.parent), str(REPOSITORY)])}
    done = subprocess.run(
        [sys.executable, *module, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no tests ran" not in done.stdout


def test_make_targets_that_pages_name_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    there = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
        assert named <= there, page.name
