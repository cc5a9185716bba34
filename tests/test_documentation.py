"""The pages of the repository: what they link to and name is there, and what is there is named."""

import re
from pathlib import Path

import pytest

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
