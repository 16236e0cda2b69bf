"""Every command of docs/compare.md works."""

import re
import shlex
from pathlib import Path

import pytest

from src import ROOT
from src.compare import main
from tests.comparison.conftest import WriteRun

PAGE = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
(BLOCK,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.S | re.M)


@pytest.mark.parametrize("line", BLOCK.splitlines())
def test_command_runs(
    line: str, write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr in (1e-3, 1e-2, 1e-1):
        write_run(f"lr-{lr}", {"optimizer.lr": lr}, losses=[0.9, 0.3 + lr], final={"test/accuracy": 0.9 - lr})
    (tmp_path / "outputs" / "sweeps").mkdir(parents=True)
    for name in ("lr", "models"):
        (tmp_path / "outputs" / "sweeps" / name).symlink_to(tmp_path / "sweep")
    monkeypatch.chdir(tmp_path)
    module, *argv = shlex.split(line.removeprefix("python -m "))
    assert module == "src.compare"
    main(argv)
    out = capsys.readouterr().out
    assert "0.301" in out or "0.899" in out
