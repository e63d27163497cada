"""Explorers of stored runs, and a live monitor."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".explorers": "explore explore_pages EXPLORERS",
    ".monitor": "Monitor watch",
    ".explorer": "Explorer Reply View",
    ".connectome": "ConnectomeExplorer",
    ".population": "PopulationExplorer",
    ".alignment": "AlignmentExplorer",
    ".tokens": "TokensExplorer",
})
