"""`links RUN...`: the attention links that runs learned, drawn, and extracted for a second run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import tyro
from jaxtyping import Bool

from attention_transfer.analysis.attention_links import links_along_training, links_of_run
from attention_transfer.commands.data_of_runs import titles
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.errors import InputError, printable
from attention_transfer.files.env_paths import expand
from attention_transfer.methods.attention_links.extraction import (
    PAPERS_THRESHOLD,
    NothingLeftError,
    TrainedLinks,
    count_links,
    extracted,
    threshold_that_keeps,
)
from attention_transfer.methods.attention_links.selection import LinkChoice, links_to_json
from attention_transfer.report.link_maps import link_maps_figure, link_table
from attention_transfer.report.plots import check_picture
from attention_transfer.runs import RunFolder, make_folder, write_whole


@dataclass(frozen=True)
class Flags:
    """Which stages of a convolutional teacher are linked to which layers of a transformer; extract those that matter.

    For runs of attention-links. Numbers are mean magnitudes |w|. Of one run, Algorithm 1 of the paper says which links
    are worth keeping (bold in the table, framed in the picture); --out writes them for --attention-links.links FILE.
    Where the paper's threshold leaves none and nothing else was asked for, the run is shown without.

    Args:
        runs: run folders; several are drawn beside each other.
        threshold: of the extraction, a share of the range of all weights; by default the paper's 0.05.
        keep: share of the pairs of a stage (or channel) and a layer that are kept, instead of a threshold; the paper's
            α is 0.35.
        per: whether whole stages keep or lose a layer, or every channel by itself.
        signed: bring weights as they are to 0…1, not their magnitudes; a threshold of 0.05 then keeps almost all.
        out: where the links that are kept go.
        along_training: draw one run at each of its snapshots and at its end (train with --snapshot-epochs).
        figure: where the picture goes; its suffix chooses the format.
        name: of the method in the run; the second of its kind is attention-links2.
        json: print the result as JSON.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    threshold: float | None = None
    keep: float | None = None
    per: Literal["stage", "channel"] = "stage"
    signed: bool = False
    out: Path | None = None
    along_training: bool = False
    figure: Path | None = None
    name: str = "attention-links"
    json: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `links`."""
    flags = parsed(Flags, "links", arguments, Flags(runs=cast("tuple[str, ...]", tyro.MISSING)))
    _check(flags)
    runs = list(dict.fromkeys(flags.runs))
    folders = [RunFolder(expand(run)) for run in runs]
    if len(flags.runs) > 1:
        _show_several(runs, folders, flags)
    else:
        _show_one(runs[0], folders[0], flags)


def _extracts(flags: Flags) -> bool:
    """Whether anything was said of an extraction."""
    asked_for = flags.threshold is not None or flags.keep is not None or flags.out is not None
    return asked_for or flags.signed or flags.per != "stage"


def _check(flags: Flags) -> None:
    if not flags.runs:
        raise InputError("give a run folder of attention-links, or several to see them beside each other")
    check_picture(flags.figure)
    if len(flags.runs) > 1 and (_extracts(flags) or flags.along_training):
        raise InputError(
            "--threshold, --keep, --per, --signed, --out and --along-training are about one run: give one run folder"
        )
    if flags.along_training and flags.figure is None:
        raise InputError("--along-training draws: give --figure FILE")
    if flags.threshold is not None and flags.keep is not None:
        raise InputError("--keep finds the threshold that keeps as many links: give it or --threshold, not both")


def _show_several(runs: list[str], folders: list[RunFolder], flags: Flags) -> None:
    read = [links_of_run(folder, flags.name) for folder in folders]
    found = dict(zip(titles(runs), read, strict=True))
    content = {"runs": [_row(run, links) for run, links in zip(runs, read, strict=True)]}
    texts = [f"{name}\n\n{link_table(links.magnitudes())}\n" for name, links in found.items()]
    print(json.dumps(content, indent=2) if flags.json else printable("\n".join(texts)))
    _draw(found, flags)


def _show_one(run: str, folder: RunFolder, flags: Flags) -> None:
    links = links_of_run(folder, flags.name)
    threshold = PAPERS_THRESHOLD if flags.threshold is None else flags.threshold
    if flags.keep is not None:
        threshold = threshold_that_keeps(flags.keep, links, flags.per, signed=flags.signed)
    try:
        choice = extracted(links, threshold, flags.per, signed=flags.signed)
    except NothingLeftError as error:
        if _extracts(flags):
            raise
        # Nobody asked for an extraction: the run is shown.
        found = _row(run, links) | {"kept": None, "why": str(error)}
        table = f"{link_table(links.magnitudes())}\n\nnothing is extracted: {error}"
        print(json.dumps(found, indent=2) if flags.json else printable(table))
        _draw_one(run, folder, links, flags)
        return
    kept = _kept(choice, links)
    left, whole = count_links(choice, links.channels, links.heads), sum(each.weight.size for each in links.groups)
    how: dict[str, Any] = {"threshold": threshold, "per": flags.per, "signed": flags.signed}
    how |= {} if flags.keep is None else {"keep": flags.keep}
    content = _row(run, links) | how | {"kept": kept.tolist(), "links": whole, "links_kept": left}
    sign = "-signed" if flags.signed else ""
    asked = f"{threshold:g}" if flags.keep is None else f"keep-{flags.keep:g}"
    folder.write_finding(f"{flags.name}-{asked}-per-{flags.per}{sign}", content)
    if flags.out is not None:
        make_folder(flags.out.parent)
        write_whole(flags.out, links_to_json(choice, how).encode())
    if flags.json:
        print(json.dumps(content, indent=2))
    else:
        pairs = int((~np.isnan(links.magnitudes())).sum())
        print(link_table(links.magnitudes(), kept))
        print(
            f"\na threshold of {threshold:.6g} per {flags.per} keeps {left:,} of {whole:,} links, "
            f"{int(kept.sum())} of {pairs} pairs of a stage and a layer"
        )
        if flags.out is not None:
            print(f"links: {flags.out}   (train with --attention-links.links {flags.out})")
    _draw_one(run, folder, links, flags, kept)


def _draw_one(
    run: str, folder: RunFolder, links: TrainedLinks, flags: Flags, kept: Bool[np.ndarray, "s l"] | None = None
) -> None:
    if flags.along_training:
        _draw(links_along_training(folder, flags.name), flags)
    else:
        _draw(dict(zip(titles([run]), [links], strict=True)), flags, kept)


def _draw(found: dict[str, TrainedLinks], flags: Flags, kept: Bool[np.ndarray, "s l"] | None = None) -> None:
    if flags.figure is None:
        return
    link_maps_figure({title: links.magnitudes() for title, links in found.items()}, flags.figure, kept)
    if not flags.json:
        print(f"picture: {flags.figure}")


def _kept(choice: LinkChoice, links: TrainedLinks) -> Bool[np.ndarray, "s l"]:
    """Whether any channel of a stage keeps its links to a layer."""
    kept: Bool[np.ndarray, "s l"] = np.zeros((len(links.channels), len(links.heads)), dtype=bool)
    for stage, groups in enumerate(choice.stages):
        for group in groups:
            kept[stage, list(group.layers)] = True
    return kept


def _row(run: str, links: TrainedLinks) -> dict[str, Any]:
    magnitudes = [[None if np.isnan(value) else float(value) for value in row] for row in links.magnitudes()]
    return {"run": run, "channels": list(links.channels), "heads": list(links.heads), "magnitudes": magnitudes}
