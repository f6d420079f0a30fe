"""A trained model's molecular dynamics, from a structure file to a folder of trajectories and a summary.

- ``settings``: what can be set, as options or YAML; ``start``: the structure, its geometry and velocities;
- ``checks``: what to warn of before the first step;
- ``session``: a run made ready, begun, gone on with and finished;
- ``progress``: what a person sees while it runs; ``plot``: when it is done; ``task``: all of it, in order;
- ``call``: what the command and Python call, and what it returns.
"""
