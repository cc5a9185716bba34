"""Runs the tiny form of every recipe and says which fail, or take longer than they should on two cores.

python benchmarks/recipes.py [NAME...] [--limit 10] [--threads 2]
"""

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from attention_transfer.experiment import Experiment
from attention_transfer.recipes import RECIPES
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter


@dataclass(frozen=True)
class Flags:
    """Run tiny forms of recipes.

    Args:
        names: recipes, or beginnings of their names; all if none is given.
        limit: seconds that one may take.
        clock: `wall` is the time that passes, `cpu` the time that cores work, for a machine that is busy otherwise.
        threads: of torch.
        device: where.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    limit: float = 10.0
    clock: Literal["wall", "cpu"] = "wall"
    threads: int = 2
    device: str = "cpu"


def main(flags: Flags) -> int:
    """Run and print; the exit code is 1 if any recipe failed or was slow."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[flags.clock]
    chosen = [name for name in RECIPES if not flags.names or name.startswith(flags.names)]
    if not chosen:
        raise ValueError(f"no recipe begins with {' or '.join(flags.names)}")
    bad: list[str] = []
    total = 0.0
    for name in chosen:
        started = clock()
        failure = run(RECIPES[name]().tiny(), flags)
        seconds = clock() - started
        total += seconds
        verdict = failure or ("slow" if seconds > flags.limit else "ok")
        if verdict != "ok":
            bad.append(name)
        print(f"{name:<52}{seconds:6.1f} s  {verdict}", flush=True)
    print(f"\n{len(chosen) - len(bad)} of {len(chosen)} recipes run within {flags.limit:g} s; {total:.0f} s in all")
    for name in bad:
        print(f"  not: {name}")
    return 1 if bad else 0


def run(experiment: Experiment, flags: Flags) -> str | None:
    """Train in a folder that is thrown away; what went wrong, if anything did."""
    training = replace(experiment.training, device=flags.device, threads=flags.threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            fit_experiment(replace(experiment, training=training), Path(folder) / "run", Reporter(silent=True))
        except Exception as error:  # every recipe is tried, whatever becomes of the ones before
            return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Flags, description=__doc__)))
