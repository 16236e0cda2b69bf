"""Check, by loading the data, that they can be split into the requested folds."""

import json

from src.config.schema.run import Config
from src.core.errors import UserError


class FoldCheck:
    """Checks each kind of cross-validation once."""

    def __init__(self) -> None:
        self._errors: dict[str, UserError | None] = {}

    def __call__(self, config: Config) -> None:
        """Load the data of a job, unless those of an equal cross-validation were checked before.

        Raises:
            UserError: if they cannot be split into these folds.
        """
        settings = config.cross_validation
        if settings.folds is None:
            return
        plain = config.plain()
        kind = json.dumps([plain["datamodule"], settings.folds, settings.group, settings.seed], sort_keys=True)
        if kind not in self._errors:
            self._errors[kind] = _load_error(config)
        if (error := self._errors[kind]) is not None:
            raise error


def _load_error(config: Config) -> UserError | None:
    from src.training.build import build_data

    try:
        datamodule = build_data(config)
        datamodule.prepare_data()
        datamodule.setup()
    except UserError as error:
        return error
    return None
