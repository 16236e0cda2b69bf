"""The files and commands of docs/data.md work."""

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


def write_files(folder: Path) -> None:
    """Write the files of the page with their lines repeated, because training needs more than five."""
    for name, text in FILES.items():
        lines = text.splitlines()
        if name.endswith((".csv", ".tsv", ".txt")):
            header = lines[:1] if name.endswith(".csv") else []
            rows = lines[len(header) :] * 30
            if name == "people.csv":  # one row per person
                rows = [re.sub(r",\d,(yes|no)$", rf",{i},\1", row) for i, row in enumerate(rows)]
            if name == "sales.csv":  # one row per day
                rows = [str(date(2026, 1, 1) + timedelta(i)) + row[10:] for i, row in enumerate(rows)]
            (folder / name).write_text("\n".join([*header, *rows]) + "\n", encoding="utf-8")
            continue
        for line in lines:
            for i in range(6):
                path = folder / (line if i == 0 else line.replace(".", f"-{i}."))
                if line.endswith(".png"):
                    write_image(path, i, 30 if "cat" in line else 150, size=(16, 16))
                else:
                    write_tone(path, 300 if "yes" in line else 900, 0.3, rate=16_000, seed=i)


def test_all_sections_of_the_page_are_found() -> None:
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
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = re.search(r"```bash\n(.*?)```", SECTIONS[section], re.S)[1].splitlines()
    folder = ""
    for command in commands:
        python, m, module, *arguments = shlex.split(command)
        assert (python, m) == ("python", "-m")
        if module == "src.train":
            result = run([*arguments, *SMALL], verbose=False)
            assert result.status == "finished"
            folder = str(result.folder)
            continue
        assert module == "src.predict"
        capsys.readouterr()
        predict([argument.replace("RUN", folder) for argument in arguments])
        assert capsys.readouterr().out.strip()
        if "--output" in arguments:
            assert len((tmp_path / arguments[-1]).read_text().splitlines()) > 5
