"""The network: a graph of torch.export, whose parameters are those of models/model.pt."""

from __future__ import annotations

import torch
from torch import nn


class Network(nn.Module):
    """A graph in evaluation mode; it has no other. Input (B, C + 3, X, Y, Z), output (B, K + 1, X, Y, Z) probabilities."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def train(self, mode=True):
        """Return the network: graphs of torch.export cannot change their mode."""
        self.training = mode
        return self

    def forward(self, image):
        return self.graph(torch.as_tensor(image).as_subclass(torch.Tensor))


def load_network(path):
    """Return the network of a .pt2 file."""
    return Network(torch.export.load(path).module())
