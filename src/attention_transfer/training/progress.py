"""Progress of a run: bars on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attention_transfer.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")


class Reporter:
    """Shows a run.

    Args:
        console: where; None is standard output, through rich where it is installed, which knows whether that is a
            terminal, and as plain lines where it is not.
        silent: show nothing, as on all processes but the first.
        prefix: before every line, to tell runs apart.
    """

    def __init__(self, console: "Console | None" = None, *, silent: bool = False, prefix: str = "") -> None:
        self._console = None if silent else console or _standard_output()
        self._silent = silent
        self._prefix = prefix

    def line(self, text: str) -> None:
        """One line."""
        if self._silent:
            return
        line = printable(f"{self._prefix}{text}")
        if self._console is None:
            print(line, flush=True)
        else:
            self._console.print(line, markup=False, soft_wrap=True)

    def steps(self, items: Iterable[Item], total: int | None, done: int, title: str) -> Iterator[Item]:
        """Go through the steps of an epoch, with a bar on a terminal; `total` is None if unknown."""
        if self._console is None or not self._console.is_terminal:
            yield from items
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(f"{self._prefix}{title}", total=total, completed=done)
            for item in items:
                yield item
                bar.advance(task)

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """The line of a finished epoch."""
        parts = [f"epoch {row['epoch']}/{epochs}", f"lr {row['learning_rate']:.3g}"]
        parts += [f"{name} {term['raw']:.4g}×{term['weight']:g}" for name, term in row["terms"].items()]
        for split in ("train", "validation", "test", "unseen"):
            if "top1" in (row.get(split) or {}):
                parts.append(f"{called(split, row[split])} {row[split]['top1']:.2f} %")
        if "top1" in row.get("unaveraged", {}).get("test", {}):
            unaveraged = row["unaveraged"]["test"]
            parts.append(f"unaveraged {called('test', unaveraged)} {unaveraged['top1']:.2f} %")
        if row.get("neighbours"):
            parts.append(f"nearest neighbours {row['neighbours']['top1']:.2f} %")
        parts.append(f"{row['seconds']:.0f} s")
        self.line("  ".join(parts))


def _standard_output() -> "Console | None":
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False)


def called(split: str, measured: Mapping[str, Any]) -> str:
    """What the images of a split are called by their owner."""
    of = measured.get("images_of")
    return split if of is None else of if split == "test" else f"{split} of {of}"
