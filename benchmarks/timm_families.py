"""Which of timm's networks can be students, file by file: the table of docs/timm-families.md.

Builds the smallest network of every file of timm with random weights, on images as small as it takes; compares its
stages with the features that timm itself takes from it; and takes one step of attention transfer under a ResNet-18, and
one each of attention distillation and attention copy under a network like itself. Fails if anything but this package's
own refusals is raised.

    python benchmarks/timm_families.py > docs/timm-families.md
    python benchmarks/timm_families.py --resume rows.jsonl > docs/timm-families.md  (goes on where it was stopped)
    python benchmarks/timm_families.py pit twins                                    (some files alone)
"""

import argparse
import gc
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from attention_transfer import AttentionTransfer, Distiller
from attention_transfer.capture import Capture
from attention_transfer.errors import InputError
from attention_transfer.methods import AttentionCopy, AttentionDistillation, Method
from attention_transfer.models import describe, with_places
from attention_transfer.models.bounds import TooLargeError
from attention_transfer.models.meta_networks import outline

CLASSES = 10
SIDES = (128, 160, 192, 224)
# Beyond so many parameters, networks that can be built with fewer blocks are.
LARGE, FEW_BLOCKS = 60_000_000, 4


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        file: of timm.
        network: its smallest.
        side: of the images, in pixels; None where it runs on none.
        stages: how many, how they lie, and with how many tokens before the patches.
        features: how many of the stages are features that timm takes.
        transfer: what came of attention transfer.
        attention: what came of attention distillation and attention copy.
    """

    file: str
    network: str
    side: int | None
    stages: str = "–"
    features: str = "–"
    transfer: str = "–"
    attention: str = "–"

    def __str__(self) -> str:
        side = "does not run" if self.side is None else str(self.side)
        cells = (f"`{self.file}`", f"`{self.network}`", side, self.stages, self.features)
        return "| " + " | ".join((*cells, self.transfer, self.attention)) + " |"

    @property
    def broken(self) -> bool:
        """Whether something else than a refusal was raised."""
        return "**" in self.transfer + self.attention


def main() -> None:
    """Try every file, or those that are named, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*")
    parser.add_argument("--resume", type=Path, help="where rows are kept as they come; those in it are not made again")
    flags = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = _kept(flags.resume)
    if not flags.files:
        print(_INTRODUCTION)
    for file, (name, size) in smallest(flags.files).items():
        if file not in rows:
            rows[file] = examine(file, name, size)
            if flags.resume is not None:
                with flags.resume.open("a", encoding="utf-8") as kept:
                    kept.write(json.dumps(asdict(rows[file])) + "\n")
            gc.collect()
        print(rows[file], flush=True)
    if not flags.files:
        print(_summary([*rows.values()]))
    if any(row.broken for row in rows.values()):
        sys.exit(1)


def _kept(file: Path | None) -> dict[str, Row]:
    """Rows of a run that was stopped, by their files."""
    lines = [] if file is None or not file.exists() else file.read_text(encoding="utf-8").splitlines()
    return {row.file: row for row in (Row(**json.loads(line)) for line in lines)}


def smallest(files: Sequence[str] = ()) -> dict[str, tuple[str, int]]:
    """The classifier of every file of timm with the fewest parameters, and their number.

    Args:
        files: these alone; all where there are none.
    """
    found: dict[str, tuple[str, int]] = {}
    for name in timm.list_models():
        file = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
        if files and file not in files:
            continue
        try:
            network = outline(partial(timm.create_model, name, num_classes=CLASSES))
        except TooLargeError:
            # No file has nothing smaller.
            continue
        if getattr(network, "num_classes", CLASSES) != CLASSES:
            # It gives features alone.
            continue
        size = sum(parameter.numel() for parameter in network.parameters())
        if file not in found or size < found[file][1]:
            found[file] = name, size
    return dict(sorted(found.items()))


def examine(file: str, name: str, size: int) -> Row:
    """Everything about one network."""
    torch.manual_seed(0)
    side, settings = _runs(name, size)
    if side is None:
        return Row(file, name, None)

    def make(who: str = name) -> nn.Module:
        return timm.create_model(who, num_classes=CLASSES, **(settings if who == name else {}))

    model, image = make(), torch.randn(2, 3, side, side)
    stages, features = _features(model, image)
    return Row(
        file,
        name,
        side,
        stages,
        features,
        _step(make, "resnet18", AttentionTransfer(), image),
        _steps(make, name, (AttentionDistillation(), AttentionCopy()), image),
    )


