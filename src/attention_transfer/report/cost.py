"""Table of the cost of networks: parameters, FLOPs, latency, throughput and memory."""

from collections.abc import Callable, Mapping
from typing import Any

from attention_transfer.report.table import markdown_table

_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "image_size": ("image", lambda side: f"{side}×{side}"),
    "parameters": ("parameters", lambda count: f"{count:,}"),
    "multiply_adds": ("multiply-adds", lambda count: _scaled(count, "")),
    "flops": ("FLOPs", lambda count: _scaled(count, "")),
    "latency_seconds": ("latency, 1 image", lambda seconds: f"{1e3 * seconds:.2f} ms"),
    "images_per_second": ("images per second, batch of {batch_size}", lambda rate: f"{rate:,.1f}"),
    "inference_bytes": ("memory, inference", lambda count: _scaled(count, "B")),
    "training_bytes": ("memory, training step", lambda count: _scaled(count, "B")),
    "file_bytes": ("weights on disk", lambda count: _scaled(count, "B")),
}
_COMPARED = [name for name in _COLUMNS if name not in ("image_size", "flops")]


def cost_markdown(content: Mapping[str, Any]) -> str:
    """A table of numbers, one of ratios to the first model if there are several, and how everything was measured.

    Args:
        content: as `cost --json` prints it.
    """
    models = content["models"]
    titles = {name: title.format(**content) for name, (title, _) in _COLUMNS.items()}
    rows = [[model["name"], *(show(model[name]) for name, (_, show) in _COLUMNS.items())] for model in models]
    lines = [*markdown_table(["", *titles.values()], rows), ""]
    if len(models) > 1:
        first = models[0]
        ratios = [[model["name"], *(f"{model[name] / first[name]:.3g}" for name in _COMPARED)] for model in models]
        lines += [*markdown_table([f"÷ {first['name']}", *(titles[name] for name in _COMPARED)], ratios), ""]
    return "\n".join([*lines, *(f"- {note}" for note in (*_methodology(content), *content["notes"]))])


def _methodology(content: Mapping[str, Any]) -> list[str]:
    hardware = content["hardware"]
    accelerated = hardware["device"] != "cpu"
    memory = (
        "what torch's allocator held at most, without other models"
        if accelerated
        else "live tensors, each storage once; scratch memory inside kernels is not seen"
    )
    return [
        "Multiply-adds of convolutions, linear layers and attention in one forward pass of one image; FLOPs are twice "
        "as many. Many papers call multiply-adds FLOPs.",
        f"Times: medians of {content['repeats']} rounds after 2 that do not count; the models take turns in one "
        "process, on noise, in float32, without autograd, in evaluation mode, with denormals flushed; convolutional "
        "networks in channels_last.",
        f"Memory: most bytes at once ({memory}) for a batch of {content['batch_size']}, weights and images included; "
        "a training step is forward, cross-entropy, backward and SGD with momentum, from its second step on.",
        f"Hardware: {hardware['processor']}, threads: {hardware['threads']}, device: {hardware['device']}; torch "
        f"{content['torch']}.",
    ]


def _scaled(count: float, unit: str) -> str:
    """A large number with three digits and a decimal prefix."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {prefix}{unit}"
    return f"{count:,} {unit}".rstrip()
