"""Comparison of a sweep's runs from the command line, and its scaling law."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from src.cli.compare import scaling
from src.compare import main
from src.core.errors import UserError
from src.run_store.atomic_write import atomic_write
from src.run_store.reader import read_runs
from src.run_store.run_folder import RunFolder
from src.sweeping.ledger import Ledger
from tests.conftest import ROOT, Command


def recorded(folder: Path, width: int, loss: float | None, status: str = "finished", metric: str = "val/loss") -> None:
    folder.mkdir(parents=True)
    config = {"seed": 0, "model": {"name": "transformer", "d_model": width}, "datamodule": {"train_size": 10 * width}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"paths": {"outputs": str(folder)}}, sort_keys=False))
    measured = {} if loss is None else {"monitor": metric, "mode": "min", "value": loss}
    record = {"status": status, "seconds": 3.0, "parameters": 7 * width**2, "multiply_adds": None} | measured
    (folder / "run.json").write_text(json.dumps(record))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Losses that follow 4 · parameters^-0.25."""
    for width in (8, 16, 32, 64, 128):
        recorded(tmp_path / "law" / f"d_model-{width}", width, 4 * (7 * width**2) ** -0.25)
    recorded(tmp_path / "law" / "d_model-256", 256, None, "failed")
    return tmp_path / "law"


def test_the_runs_of_a_sweep_are_ranked(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep)])
    out = capsys.readouterr().out
    assert re.search(r"rank +val/loss +d_model +train_size +time +parameters +status +run", out)
    assert re.findall(r"^ *(\d) +[\d.]+ +(\d+) +", out, re.M) == [
        ("1", "128"),
        ("2", "64"),
        ("3", "32"),
        ("4", "16"),
        ("5", "8"),
    ]
    assert re.search(r"^failed: .*d_model-256", out, re.M)


def test_a_long_error_is_truncated(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sweep / "d_model-256" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"error": "E" * 10**6}))
    main([str(sweep)])
    assert 100 < capsys.readouterr().out.count("E") < 1000


