"""How the documentation is built: `make docs`, from every page of the repository and the docstrings of the package."""

import importlib
import inspect
import sys
from dataclasses import is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import inspect as inspection
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import attention_transfer
from attention_transfer.capture import Provider

project = "attention-transfer"
author = copyright = "the attention-transfer contributors"
release = metadata.version(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
# The source is the whole repository, so that links between its pages are those that hosting sites follow.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "examples/*.md"]
exclude_patterns = [".*", "build", "dist", "src", "tests", "benchmarks", "runs", "quickstart", "docs/results/runs"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
myst_heading_anchors = 4
# Pages keep the headings that hosting sites show, and some begin below the first level.
suppress_warnings = ["myst.header"]

# Docstrings write code between single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
nitpick_ignore_regex = [
    # What other libraries document is not linked, since nothing is fetched while building; nor is what is not public.
    (r"py:.*", r"(?!attention_transfer\.).*|attention_transfer\.\w+\.\w+\..*"),
    # Folders have no page; tests/test_documentation.py knows whether they are there.
    (r"myst", r"runs(/.*)?"),
]


# Headings of the side bar, and the pages below each. A page that nothing matches stops the building.
CONTENTS = {
    "Using it": [
        "/README",
        "/docs/any-task",
        "/docs/tasks-and-methods",
        "/docs/loops",
        "/docs/recipes",
        "/docs/training",
        "/docs/data",
        "/docs/pretraining",
        "/docs/*-families",
        "/examples/README",
    ],
    "Methods": ["/docs/methods/*"],
    "API reference": [
        "/docs/reference/distiller",
        "/docs/reference/training",
        "/docs/reference/methods",
        "/docs/reference/*",
    ],
    "Results": ["/docs/results/README", "/docs/results/*"],
    "Project": ["/CONTRIBUTING", "/docs/architecture", "/SECURITY", "/CHANGELOG"],
}


class NamesOf(SphinxDirective):
    """What a module hands on, documented under its name there: ``{names-of} attention_transfer``.

    With ``:rooms:`` what these rooms define; with ``:methods:`` the methods among it alone, in short, and without it
    everything else.
    """

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"rooms": str.split, "methods": directives.flag}

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        rooms = self.options.get("rooms", [])
        lines: list[str] = []
        for name in sorted(set(dir(module))):
            value = getattr(module, name)
            home = getattr(value, "__module__", "").split(".")
            is_method = inspect.isclass(value) and value in attention_transfer.METHODS.values()
            if home[0] != attention_transfer.__name__ or home[1] not in rooms:
                continue
            if inspect.isclass(value) and issubclass(value, Provider):
                continue
            if is_method == ("methods" in self.options):
                members = [] if is_method else ["   :members:"]
                lines += ["```{eval-rst}", *_directive(f"{module.__name__}.{name}", value, members), "```", ""]
        if not lines:
            raise self.error(f"{module.__name__} hands nothing on of {rooms}")
        return self.parse_text_to_nodes(StringList(lines, self.get_source_info()[0]))


class Providers(SphinxDirective):
    """Everything that a method can ask a network to provide, wherever it is defined."""

    def run(self) -> list[nodes.Node]:
        _ = attention_transfer.METHODS  # their files import what they ask for
        kinds = [Provider, *sorted(Provider.__subclasses__(), key=lambda kind: kind.__name__)]
        names = [f"{attention_transfer.__name__}.{kind.__name__}" for kind in kinds]
        lines = ["```{eval-rst}", f".. autoclass:: {names[0]}", "   :members:", ""]
        lines += [line for name in names[1:] for line in (f".. autoclass:: {name}", "")]
        lines += ["```"]
        return self.parse_text_to_nodes(StringList(lines, self.get_source_info()[0]))


def _directive(name: str, value: object, members: list[str]) -> list[str]:
    if not inspect.isclass(value):
        return [f".. autofunction:: {name}"]
    kind = "exception" if issubclass(value, BaseException) else "class"
    return [f".. auto{kind}:: {name}", *members]


def _with_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """The side bar's contents, at the end of the index: there, and not in its file, which is read as it is, too."""
    if page != root_doc:
        return
    for caption, pages in CONTENTS.items():
        source[0] += "\n".join([
            "",
            "```{toctree}",
            ":hidden:",
            ":glob:",
            f":caption: {caption}",
            "",
            *pages,
            "```",
            "",
        ])


def _settings(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Of dataclasses that look at names themselves, the signature that they mean."""
    if what == "class" and is_dataclass(value):
        meant = inspection.signature(value.__init__, bound_method=True)
        signature = inspection.stringify_signature(meant, show_return_annotation=False, unqualified_typehints=True)
    return signature, returned


def _sentences(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Of properties, the docstring as it is: napoleon takes what stands before a colon for a type."""
    if what == "property" and any(line.startswith(":type:") for line in lines):
        lines[:] = [*inspect.cleandoc(value.__doc__ or "").splitlines(), ""]


def setup(app: Sphinx) -> None:
    app.add_directive("names-of", NamesOf)
    app.add_directive("providers", Providers)
    app.connect("source-read", _with_contents)
    app.connect("autodoc-process-signature", _settings)
    app.connect("autodoc-process-docstring", _sentences, priority=900)  # after napoleon
