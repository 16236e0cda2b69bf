"""Export: python -m src.export RUN [--format torch onnx] [--to FOLDER]

Writes the trained model as programs that run without Gridlight, model.pt2 (torch.export) and model.onnx (extra [onnx]), and a
model card, README.md, into export/ of the run. The outputs of each program are compared with the model's on examples of the
test split.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli.hydra_app import parse_arguments, report_user_errors, run_parser
from src.core.console import display_path, echo
from src.exporters.export import export


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = run_parser("python -m src.export", __doc__)
    parser.add_argument("--format", nargs="+", choices=("torch", "onnx"), help="default: both, if their packages exist")
    parser.add_argument("--to", type=Path, help="folder for the files (export/ of the run)")
    options = parse_arguments(parser, argv)
    with report_user_errors():
        programs = export(options.run, options.format, options.to)
        for program in programs:
            if options.json:
                echo(json.dumps({"file": str(program.file), "difference": program.difference}))
            else:
                echo(
                    f"{display_path(program.file.absolute())}: {program.file.stat().st_size / 1e6:.2f} MB, largest difference "
                    f"{program.difference:.1e} on {program.examples} examples"
                )
        if not options.json:
            echo(f"{display_path((programs[0].file.parent / 'README.md').absolute())}: the model card")


if __name__ == "__main__":
    main(sys.argv[1:])
