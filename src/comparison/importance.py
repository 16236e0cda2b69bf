"""Importance of hyperparameters: permutation importance of a random forest (Breiman, 2001), measured on held-out rows.

The forest predicts the rank of a row, not its metric, so that one diverged run does not outweigh all others. The importance of
a key is the loss of R² when the values of the key are shuffled among the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from src.comparison.chart_data import axis, best_rows
from src.comparison.view import View

MIN_ROWS = 10
"""Smallest number of rows for which importance is estimated."""
MAX_KEYS = 20
"""Largest number of keys whose importance is estimated, the first ones: a single odd run may add thousands."""
_TREES, _REPEATS, _FOLDS = 50, 5, 5


@dataclass(frozen=True)
class Importance:
    """Importance of each key.

    Args:
        keys: keys, the most important first.
        loss: loss of R² when a key is shuffled, mean over folds.
        deviation: standard deviation of it over folds.
        explained: R² on held-out rows; below 0.2 the losses are not reliable.
    """

    keys: tuple[str, ...]
    loss: tuple[float, ...]
    deviation: tuple[float, ...]
    explained: float

    @property
    def is_reliable(self) -> bool:
        """Whether the forest explains the ranks well enough."""
        return self.explained >= 0.2


def importance(view: View) -> Importance | None:
    """Return the importance of the keys that differ; None with fewer than two keys or `MIN_ROWS` rows."""
    rows = best_rows(view, len(view.rows))
    keys = view.keys[:MAX_KEYS]
    if len(rows) < MIN_ROWS or len(keys) < 2:
        return None
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold

    # a forest depends only on the order of the values, which may be infinite or too large for it
    x = np.column_stack([np.unique(axis(key, rows).values, return_inverse=True)[1] for key in keys])
    y = np.arange(len(rows), dtype=float)
    losses: list[Sequence[float]] = []
    predicted = np.empty_like(y)
    for train, test in KFold(min(_FOLDS, len(rows) // 2), shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(_TREES, random_state=0).fit(x[train], y[train])
        predicted[test] = forest.predict(x[test])
        permuted = permutation_importance(forest, x[test], y[test], n_repeats=_REPEATS, random_state=0)
        losses.append(permuted.importances_mean.tolist())
    by_key = list(zip(*losses, strict=True))
    order = sorted(range(len(keys)), key=lambda place: -fmean(by_key[place]))
    return Importance(
        tuple(keys[place] for place in order),
        tuple(fmean(by_key[place]) for place in order),
        tuple(stdev(by_key[place]) for place in order),
        float(r2_score(y, predicted)),
    )
