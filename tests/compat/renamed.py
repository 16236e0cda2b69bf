"""Run a command with a private name of a library renamed in the whole library, as in a possible future version.

python -m tests.compat.renamed LIBRARY NAME MODULE [argument ...]
"""

import re
import runpy
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import Any


class _RenamingLoader(SourceFileLoader):
    pattern: re.Pattern[bytes]

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        source = self.pattern.sub(rb"renamed_\1", self.get_data(path))
        return compile(source, path, "exec", dont_inherit=True)


class _RenamingFinder(MetaPathFinder):
    def __init__(self, library: str, name: str) -> None:
        self.library = library
        self.pattern = re.compile(rb"(?<!\w)(" + name.encode() + rb")(?!\w)")

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self.library:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            loader = _RenamingLoader(fullname, spec.loader.path)
            loader.pattern = self.pattern
            spec.loader = loader
        return spec


if __name__ == "__main__":
    library, name, module, *arguments = sys.argv[1:]
    sys.meta_path.insert(0, _RenamingFinder(library, name))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
