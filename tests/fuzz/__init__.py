"""Seeded fuzz: hostile and damaged inputs end in a result or in equimd's own error, in bounded time and memory.

``python -m tests.fuzz --inputs 20000`` by hand, a short form in ``test_fuzz.py``. What is tried stands in
``targets.py``: a target makes valid inputs, spoils them, and says what to do with one. Inputs are tried in another
process (``worker.py``), so that hangs and deaths by signal are seen.
"""
