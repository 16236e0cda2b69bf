"""Corpus BLEU (Papineni et al. 2002) by sacrebleu, over all devices."""

import torch
from sacrebleu.metrics import BLEU
from torch import Tensor
from torchmetrics import Metric

_ORDERS = 4


class CorpusBLEU(Metric):
    """BLEU of detokenised text with one reference each, in percent; sacrebleu's defaults (13a, cased, exponential).

    It sums what BLEU is made of, so that batches and processes may come in any order.
    """

    full_state_update = False
    counts: Tensor
    totals: Tensor
    lengths: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, size in (("counts", _ORDERS), ("totals", _ORDERS), ("lengths", 2)):
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self._bleu = BLEU(force=True)  # without a warning where texts look tokenised

    def update(self, found: list[str], references: list[str]) -> None:
        """Add texts and the references that they are compared with."""
        score = self._bleu.corpus_score(found, [references])
        for state, values in (
            (self.counts, score.counts),
            (self.totals, score.totals),
            (self.lengths, [score.sys_len, score.ref_len]),
        ):
            state += torch.tensor(values, device=state.device)

    def compute(self) -> Tensor:
        system, reference = self.lengths.tolist()
        score = BLEU.compute_bleu(self.counts.tolist(), self.totals.tolist(), system, reference)
        return torch.tensor(score.score)