def _runs(name: str, size: int) -> tuple[int | None, dict[str, Any]]:
    """The side of the smallest images that a network runs on, and the settings that it takes for them."""
    config = timm.get_pretrained_cfg(name)
    native = config.input_size[-1] if config is not None else 224
    fewer = {"depth": FEW_BLOCKS} if size > LARGE else {}
    for side in (*(each for each in SIDES if each < native), native):
        for settings in ({"img_size": side, **fewer}, {"img_size": side}, fewer, {}):
            try:
                model = timm.create_model(name, num_classes=CLASSES, **settings).train()
                with torch.no_grad():
                    model(torch.randn(2, 3, side, side))
            except Exception:
                # Whatever a constructor or a network objects to.
                continue
            return side, settings
    return None, {}


def _features(model: nn.Module, image: Tensor) -> tuple[str, str]:
    """Its stages in words, and how many of them are features that timm takes."""
    for parameter in model.parameters():
        # Layer scales of 1e-6 would hide every difference.
        if parameter.ndim == 1 and float(parameter.detach().abs().max()) < 1e-3:
            nn.init.normal_(parameter, std=0.1)
    taps = [stage.output for stage in with_places(describe(model.eval()), model, image).stages]
    if not taps:
        return "none", "–"
    lie = ", ".join(dict.fromkeys(f"{tap.layout}, {tap.prefix_tokens} before" for tap in taps))
    words = f"{len(taps)}: {lie.replace(', 0 before', '')}"
    capture = Capture(model, taps, "student")
    with torch.no_grad():
        try:
            reading = capture.run(image)
            taken = cast("Any", model).forward_intermediates(image, intermediates_only=True)
        except (InputError, AttributeError, TypeError):
            # It gives no logits, or timm takes no features from it.
            return words, "–"
    same = [any(_equal(reading.spatial(tap), feature) for feature in taken) for tap in taps]
    return words, f"{sum(same)} of {len(same)}"


def _equal(value: Tensor, feature: Any) -> bool:
    if not isinstance(feature, Tensor) or value.shape != feature.shape:
        return False
    return float((value - feature).abs().max()) <= 1e-4 * float(feature.abs().max())


def _steps(make: Callable[..., nn.Module], teacher: str, methods: Sequence[Method], image: Tensor) -> str:
    """What comes of one step with each method, once where it is the same."""
    found = {method.key: _step(make, teacher, method, image) for method in methods}
    same = len(set(found.values())) == 1
    return next(iter(found.values())) if same else "; ".join(f"{key}: {what}" for key, what in found.items())


def _step(make: Callable[..., nn.Module], teacher: str, method: Method, image: Tensor) -> str:
    """What comes of one step."""
    try:
        with warnings.catch_warnings():
            # Nothing here was ever trained.
            warnings.simplefilter("ignore")
            distiller = Distiller(make(), make(teacher), [method], example=image)
        out = distiller(image, torch.tensor([0, 1]))
        out.loss.backward()
        distiller.detach()
    except InputError as error:
        said, layers = str(error).replace("|", "/"), ""
        if "such as ('" in said:
            layers = f"; layers to name: {said.partition('such as (')[2].partition(')')[0].rstrip(',')}"
        return "refused: " + said.partition(": ")[0].partition(" (")[0][:200] + layers
    except Exception as error:
        return f"**{type(error).__name__}** {str(error)[:80]}".replace("\n", " ").replace("|", "/")
    return "yes" if bool(out.loss.isfinite()) else "**not finite**"


def _summary(rows: Sequence[Row]) -> str:
    run = [row for row in rows if row.side is not None]
    found = [row for row in run if row.stages not in ("none", "–")]
    return (
        f"\n{len(rows)} files, of which {len(run)} run; stages are found in {len(found)} of these. Without stages: "
        f"{', '.join(row.file for row in run if row not in found) or 'none'}.\n{_NOTES}"
    )


_INTRODUCTION = f"""# Networks of timm as students

Written by `benchmarks/timm_families.py` (torch {torch.__version__.partition("+")[0]}, timm {timm.__version__}): the
smallest network of every file of timm, with random weights, on images of so many pixels a side.

| file | network | pixels | stages | timm's features | attention transfer | attention methods |
| --- | --- | ---: | --- | --- | --- | --- |"""

_NOTES = """
- *Stages*: how many there are, how their values lie, and how many tokens come before those of the patches.
- *timm's features*: how many of the stages are, value by value, among what `forward_intermediates` takes. timm takes
  fewer of some networks (EfficientNets have 7 stages, of which it takes 5), or takes them behind a later layer; where
  it takes none, there is a dash.
- *Attention transfer*: one step under a ResNet-18. *Attention methods*: one step of attention distillation and one of
  attention copy under a network like itself.
- Networks that are refused say why when a distiller is built. Layers to name go to `student_layers` of attention
  transfer, and to `layers.student_modules` of the attention methods.
- Networks of more than 60 million parameters are built with four blocks where they can be.
"""

if __name__ == "__main__":
    main()
