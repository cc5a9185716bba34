"""Read-only interface of a run, in a folder of its own or on a line of a table of runs.

What reads runs need not know where they are:

>>> def best(run: RecordedRun) -> float:
...     return max(row["test"]["top1"] for row in run.read_metrics())
"""

from pathlib import Path
from typing import Protocol

from attention_transfer.files.json_fields import Json


class RecordedRun(Protocol):
    """A run as reports and commands read it."""

    @property
    def path(self) -> Path:
        """The run folder; of a run in a table, where its folder would be: below the table's folder, under its name."""
        ...

    @property
    def experiment(self) -> Json:
        """The experiment that determines the run, as JSON."""
        ...

    @property
    def environment(self) -> Json | None:
        """Versions, hardware and command of its starts."""
        ...

    @property
    def summary(self) -> Json | None:
        """Results of a finished run; None if it is not finished."""
        ...

    @property
    def finished(self) -> bool:
        """Whether training reached its end."""
        ...

    def read_metrics(self) -> list[Json]:
        """Metrics by epoch, oldest first."""
        ...

    def read_findings(self) -> dict[str, Json]:
        """What analyses found and kept as JSON, by name."""
        ...


def same_run(first: RecordedRun, second: RecordedRun) -> bool:
    """Whether two records hold the same of one run."""
    return (
        first.experiment == second.experiment
        and first.environment == second.environment
        and first.summary == second.summary
        and first.read_metrics() == second.read_metrics()
        and first.read_findings() == second.read_findings()
    )
