"""Tables and figure of localisation scores and their rank correlation with accuracy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attention_transfer.report.settings_plot import Panel, scatter_figure
from attention_transfer.report.table import DASH, markdown_table

_CENTRE = "centre (no network)"
_EVEN = "even map (no network)"
_TITLES = {
    "energy": "energy in box",
    "pointing": "pointing",
    "box_accuracy_30": "MaxBoxAcc .3",
    "box_accuracy_50": ".5",
    "box_accuracy_70": ".7",
    "box_accuracy": "their mean",
    "box_accuracy_v2": "MaxBoxAccV2",
}
_DRAWN = {"energy": "energy in box", "pointing": "pointing", "box_accuracy": "mean MaxBoxAcc"}

_PROTOCOL = (
    "Energy: share of the map's mass inside the box, each cell's mass lying evenly over its area; an even map reaches "
    "the area of the box. Energy ÷ area is the ratio of the two means and ranks models as energy does.",
    "Pointing: the largest value of the map at the image's size lies in the box, tolerance 0; where several are "
    "largest, the share of them in the box.",
    "MaxBoxAcc: maps made as large as the image (bicubic) and stretched to their range, cut at 255 levels, which equal "
    "the 1,000 thresholds of the public evaluator; box around the largest region; share of images whose box overlaps "
    "the true one by at least .3, .5, .7, each at its best threshold. MaxBoxAccV2: the mean with the best of all "
    "regions instead of the largest. The thresholds are chosen on these images.",
    "p: two-sided, exact for up to 8 models; not corrected for several scores. Models that share data or "
    "initialisation are no independent draws.",
)


def localisation_markdown(content: Mapping[str, Any]) -> str:
    """Tables of scores and of rank correlations for each kind of map, with what they mean.

    Args:
        content: as `localise --json` prints it.
    """
    models = content["models"]
    lines: list[str] = []
    for kind, asked in content["maps"].items():
        names = [_TITLES[score] for score in _TITLES]
        header = [_heading(asked), "top-1", names[0], "area of box", "energy ÷ area", *names[1:]]
        rows = [_row(model["model"], f"{model['top1']:.2f}", model["scores"][kind]) for model in models]
        lines += [*markdown_table(header, [*rows, _row(_CENTRE, "", content["centre"])]), ""]
        related = content["correlations"][kind]
        header = ["top-1 against", "models", "Spearman's ρ", "p", "Kendall's τ-b", "p"]
        lines += [*markdown_table(header, [_related(score, related[score]) for score in related]), ""]
    first = models[0]
    known = f"the {first['boxes']:,} of them whose box is known" if first["boxes"] < first["images"] else "all of them"
    side = first["data"]["image_size"]
    notes = [
        f"Percent of {first['images']:,} test images of {first['data']['name']}, {side}×{side}; boxes: {known}.",
        *_PROTOCOL,
        *(
            f"{model['model']}: {model['scores'][kind]['flat']} {kind} maps are flat; they count as even ones and give "
            "no box."
            for model in models
            for kind in content["maps"]
            if model["scores"][kind]["flat"]
        ),
        *content["notes"],
    ]
    return "\n".join([*lines, *(f"- {note}" for note in notes)])


def localisation_figure(content: Mapping[str, Any], path: str | Path) -> None:
    """Draw accuracy against three of the scores, one row for each kind of map.

    Args:
        content: as `localise --json` prints it.
        path: where the picture goes; its suffix chooses the format.
    """
    models, centre = content["models"], content["centre"]
    rows: list[list[Panel]] = []
    for kind, asked in content["maps"].items():
        panels: list[Panel] = []
        for score, title in _DRAWN.items():
            related = content["correlations"][kind][score]
            strength = "" if related["spearman"] is None else f", ρ = {related['spearman']:.2f}"
            chance = {_CENTRE: centre[score]} | ({} if score == "box_accuracy" else {_EVEN: centre["area"]})
            panels.append(
                Panel(
                    title=f"{_heading(asked)}\n{title}{strength}",
                    label="%",
                    values=[model["scores"][kind][score] for model in models],
                    chance=chance,
                )
            )
        rows.append(panels)
    scatter_figure([model["model"] for model in models], [model["top1"] for model in models], rows, path)


def _heading(asked: Mapping[str, Any]) -> str:
    settings = [f"stage {asked['stage']}"] if "stage" in asked else []
    settings += [f"power {asked['power']:g}"] if "power" in asked else []
    settings += [f"{asked['class_of']} class"] if "class_of" in asked else []
    settings += [f"at {asked['layer']}"] if "layer" in asked else []
    return f"{asked['kind']} ({', '.join(settings)})" if settings else str(asked["kind"])


def _row(name: str, top1: str, scores: Mapping[str, Any]) -> list[str]:
    numbers = [f"{scores[score]:.2f}" for score in _TITLES]
    return [name, top1, numbers[0], f"{scores['area']:.2f}", f"{scores['energy_over_area']:.3f}", *numbers[1:]]


def _related(score: str, found: Mapping[str, Any]) -> list[str]:
    name = f"MaxBoxAcc {_TITLES[score]}" if _TITLES[score].startswith(".") else _DRAWN.get(score, _TITLES[score])
    if found["note"]:
        return [name, str(found["count"]), found["note"], *[DASH] * 3]
    numbers = ("spearman", "spearman_p", "kendall", "kendall_p")
    return [name, str(found["count"]), *(f"{found[number]:.3f}" for number in numbers)]
