"""GCN-LSTM's graph against Yao et al.'s equations, edge by edge."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from capdist.config.base import ConfigError
from capdist.models.base import Dims, build
from capdist.models.gcn_lstm import GcnLstm, Graph, semantic_relations, spatial_relations
from tests.support.equations import roughened
from tests.support.models import DIMS, make_batch, size_in_millions, small


def test_size_at_the_papers_settings() -> None:
    count = size_in_millions({"name": "gcn_lstm"})
    assert round(count, 1) == 53.1


#: A box, and boxes with the label of the edge to them.
BOX = (0.4, 0.4, 0.6, 0.6)
TOWARDS = {
    "a box around it": ((0.3, 0.3, 0.7, 0.7), 1),
    "itself again": (BOX, 1),
    "a box in it": ((0.45, 0.45, 0.5, 0.5), 2),
    "a box that shares half": ((0.45, 0.4, 0.65, 0.6), 3),
    "right and a little below": ((0.8, 0.45, 0.9, 0.65), 4),
    "below and a little right": ((0.45, 0.8, 0.65, 0.9), 5),
    "below and a little left": ((0.35, 0.8, 0.55, 0.9), 6),
    "left and a little below": ((0.1, 0.45, 0.2, 0.65), 7),
    "left and a little above": ((0.1, 0.35, 0.2, 0.55), 8),
    "above and a little left": ((0.35, 0.1, 0.55, 0.2), 9),
    "above and a little right": ((0.45, 0.1, 0.65, 0.2), 10),
    "right and a little above": ((0.8, 0.35, 0.9, 0.55), 11),
}


@pytest.mark.parametrize("where", TOWARDS)
def test_the_label_of_an_edge(where: str) -> None:
    other, label = TOWARDS[where]
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = spatial_relations(torch.tensor([[BOX, other]]), mask)[0]
    assert found[0, 1] == label
    assert found.diagonal().tolist() == [0, 0]
    assert found[1, 0] == {1: 2, 2: 1, 3: 3}.get(label, 4 + (label - 4 + 4) % 8) or other == BOX


def test_far_boxes_and_padding_have_no_edge() -> None:
    boxes = torch.tensor([[(0.0, 0.0, 0.1, 0.1), (0.9, 0.9, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)]])
    mask = torch.tensor([[True, True, False]])
    assert not spatial_relations(boxes, mask).any()


def mixed(m: Graph, v: list[Tensor], labels: Tensor) -> list[Tensor]:
    """Eq. 4 and 5, edge by edge."""
    rows = []
    for i in range(len(v)):
        total = torch.zeros_like(v[i])
        edges = [(m.itself, i, 0)]
        for j in range(len(v)):
            edges += [(m.out, j, int(labels[i, j]))] if labels[i, j] else []
            edges += [(m.into, j, int(labels[j, i]))] if labels[j, i] else []
        for part, j, label in edges:
            score = part.gate.weight[0] @ v[j] + part.gate_bias[label]
            message = part.project.weight @ v[j] + part.bias[label]
            total = total + message / (1 + math.exp(-float(score)))
        rows.append(total.clamp(min=0))
    return rows


def test_semantic_labels_are_the_predicates() -> None:
    labels = semantic_relations(make_batch().relations, 5)
    edges = {(0, 0, 1): 2, (0, 1, 0): 4, (0, 4, 2): 1, (2, 2, 0): 3}
    expected = torch.zeros(3, 5, 5, dtype=torch.long)
    for place, predicate in edges.items():
        expected[place] = predicate
    assert torch.equal(labels, expected)


def test_a_semantic_graph_needs_predicates() -> None:
    with pytest.raises(ConfigError, match="the shards have no predicates"):
        build({"name": "gcn_lstm", "graph": "semantic"}, Dims(7, 23))


@pytest.mark.parametrize("graph", ["spatial", "semantic"])
def test_mixed_regions_equal_the_papers_equations(graph: str) -> None:
    model = build(small("gcn_lstm", regions=12, graph=graph), DIMS).eval()
    assert isinstance(model, GcnLstm)
    roughened(model)
    batch = make_batch()
    boxes = torch.cat([0.7 * batch.boxes[..., :2], 0.7 * batch.boxes[..., :2] + 0.3], -1)
    if graph == "spatial":
        labels = spatial_relations(boxes, batch.region_mask)
    else:
        labels = semantic_relations(batch.relations, boxes.shape[1])
    assert len(labels.unique()) > 4
    regions = torch.randn(*batch.region_mask.shape, 12)
    with torch.inference_mode():
        found = model.graph(regions, labels)
        for image, count in enumerate(batch.region_mask.sum(1).tolist()):
            expected = mixed(model.graph, list(regions[image, :count]), labels[image])
            torch.testing.assert_close(
                found[image, :count], torch.stack(expected), rtol=1e-4, atol=1e-4
            )
