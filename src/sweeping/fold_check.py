"""Whether data can be cut into the folds that a sweep asks for: known only when they are loaded, and the same for all folds."""

import json

from src.config.schema.run import Config
from src.core.errors import UserError


class FoldCheck:
    """Loads the data of each kind of cross-validation once."""

    def __init__(self) -> None:
        self._known: dict[str, UserError | None] = {}

    def __call__(self, config: Config) -> None:
        """Look at the data of a job, unless that is known from a job before.

        Raises:
            UserError: if they cannot be cut so.
        """
        asked = config.cross_validation
        if asked.folds is None:
            return
        plain = config.plain()
        kind = json.dumps([plain["datamodule"], asked.folds, asked.group, asked.seed], sort_keys=True)
        if kind not in self._known:
            self._known[kind] = _fault(config)
        if (fault := self._known[kind]) is not None:
            raise fault


def _fault(config: Config) -> UserError | None:
    from src.training.build import build_data

    try:
        datamodule = build_data(config)
        datamodule.prepare_data()
        datamodule.setup()
    except UserError as error:
        return error
    return None
