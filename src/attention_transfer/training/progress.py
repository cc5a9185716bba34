"""What a person sees of a run: bars on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attention_transfer.errors import printable

Item = TypeVar("Item")


class Reporter:
    """Shows a run.

    Args:
        console: where; rich knows whether it is a terminal.
        silent: show nothing, as on all processes but the first.
        prefix: before every line, to tell runs apart.
    """

    def __init__(self, console: Console | None = None, *, silent: bool = False, prefix: str = "") -> None:
        self._console = console or Console(highlight=False)
        self._silent = silent
        self._prefix = prefix

    def line(self, text: str) -> None:
        """One line."""
        if not self._silent:
            self._console.print(printable(f"{self._prefix}{text}"), markup=False, soft_wrap=True)

    def steps(self, items: Iterable[Item], total: int, done: int, title: str) -> Iterator[Item]:
        """Go through the steps of an epoch, with a bar on a terminal."""
        if self._silent or not self._console.is_terminal:
            yield from items
            return
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
            if row.get(split):
                parts.append(f"{called(split, row[split])} {row[split]['top1']:.2f} %")
        if row.get("unaveraged", {}).get("test"):
            unaveraged = row["unaveraged"]["test"]
            parts.append(f"unaveraged {called('test', unaveraged)} {unaveraged['top1']:.2f} %")
        if row.get("neighbours"):
            parts.append(f"nearest neighbours {row['neighbours']['top1']:.2f} %")
        parts.append(f"{row['seconds']:.0f} s")
        self.line("  ".join(parts))


def called(split: str, measured: Mapping[str, Any]) -> str:
    """What the images of a split are called by their owner."""
    of = measured.get("images_of")
    return split if of is None else of if split == "test" else f"{split} of {of}"
