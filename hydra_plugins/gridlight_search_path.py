"""Hydra plugin that adds sweeps/ to the config search path."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from src import ROOT


class GridlightSearchPath(SearchPathPlugin):
    """Make the folder sweeps/ of the repository a config group: +sweeps=learning_rate."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("gridlight", f"file://{ROOT}")
