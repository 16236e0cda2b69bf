"""BLEU of a run equals that of sacrebleu for the whole test set, on the original text."""

import json
import random

import pytest
import sacrebleu
import torch

from src.tasks.bleu import CorpusBLEU
from src.training.inference import evaluate_split, load
from src.training.run import run


def sentences(seed: int, count: int) -> list[str]:
    generator = random.Random(seed)
    words = ["a", "man,", "two", "dogs", "and", "the", "ball", "run", "over", "grass", "in", "front", "."]
    return [" ".join(generator.choices(words, k=generator.randint(1, 15))) for _ in range(count)]


def test_batches_give_the_corpus_score():
    references = sentences(0, 90)
    hypotheses = [
        text if i % 3 else other for i, (text, other) in enumerate(zip(references, sentences(1, 90), strict=True))
    ]
    metric, other = CorpusBLEU(), CorpusBLEU()
    for start in range(0, 90, 40):
        metric.update(hypotheses[start : start + 40], references[start : start + 40])
    other.update(hypotheses, references)
    expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6) == float(other.compute())
    assert 10 < expected < 90


def test_empty_hypotheses_score_zero():
    metric = CorpusBLEU()
    metric.update(["", ""], ["a b c d", "e f g h"])
    assert float(metric.compute()) == 0


@pytest.mark.parametrize("tokens", ["words", "byte_pairs"])
def test_run_computes_bleu_on_test_and_evaluate_on_any_split(fast, tmp_path, tokens):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"number {i % 7} is big\tZahl {i % 7} ist groß\n" for i in range(80)))
    overrides = fast(
        "model=transformer", "datamodule=parallel_text", f"datamodule.path={path}", f"datamodule.tokens={tokens}"
    )
    training = ["trainer.limit_train_batches=null", "trainer.max_epochs=25", "optimizer.lr=0.003", "model.d_model=32"]
    result = run([*overrides, *training, "datamodule.batch_size=16", "datamodule.vocabulary_size=300"], verbose=False)
    loaded = load(result.folder)
    batch = loaded.datamodule.split("test")
    with torch.no_grad():
        hypotheses = loaded.datamodule.texts(loaded.model.generate(batch.source))
    references = [target for _, target in loaded.datamodule.pairs()["test"]]
    expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert result.metrics["test/bleu"] == pytest.approx(expected, rel=1e-4) and expected > 20
    assert json.loads((result.folder / "run.json").read_text())["final"]["test/bleu"] == result.metrics["test/bleu"]
    assert evaluate_split(loaded, "val")["val/bleu"] > 0


def test_unknown_token_never_matches(fast, tmp_path):
    """The reference contains <unknown> for words that are not in the training set; a generated <unknown> is no match."""
    from src.core.data_spec import DataSpec
    from src.tasks.sequence_generation import Translation

    spec = DataSpec("translation", "tokens", (9,), (9,), 9, 0, 1, 2, target_length=9)
    names = ["", "", "", "\ufffd", "one", "two", "three", "four", "five"]
    task = Translation(spec, lambda tokens: [" ".join(names[i] for i in row if i > 2) for row in tokens.tolist()])
    metrics = task.decoded_metrics()
    row = torch.tensor([[3, 4, 5, 6, 7, 8, 2]])
    task.update_decoded(metrics, row, row)
    expected = sacrebleu.corpus_bleu(["one two three four five"], [["zero one two three four five"]]).score
    assert float(metrics.compute()["bleu"]) == pytest.approx(expected, rel=1e-5)
    assert set(Translation(spec).decoded_metrics()) == {"exact_match"}
