"""Doctor: python -m src.doctor says what is installed, which devices there are, what is missing, and whether W&B is
reachable. Exit code 1 if something that every run needs is missing.

python -m src.doctor resume model=cnn regularization=dropout trainer.max_epochs=3 trains these words whole, then again,
interrupted at random steps (Ctrl-C, and killed) and resumed, and compares the two. Exit code 1 if they differ. The
words are those of src.train; the name of an experiment may stand alone: python -m src.doctor resume dates_paper.
"""

import sys

from src.cli.doctor import findings, prove_resume, words_of_a_run
from src.cli.hydra_app import errors_for_people
from src.core.console import echo
from src.core.errors import UserError, nearest


def main() -> None:
    """Print all findings, or the proof that is asked for."""
    match sys.argv[1:]:
        case ["resume", *words] if not {"-h", "--help"} & set(words):
            with errors_for_people():
                raise SystemExit(0 if prove_resume(words_of_a_run(words)) else 1)
        case []:
            complete = True
            for good, line in findings():
                echo(f"{ {True: 'ok', None: 'without', False: 'MISSING'}[good]:<7} {line}", flush=True)
                complete = complete and good is not False
            raise SystemExit(0 if complete else 1)
        case words if {"-h", "--help"} & set(words):
            echo(__doc__)
        case [word, *_]:
            with errors_for_people():
                raise UserError(
                    f"{word}: {nearest(word, ['resume'])} Without a word, doctor looks at the installation."
                )


if __name__ == "__main__":
    main()
