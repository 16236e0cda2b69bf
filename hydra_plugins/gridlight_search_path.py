"""Hydra plugin that adds sweeps/ and the config folders of extensions to the config search path."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from src import ROOT
from src.config.groups import extension_folders


class GridlightSearchPath(SearchPathPlugin):
    """Make the folder sweeps/ a config group, +sweeps=learning_rate, and find the options of installed extensions."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("gridlight", f"file://{ROOT}")
        for folder in extension_folders():
            search_path.append("gridlight-extension", f"file://{folder}")
