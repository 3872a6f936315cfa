"""Tests with a pretended GPU: the networks that see faces run on it whole, and what they find comes back."""

from __future__ import annotations

import pytest
import torch
from gpu import pretended

from avatarctl.faces.graph import Graph
from avatarctl.faces.identity import _ResNet


@pytest.mark.parametrize(("name", "side"), [("face_detection_back", 256), ("face_landmark", 192)])
def test_boxes_and_points(name: str, side: int) -> None:
    network = Graph(name)  # mapped files can't be pretended: weights are moved below
    with pretended():
        network._weights = {key: weight.to("cuda") for key, weight in network._weights.items()}
        network.device = torch.device("cuda")
        found = network(torch.zeros(2, 3, side, side))
        assert {out.device.type for out in found.values()} == {"cpu"}


def test_a_misplaced_picture_is_seen() -> None:
    network = Graph("face_landmark")
    with pretended():
        network._weights = {key: weight.to("cuda") for key, weight in network._weights.items()}
        with pytest.raises(RuntimeError, match="device"):
            network(torch.zeros(2, 3, 192, 192))


def test_identity() -> None:
    network = _ResNet("cpu")
    with pretended():
        network._weights = {key: weight.to("cuda") for key, weight in network._weights.items()}
        network._device = torch.device("cuda")
        numbers = network(torch.zeros(2, 3, 150, 150))
        assert numbers.device.type == "cpu" and numbers.shape == (2, 128)
