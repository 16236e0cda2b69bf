"""Which hyperparameters matter: permutation importance of a random forest (Breiman, 2001), measured on rows that it has
not seen.

The forest predicts the place of a row in the ranking, not its metric, so that one diverged run does not outweigh all
others. The importance of a key is what its R² loses when the key's values are shuffled among the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from src.comparison.chart_data import axis, best_rows
from src.comparison.view import View

FEWEST = 10
"""Rows below which nothing is said."""
_TREES, _REPEATS, _FOLDS = 50, 5, 5


@dataclass(frozen=True)
class Importance:
    """How much each key matters.

    Args:
        keys: the most important first.
        loss: of R² when a key is shuffled, the mean over folds.
        deviation: of it over folds.
        explained: R² on rows that the forest has not seen; below 0.2 nothing follows from the losses.
    """

    keys: tuple[str, ...]
    loss: tuple[float, ...]
    deviation: tuple[float, ...]
    explained: float

    @property
    def tells(self) -> bool:
        return self.explained >= 0.2


def importance(view: View) -> Importance | None:
    """Return the importance of the keys that differ; None with one key or too few rows."""
    rows = best_rows(view, len(view.rows))
    if len(rows) < FEWEST or len(view.keys) < 2:
        return None
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold

    x = np.column_stack([axis(key, rows).values for key in view.keys])
    y = np.arange(len(rows), dtype=float)
    losses: list[Sequence[float]] = []
    predicted = np.empty_like(y)
    for train, test in KFold(min(_FOLDS, len(rows) // 2), shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(_TREES, random_state=0).fit(x[train], y[train])
        predicted[test] = forest.predict(x[test])
        found = permutation_importance(forest, x[test], y[test], n_repeats=_REPEATS, random_state=0)
        losses.append(found.importances_mean.tolist())
    by_key = list(zip(*losses, strict=True))
    order = sorted(range(len(view.keys)), key=lambda place: -fmean(by_key[place]))
    return Importance(
        tuple(view.keys[place] for place in order),
        tuple(fmean(by_key[place]) for place in order),
        tuple(stdev(by_key[place]) for place in order),
        float(r2_score(y, predicted)),
    )
