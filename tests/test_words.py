"""What the code and the pages say is said in the words of the field, which a user searches for."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import attention_transfer

SOURCE = Path(attention_transfer.__file__).parent
REPOSITORY = Path(__file__).parent.parent
FILES = sorted(SOURCE.rglob("*.py"))
# What commands print is generated from the code, and results keep what they printed.
PAGES = sorted([
    *REPOSITORY.glob("*.md"),
    *(page for page in (REPOSITORY / "docs").rglob("*.md") if "results" not in page.parts),
])

# The words of this project's beginnings, and the ones to use. Each has no innocent use.
WORDS = {
    r"class numbers?": "class indices",
    r"nobody (knows|said|says|tells)": "could not be determined; None if unknown",
    r"likewise": "the same words again, or one heading for both",
    r"sample passes": "samples seen",
    r"images learned from": "training images",
    r"so many times as long": "scaled by",
    r"networks? of convolutions": "convolutional network (CNN)",
    r"(network|module|parameter|teacher|student)s? that rests?": "frozen",
    r"unless told otherwise|is told|can be told (are|is)|says so: what": "option, argument, default",
    r"places? of (the |an |each |its )?images?|images?'s? places?": "dataset index",
    r"found by (itself|themselves)": "detected automatically",
    r"goe?s? by the place": "needs one dataset index per sample",
    r"leaves? nothing to match": "are mutually exclusive",
    r"training that never comes down": "the learning rate never decays",
}
PRIVATE = re.compile("|".join(rf"\b(?:{word})\b" for word in WORDS), re.IGNORECASE)


def strings_and_comments(path: Path) -> Iterator[str]:
    """Docstrings, other strings (of f-strings the literal parts) and comments of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    with path.open("rb") as file:
        yield from (token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT)


def private_words(texts: Iterator[str]) -> list[str]:
    """Private words in some texts, however these are broken into lines."""
    return [found[0] for text in texts for found in PRIVATE.finditer(re.sub(r"\s+", " ", text))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_the_code_speaks_the_words_of_the_field(path: Path) -> None:
    assert not private_words(strings_and_comments(path)), f"say instead: {WORDS}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_the_pages_speak_the_words_of_the_field(path: Path) -> None:
    assert not private_words(iter([path.read_text(encoding="utf-8")])), f"say instead: {WORDS}"


@pytest.mark.parametrize(
    "text",
    ["the class\nnumbers of all", "Likewise of one", "where nobody knows", "the place of an image", "10 sample passes"],
)
def test_private_words_are_seen(text: str) -> None:
    assert private_words(iter([text]))


def test_words_of_the_field_are_left_in_peace() -> None:
    text = "class indices of all classes; the dataset index; in place; samples seen; the rest of the images; told apart"
    assert not private_words(iter([text]))
