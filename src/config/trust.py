"""What a recorded config may decide.

A config comes from the command line and the user's own conf/, which are trusted, or from a record: config.yaml of a run, a
checkpoint, a ledger. A record is data. Before anything is built from it, `literal_config` checks that

- every ``_target_`` is in a table of known classes, compared as text, because importing a module runs it;
- nothing in it decides what is written, or which host is contacted.

The decision is made once, by the process that the user started. It is passed on by the environment: ``--trust MODULE`` adds to
``GRIDLIGHT_TRUST`` and ``--trust-host HOST`` to ``GRIDLIGHT_TRUST_HOST``, which worker processes, SLURM and Ray jobs inherit.
"""

TRUST, TRUST_HOST, OWN_DATA = "GRIDLIGHT_TRUST", "GRIDLIGHT_TRUST_HOST", "GRIDLIGHT_OWN_DATA"
"""Environment variables: modules, hosts, and data folders of the user, each separated by commas (folders: by os.pathsep)."""

ENTRY_POINTS = "gridlight.extensions"
"""The group of entry points by which an installed package declares modules whose classes a record may name."""
