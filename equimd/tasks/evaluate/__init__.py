"""How good a model is on labelled frames: ``measure`` has the errors and how well sigmas match them, ``call`` what
commands and Python call, and what it returns."""
