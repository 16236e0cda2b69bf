"""Corpus BLEU (Papineni et al. 2002) with sacrebleu, over all devices."""

import torch
from sacrebleu.metrics import BLEU
from torch import Tensor
from torchmetrics import Metric

_MAX_NGRAM = 4


class CorpusBLEU(Metric):
    """BLEU of detokenised text with one reference each, in percent; sacrebleu's defaults (13a, cased, exponential).

    It sums n-gram counts and lengths, so that the order of batches and processes has no effect.
    """

    full_state_update = False
    counts: Tensor
    totals: Tensor
    lengths: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, size in (("counts", _MAX_NGRAM), ("totals", _MAX_NGRAM), ("lengths", 2)):
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self._bleu = BLEU(force=True)  # no warning for texts that look tokenised

    def update(self, hypotheses: list[str], references: list[str]) -> None:
        """Add generated texts and their references."""
        score = self._bleu.corpus_score(hypotheses, [references])
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
