"""Print the lowest version of each dependency that pyproject.toml allows, as constraints for pip.

torch is the pinned one, and the tools of the tests are the newest.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Print one constraint a line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(text for name, extra in project["optional-dependencies"].items() if name != "test" for text in extra),
    ]
    pinned = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    print(pinned[0] if pinned else "")
    for requirement in requirements:
        match = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
        if match and match[1] != "torch":
            print(f"{match[1]}=={match[2]}")


if __name__ == "__main__":
    main()
