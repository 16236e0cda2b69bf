"""Everything on docs/data.md works: its files are written, many times over, and each of its commands is run."""

import re
import shlex
from datetime import date, timedelta
from pathlib import Path

import pytest

from src import ROOT
from src.predict import main as predict
from src.training.run import run
from tests.conftest import write_image, write_tone

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = {title.strip("`"): text for title, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M)}
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```text\n(.*?)^```$", PAGE, re.S | re.M))
WITH_COMMANDS = [title for title, text in SECTIONS.items() if "```bash" in text]
SMALL = ["trainer=smoke", "logger=none", "trainer.max_epochs=1", "datamodule.batch_size=8"]


def write(folder: Path) -> None:
    """Write the page's files with their lines many times over, as training needs more than five."""
    for name, text in FILES.items():
        lines = text.splitlines()
        if name.endswith((".csv", ".tsv", ".txt")):
            header = lines[:1] if name.endswith(".csv") else []
            rows = lines[len(header) :] * 30
            if name == "people.csv":  # one row a person
                rows = [re.sub(r",\d,(yes|no)$", rf",{i},\1", row) for i, row in enumerate(rows)]
            if name == "sales.csv":  # day by day
                rows = [str(date(2026, 1, 1) + timedelta(i)) + row[10:] for i, row in enumerate(rows)]
            (folder / name).write_text("\n".join([*header, *rows]) + "\n", encoding="utf-8")
            continue
        for line in lines:
            for i in range(6):
                place = folder / (line if i == 0 else line.replace(".", f"-{i}."))
                if line.endswith(".png"):
                    write_image(place, i, 30 if "cat" in line else 150, size=(16, 16))
                else:
                    write_tone(place, 300 if "yes" in line else 900, 0.3, rate=16_000, seed=i)


def test_page_is_read_whole() -> None:
    assert len(FILES) == 7 and all(len(text.splitlines()) == 5 for text in FILES.values())
    assert WITH_COMMANDS == [
        "table",
        "series",
        "text_classification",
        "text",
        "parallel_text",
        "image_folder",
        "audio_folder",
        "Larger than memory",
    ]


@pytest.mark.parametrize("section", WITH_COMMANDS)
def test_every_command_runs(section, tmp_path, monkeypatch, capsys) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = re.search(r"```bash\n(.*?)```", SECTIONS[section], re.S)[1].splitlines()
    folder = ""
    for command in commands:
        python, m, module, *words = shlex.split(command)
        assert (python, m) == ("python", "-m")
        if module == "src.train":
            result = run([*words, *SMALL], verbose=False)
            assert result.status == "finished"
            folder = str(result.folder)
            continue
        assert module == "src.predict"
        capsys.readouterr()
        predict([word.replace("RUN", folder) for word in words])
        assert capsys.readouterr().out.strip()
        if "--output" in words:
            assert len((tmp_path / words[-1]).read_text().splitlines()) > 5
