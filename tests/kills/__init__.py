"""Faults from outside: kills at random moments, full disks, folders that may not be written to, two processes in one.

``python -m tests.kills --kills 200`` by hand, ``--disks`` for the other faults, a short form in ``test_kills.py``. What
is killed stands in ``cases.py``. With ``--out benchmarks/results`` the counts go into reliability.json, from which
``tests/kills/table.py`` makes the table of docs/reference/reliability.md.
"""
