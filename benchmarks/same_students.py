"""Trains each kind of recipe in tiny form and says whether the students are those of another version, bit for bit.

python benchmarks/same_students.py record FILE    on the version to compare with
python benchmarks/same_students.py compare FILE   on the changed one: same machine, same libraries, same threads

Recipes are of one kind if their tiny forms differ by names of networks and lengths alone. Losses are compared too, so
that what is seen of a difference is where it begins.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from attention_transfer.experiment import Experiment
from attention_transfer.recipes import RECIPES
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter

# What goes by the clock, and not by what is learned.
_TIMES = ("seconds", "per_second")


@dataclass(frozen=True)
class Flags:
    """Train each kind of recipe in tiny form.

    Args:
        action: `record` writes what comes out, `compare` holds it against what was written.
        file: JSON: of each recipe the student's SHA-256 and the rows of its metrics.
        names: recipes, or beginnings of their names; one of each kind if none is given.
    """

    action: Annotated[Literal["record", "compare"], tyro.conf.Positional]
    file: Annotated[Path, tyro.conf.Positional]
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()


def main(flags: Flags) -> int:
    """Train, then write or compare; the exit code is 1 if anything differs or failed."""
    chosen = [name for name in RECIPES if name.startswith(flags.names)] if flags.names else list(one_of_each_kind())
    before: dict[str, Any] = json.loads(flags.file.read_text()) if flags.action == "compare" else {}
    found: dict[str, Any] = {}
    differing: list[str] = []
    for name in chosen:
        found[name] = trained(RECIPES[name]().tiny())
        same = flags.action == "record" or before.get(name) == found[name]
        if not same:
            differing.append(name)
        print(f"{name:<52}{'ok' if same else 'DIFFERS'}", flush=True)
    if flags.action == "record":
        flags.file.write_text(json.dumps(found, indent=1))
    print(
        f"{len(chosen) - len(differing)} of {len(chosen)} kinds of recipe" + (" recorded" if not before else " agree")
    )
    return 1 if differing else 0


def one_of_each_kind() -> Iterator[str]:
    """Names of recipes, the first of each kind."""
    seen: set[str] = set()
    for name, recipe in RECIPES.items():
        tiny = recipe().tiny()
        rates = {"learning_rate": 0.01, "weight_decay": 0.0, "warmup_epochs": 0.0, "min_learning_rate": 0.0}
        optimisation = replace(tiny.optimisation, steps=(), **rates)
        alike = replace(tiny, recipe="", student=family(tiny.student), teacher=None, optimisation=optimisation)
        kind = repr(replace(alike, methods=tuple(replace(method, weight=1.0) for method in tiny.methods)))
        if kind not in seen:
            seen.add(kind)
            yield name


def family(model: str) -> str:
    """Whose network it is: ours, timm's and so on; of a transformer also that it is one."""
    source = model.partition(":")[0] if ":" in model else "ours"
    return f"{source}{'-transformer' if 'vit' in model or 'deit' in model else ''}"


def trained(experiment: Experiment) -> dict[str, Any]:
    """What came of a training: the student's weights by their SHA-256, and every row of metrics without its times."""
    experiment = replace(experiment, training=replace(experiment.training, device="cpu", threads=1))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        fit_experiment(experiment, run, Reporter(silent=True))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        digest = hashlib.sha256((run / "student.safetensors").read_bytes()).hexdigest()
    timeless = [{key: value for key, value in row.items() if not key.endswith(_TIMES)} for row in rows]
    return {"student": digest, "metrics": timeless}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Flags, description=__doc__)))
