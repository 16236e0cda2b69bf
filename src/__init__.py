"""Gridlight: an experiment framework for neural networks on Lightning and Hydra."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: the folder that holds conf/, sweeps/ and src/."""
