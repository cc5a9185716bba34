"""Pictures of graphs between images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_transfer.report.batch_graph import batch_graph_figure, strongest

GREY = np.full((4, 8, 8, 3), 128, dtype=np.uint8)
LABELS = np.array([0, 0, 1, 1])


def graph(*edges: tuple[int, int, float]) -> np.ndarray:
    """One head with a few shares; the rest stays with each image itself."""
    shares = np.zeros((4, 4))
    for start, end, share in edges:
        shares[start, end] = share
    return shares + np.diag(1 - shares.sum(1))


def test_the_strongest_edges_come_first_and_leave_out_the_image_itself() -> None:
    found = strongest(graph((0, 1, 0.2), (3, 2, 0.4), (1, 0, 0.3)), 3)
    assert found.tolist() == [[3, 2], [1, 0], [0, 1]]
    assert len(strongest(np.full((3, 3), 1 / 3), 100)) == 6


def written(picture: Path) -> list[str]:
    return [line.strip()[5:-4] for line in picture.read_text().splitlines() if line.strip().startswith("<!--")]


def test_every_graph_has_a_row_and_every_head_its_count_of_edges_within_a_class(tmp_path: Path) -> None:
    heads = np.stack([graph((0, 1, 0.5), (2, 3, 0.4)), graph((0, 2, 0.5), (2, 3, 0.4)), graph((0, 3, 0.5))])
    graphs = {"teacher": heads, "student": heads[::-1]}
    batch_graph_figure(GREY, LABELS, graphs, [0, 1], 2, tmp_path / "graph.svg")
    words = written(tmp_path / "graph.svg")
    assert [word for word in words if "head" not in word] == ["teacher", "student"]
    heads_of = [word for word in words if "head" in word]
    assert heads_of[:2] == ["head 1: 2 of 2 in class", "head 2: 1 of 2 in class"]
    assert len(heads_of) == 4


def colours(picture: Path) -> tuple[int, int]:
    """How many pixels are rather green, and rather red."""
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return int(((green > red + 60) & (green > blue + 20)).sum()), int(((red > green + 60) & (red > blue + 60)).sum())


def test_edges_within_a_class_are_green_and_others_red(tmp_path: Path) -> None:
    for name, edge in (("within", (0, 1, 0.9)), ("across", (0, 2, 0.9))):
        batch_graph_figure(GREY, LABELS, {"teacher": graph(edge)[None]}, [0], 1, tmp_path / f"{name}.png")
    assert colours(tmp_path / "within.png")[0] > 50
    assert colours(tmp_path / "within.png")[1] == 0
    assert colours(tmp_path / "across.png")[0] == 0
    assert colours(tmp_path / "across.png")[1] > 50


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"images": GREY[:1]}, "n at least 2"),
        ({"labels": LABELS[:2]}, "one label for each of 4 images"),
        ({"graphs": {}}, "a graph, a head and an edge"),
        ({"edges": 0}, "a graph, a head and an edge"),
        ({"graphs": {"teacher": np.ones((1, 3, 3))}}, r"must be \(heads, 4, 4\)"),
        ({"heads": [1]}, "has the heads 1 to 1; there is no head 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changed: dict[str, object], words: str, tmp_path: Path) -> None:
    given = {"images": GREY, "labels": LABELS, "graphs": {"teacher": graph()[None]}, "heads": [0], "edges": 1} | changed
    with pytest.raises(ValueError, match=words):
        batch_graph_figure(**given, path=tmp_path / "graph.png")  # pyright: ignore[reportArgumentType]