@pytest.mark.req("T8")
def test_a_scaling_law_is_fitted_and_drawn(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep), "--scaling", "parameters"])
    out = capsys.readouterr().out
    assert "val/loss of 5 runs against parameters" in out and "x^-0.250" in out
    with Image.open(sweep / "plots" / "scaling-parameters.png") as image:
        assert image.format == "PNG" and min(image.size) > 300
    plain, _ = scaling(sweep, read_runs(sweep), "parameters")
    assert (plain.exponent, plain.factor) == (pytest.approx(0.25), pytest.approx(4))
    assert scaling(sweep, read_runs(sweep), "datamodule.train_size")[0].exponent == pytest.approx(0.5)
    assert np.ptp(plain.interval) < 1e-9


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("parametres", "parametres: unknown size. Did you mean 'parameters'"),
        ("datamodule.trainsize", "Did you mean 'datamodule.train_size'"),
        ("model.name", "model.name is not a number"),
        ("multiply_adds", "multiply_adds is not a number"),
        ("seed", "at least 3 different sizes, and there are 1|above 0"),
    ],
)
def test_an_invalid_size_is_reported(sweep: Path, capsys: pytest.CaptureFixture[str], size: str, message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(sweep), "--scaling", size])
    assert stop.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_an_invalid_folder_is_reported(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such folder\. Did you mean 'law'"):
        read_runs(tmp_path / "lawl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there are no runs in this folder"):
        read_runs(tmp_path / "empty")


def test_scaling_laws_need_a_loss(tmp_path: Path) -> None:
    for width in (8, 16, 32):
        recorded(tmp_path / f"{width}", width, 0.5, metric="val/accuracy")
    with pytest.raises(UserError, match="fits one loss; the metric of these runs is val/accuracy"):
        scaling(tmp_path, read_runs(tmp_path), "parameters")


# ---- the rest of the command line --------------------------------------------------------------------------------


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A finished sweep over three widths with two seeds each; the wider, the better."""
    for width in (8, 16, 32):
        for seed in (0, 1):
            folder = tmp_path / "tuned" / f"width-{width}_seed-{seed}"
            recorded(folder, width, 1 / width + 0.001 * seed)
            config = yaml.safe_load((folder / "config.yaml").read_text()) | {"seed": seed}
            (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            lines = [{"step": 9, "epoch": e, "val/loss": 1 / (e + 1), "lr": 0.1} for e in range(3)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "tuned"


def test_conditions_may_be_among_the_folders(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tuned), "d_model=16,32", "--limit", "1", "val/loss<0.04", "--columns", "d_model"])
    out = capsys.readouterr().out
    assert "2 runs: 2 finished" in out, "the other runs match only one condition"
    assert re.findall(r"^ *1 +(\S+ ± \S+) +\[.*\] +(\d+)$", out, re.M) == [("0.03175 ± 0.00071", "32")]


def test_two_runs_side_by_side(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tuned), "--diff", "1", "width-8_seed-1"])
    out = capsys.readouterr().out
    assert re.search(r"^A .*width-32_seed-0 +\(finished\)\nB .*width-8_seed-1", out, re.M)
    assert re.search(r"^model\.d_model +32 +8$", out, re.M) and re.search(r"^seed +0 +1$", out, re.M)
    assert re.search(r"^val/loss +A +1 +0\.3333 +█▃▁$", out, re.M)
    assert "model.name" not in out


def test_an_export_prints_nothing_else(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tuned / "width-8_seed-0" / "run.json").write_text("{")
    main([str(tuned), "--export", "json", "--html", "--plots"])
    printed = capsys.readouterr()
    (view,) = json.loads(printed.out)
    assert [row["model.d_model"] for row in view["rows"]] == [32, 16, 8]
    assert view["rows"][0]["mean"] == pytest.approx((2 / 32 + 0.001) / 2)
    assert "run.json is damaged" in printed.err and "report.html" in printed.err
    assert (tuned / "report.html").is_file() and (tuned / "plots" / "response.png").is_file()


def test_a_torn_line_is_reported_when_curves_are_drawn(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tuned / "width-8_seed-1" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 39, "epo')
    main([str(tuned)])
    assert "torn" not in capsys.readouterr().err, "a table of finished runs needs no curve"
    main([str(tuned), "--html", "--plots", "--diff", "1", "3"])
    assert capsys.readouterr().err.count("lines of metrics.jsonl are damaged and left out") == 1
    assert "damaged and left out" in (tuned / "report.html").read_text()


def test_several_sweeps_write_to_their_common_folder(tuned: Path, sweep: Path) -> None:
    main([str(tuned), str(sweep), "--html"])
    text = (tuned.parent / "report.html").read_text()
    assert "tuned/width-16_seed-" in text and "law/d_model-64" in text
    main([str(tuned), "--html", "--into", str(tuned / "there" / "new")])
    assert (tuned / "there" / "new" / "report.html").is_file()


def test_a_watch_ends_with_the_last_run(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tuned / "width-8_seed-0" / "run.json"
    text = record.read_text()
    record.write_text(text.replace("finished", "running"))
    run_folder = RunFolder.open(record.parent)
    run_folder._acquire()

    def finish() -> None:
        with atomic_write(record) as file:
            file.write(text.encode())
        run_folder._release()

    timer = threading.Timer(1.0, finish)
    timer.start()
    main([str(tuned), "--watch", "--every", "0.2", "--html"])
    timer.join()
    out = capsys.readouterr().out
    assert "5 finished, 1 running" in out and out.count("6 runs: 6 finished") == 1
    assert '"reload":null' in (tuned / "report.html").read_text()


def test_a_watch_waits_for_the_first_run_and_ends_without_a_driver(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = tmp_path / "later"
    timer = threading.Timer(1.0, lambda: tuned.rename(later))
    timer.start()
    main([str(later), "--watch", "--every", "0.2"])
    timer.join()
    printed = capsys.readouterr()
    assert printed.err.count("waiting for one; Ctrl-C ends") == 1 and "6 runs: 6 finished" in printed.out
    ledger = Ledger.create(later, "later", ["train"])
    ledger.add(["seed=7"], ["seed=7"], {"seed": 7})
    ledger.save()
    main([str(later), "--watch", "--every", "0.2"])
    assert "is not running any more, and 1 of its jobs" in capsys.readouterr().err


def test_a_closed_pipe_is_no_write_error(tuned: Path) -> None:
    argv = f"{sys.executable} -m src.compare {tuned} --html --watch | head -n 1; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", argv], capture_output=True, text=True, cwd=ROOT)
    assert process.stderr == "" and process.returncode in (0, 141)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--exprt", "csv"], "--exprt: there is no such option. Did you mean '--export'"),
        (["--export", "cvs"], "--export cvs: Did you mean 'csv'"),
        (["--metric", "val/los"], "Did you mean 'val/loss'"),
        (["--sort", "d_modle"], "Did you mean 'model.d_model'"),
        (["--columns", "d_modl"], "Did you mean 'model.d_model'"),
        (["model.d_modl=8"], "Did you mean 'model.d_model'"),
        (["--diff", "1", "widht-8_seed-1"], "Did you mean 'width-8_seed-1'"),
        (["--diff", "1", "width-8"], "which run? width-8_seed-0, width-8_seed-1"),
        (["--watch", "--every", "0"], "must be above 0"),
        (["--html", "--into", "/dev/null/x"], "/dev/null/x: cannot be written"),
        (["--limit", "-1"], "--limit -1: must be 0 (all rows) or more"),
        (["--limit", "few"], "invalid int value: 'few'"),
    ],
)
def test_invalid_input_is_reported_in_one_screen(
    tuned: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tuned), *argv])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.startswith("error: ") and err.count("\n") < 25


def test_a_missing_folder_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["lr=0.1"])
    err = capsys.readouterr().err
    assert "which runs? python -m src.compare outputs/sweeps/<name>" in err and "lr=0.1: read as a condition" in err


def test_a_closed_pipe_ends_an_export(tuned: Path) -> None:
    argv = [sys.executable, "-m", "src.compare", str(tuned), "--export", "json"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def test_a_comparison_does_not_load_torch(tuned: Path, command: Command) -> None:
    """Two thousand runs are compared in less time than it takes to import torch."""
    argv = f"import sys; from src.compare import main; main([{str(tuned)!r}, '--html', '--plots', '--diff', '1', '2']);"
    process = command("timeit", "-n1", "-r1", argv + "assert not {'torch', 'lightning', 'pandas'} & set(sys.modules)")
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_a_real_sweep_is_watched_while_it_runs(tmp_path: Path, command: Command) -> None:
    sweep = tmp_path / "sweeps" / "lr"
    argv = ["-m", "sweep.name=lr", "optimizer.lr=1e-3,1e-2", "seed=range(10)", "trainer.max_epochs=3", "logger=none"]
    training = threading.Thread(
        target=lambda: command("src.train", *argv, f"paths.outputs={tmp_path}", "callbacks=quiet")
    )
    training.start()
    while not list(sweep.glob("*/config.yaml")):
        time.sleep(0.2)
    process = command("src.compare", str(sweep), "--watch", "--every", "0.5", "--html", "--plots")
    training.join()
    assert process.returncode == 0, process.stderr
    assert re.search(r"\d pending", process.stdout) and "20 runs: 20 finished\n" in process.stdout
    plots = {file.stem for file in (sweep / "plots").iterdir()}
    assert {"curves-loss", "curves-accuracy", "schedules", "response", "confusion"} <= plots


@pytest.mark.parametrize("key", ["seed", "datamodule.fold", "model.name", "optimizer.lr", "monitor"])
@pytest.mark.parametrize(
    "value", [[[1]], {"a": [1]}, 10**400, float("nan"), True, "", "\x1b[0m", [], {}], ids=lambda v: repr(v)[:12]
)
def test_values_of_any_type_can_be_compared(
    key: str, value: object, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = next(tuned.glob("*/config.yaml"))
    entries = yaml.safe_load(config.read_text())
    node = entries
    *parents, last = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    config.write_text(json.dumps(entries))
    for argv in ([], ["--export", "csv"], ["--export", "json"], ["--html"], ["--columns", "all"]):
        main([str(tuned), *argv])
    assert "\x1b" not in capsys.readouterr().out
