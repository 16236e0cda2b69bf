"""Revision, branch and diff of the code in run.json are passed to git as data."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.security.harness import Case, read_record, write_record
from tests.security.verbs import attack

REVISIONS: dict[str, Any] = {
    "output": "--output=zzhostile",
    "output outside": "--output=../victim/thesis.txt",
    "remote": "--remote=ext::touch zzhostile",
    "exec": "--exec=touch zzhostile",
    "upload-pack": "--upload-pack=touch zzhostile",
    "short option": "-o",
    "branch": "HEAD",
    "range": "HEAD~1..HEAD",
    "path": "HEAD:src",
    "reflog": "@{0}",
    "spaces": "HEAD --output=zzhostile",
    "new line": "0123456789012345678901234567890123456789\n--output=zzhostile",
    "upper case": "A" * 40,
    "unknown": "0" * 40,
    "long": "0" * 64,
    "other digits": "\u0660" * 40,
    "number": 10**39,
    "list": ["--output=zzhostile"],
    "dict": {"a": "b"},
    "true": True,
    "null byte": "0" * 39 + "\0",
}

LINK_DIFF = """diff --git a/way b/way
new file mode 120000
index 0000000..1111111
--- /dev/null
+++ b/way
@@ -0,0 +1 @@
+VICTIM
\\ No newline at end of file
diff --git a/way/zzhostile b/way/zzhostile
new file mode 100644
index 0000000..1111111
--- /dev/null
+++ b/way/zzhostile
@@ -0,0 +1 @@
+x
"""

DIFFS: dict[str, Any] = {
    "link": LINK_DIFF,
    "traversal": LINK_DIFF.split("diff --git a/way/zz")[0]
    .replace("120000", "100644")
    .replace("b/way", "b/../../../victim/zzhostile"),
    "absolute": "--- /dev/null\n+++ VICTIM/zzhostile\n@@ -0,0 +1 @@\n+x\n",
    "hook": "--- /dev/null\n+++ b/.git/hooks/post-checkout\n@@ -0,0 +1 @@\n+touch zzhostile\n",
    "code": "--- /dev/null\n+++ b/src/zzhostile.py\n@@ -0,0 +1 @@\n+import canary_in_cwd\n",
    "binary": "diff --git a/x b/x\nGIT binary patch\nliteral 99999999\nzcmZQz\n",
    "list": ["--- /dev/null"],
    "number": 3,
    "no diff": "zzhostile\x1b[2J",
}


def change(case: Case, **values: Any) -> None:
    record = read_record(case.run / "run.json")
    record["git"] = {**(record["git"] or {}), "diff_complete": True, "untracked": [], **values}
    write_record(case.run / "run.json", record)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_is_no_option(new_case: Callable[..., Case], revision: str) -> None:
    case = new_case()
    change(case, revision=REVISIONS[revision], branch=REVISIONS[revision])
    assert attack(case, "runs_export") == []


@pytest.mark.parametrize("diff", DIFFS)
def test_a_diff_is_not_applied(new_case: Callable[..., Case], diff: str) -> None:
    case = new_case()
    text = DIFFS[diff].replace("VICTIM", str(case.victim)) if isinstance(DIFFS[diff], str) else DIFFS[diff]
    change(case, diff=text)
    assert attack(case, "runs_export") == []
    links = [path for path in (case.out / "packed").rglob("*") if path.is_symlink() or path.name == "zzhostile.py"]
    assert not links


@pytest.mark.parametrize("diff", ("link", "traversal", "absolute", "hook", "binary", "no diff"))
def test_a_diff_that_is_asked_for_stays_in_the_folder(new_case: Callable[..., Case], diff: str) -> None:
    from src.runs import main

    case = new_case()
    change(case, diff=DIFFS[diff].replace("VICTIM", str(case.victim)))
    argv = ["--outputs", case.outputs, "export", case.run, case.out / "packed", "--apply-changes"]
    assert case.open(main, argv, 20) == []
    assert not [path for path in (case.out / "packed").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize(
    "names", (["../../victim/thesis.txt"], ["/etc/passwd"], ["--output=x"], "x", 3, [None], [["x"]])
)
def test_untracked_names_are_data(new_case: Callable[..., Case], names: Any) -> None:
    case = new_case()
    change(case, untracked=names)
    for verb in ("runs_export", "show"):
        assert attack(case, verb) == []
