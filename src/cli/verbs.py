"""The verbs of the command `gridlight`; each but `completion` is a module of src/."""

VERBS = {
    "train": "train a model; with -m a sweep, with resume= the rest of an interrupted run",
    "tune": "tune learning rate, batch size, architecture, regularization and schedule in turn",
    "compare": "rank runs, and show why the best one won",
    "runs": "find, tag, delete, train again and export runs",
    "evaluate": "compute the metrics of a trained model on a split or on another file",
    "predict": "predict with a trained model",
    "export": "write a trained model as a program: torch.export or ONNX",
    "preview": "draw the schedule, a learning-rate range test, or augmented examples",
    "doctor": "check the installation, or whether a run resumes exactly",
    "sync": "upload runs that were recorded offline to Weights & Biases",
    "completion": "print the completion script of a shell: bash, zsh or fish",
}
