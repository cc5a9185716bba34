"""The modules of attention links: compiled, and in a state dict."""

from pathlib import Path

import pytest
import torch
from tests.closeness import assert_near
from tests.compiling import compiled_whole
from tests.methods.test_attention_links import images, linked, links_of
from tests.trained import as_trained
from torch import Tensor

from attention_transfer import AttentionLinks, Distiller, build
from attention_transfer.methods.attention_links.extraction import extracted, trained_links
from attention_transfer.methods.attention_links.selection import LinkChoice, LinkGroup, links_to_json


def gradients(distiller: Distiller, compiled: bool) -> tuple[float, dict[str, Tensor]]:
    torch.compiler.reset()
    step = torch.compile(distiller, fullgraph=True, backend="aot_eager") if compiled else distiller
    distiller.zero_grad()
    loss = step(images()).loss
    loss.backward()
    # What nothing reaches has no gradient, or compiled one of zero.
    found = {name: p.grad.clone() for name, p in distiller.named_parameters() if p.grad is not None and p.grad.any()}
    return loss.item(), found


@pytest.mark.filterwarnings("ignore:the student learns in evaluation mode")
@compiled_whole
def test_a_step_compiles_in_one_graph_with_links_by_channel_too(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    groups = (LinkGroup((0, 2), (1, 4)), LinkGroup((1,), (0, 2, 3)))
    path.write_text(links_to_json(LinkChoice((groups, (), (LinkGroup((0,)),)), (16, 32, 64), (3, 3, 3)), {}))
    distiller = linked(AttentionLinks(links=str(path), weight=1.0)).eval()
    (plain, expected), (compiled, found) = (gradients(distiller, compiled) for compiled in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert found.keys() == expected.keys()
    assert sum(name.startswith("parts.") for name in found) == 6
    for name, gradient in expected.items():
        assert_near(found[name], gradient, steps=1024, msg=name)


def test_weights_of_other_links_are_refused_though_they_fit() -> None:
    learned = linked(AttentionLinks(links="1:1-2,3:3")).state_dict()
    same, others = linked(AttentionLinks(links="1:1-2,3:3")), linked(AttentionLinks(links="1:2-3,3:3"))
    same.load_state_dict(learned)
    assert {name: value.shape for name, value in others.state_dict().items()} == {
        name: value.shape for name, value in learned.items()
    }
    for links in ("1:2-3,3:3", "1:1-2,3:2-3", "full"):
        with pytest.raises(ValueError, match="other channels and layers than those that are chosen now"):
            linked(AttentionLinks(links=links)).load_state_dict(learned)


def test_links_of_some_stages_are_extracted_for_the_same_pair_and_no_other(tmp_path: Path) -> None:
    distiller = linked(AttentionLinks(links="1:1-3,2:1-2"))
    state = {f"attention-links.{name}": value for name, value in links_of(distiller).state_dict().items()}
    path = tmp_path / "links.json"
    path.write_text(links_to_json(extracted(trained_links(state), 0.0), {}))
    again = links_of(linked(AttentionLinks(links=str(path))))
    assert again.num_links == links_of(distiller).num_links
    with pytest.raises(ValueError, match=r"stage 1 is «input of layer1.0.relu2», and this one's is «input of l"):
        linked(AttentionLinks(links=str(path)), teacher=as_trained(build("resnet14", 3)))
    # Written before places were.
    del state["attention-links.places"]
    path.write_text(links_to_json(extracted(trained_links(state), 0.0), {}))
    linked(AttentionLinks(links=str(path)), teacher=as_trained(build("resnet14", 3)))


def test_weights_from_before_places_were_written_are_taken() -> None:
    first, second = linked(AttentionLinks()), linked(AttentionLinks())
    state = links_of(first).state_dict()
    del state["places"]
    links_of(second).load_state_dict(state)
    for one, other in zip(links_of(first).parameters(), links_of(second).parameters(), strict=True):
        assert torch.equal(one, other)
