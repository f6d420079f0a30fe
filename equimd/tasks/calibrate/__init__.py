"""Calibrating a run: the posterior from its training frames, its sigmas from frames it never saw, its thresholds.

- ``frames``: which frames may be used, and for what; ``settings``: what is asked for;
- ``sigmas``: recalibration of energies and forces, the screen, and the flag and error thresholds;
- ``dynamics``: the halt threshold, from the model's own molecular dynamics;
- ``stages``: what passes from one to the next; ``task``: all of it, in order; ``quality``: how good it is, as JSON;
  ``plots``: the same to look at;
- ``call``: what the command and Python call, and what it returns.
"""
