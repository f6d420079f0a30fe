"""A trained model's molecular dynamics, from a structure file to a folder of trajectories and a summary.

- ``settings``: what can be set, as options or YAML; ``start``: the structure, its geometry and velocities;
- ``threshold``: which calibrated score halts or flags; ``checks``: what to warn of before the first step;
- ``session``: a run made ready, begun, gone on with and finished;
- ``progress``, ``report``: what a person sees while it runs and when it is done.
"""
