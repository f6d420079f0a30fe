"""Trajectories that are there: read off, drawn, and written for other programs.

- ``source``: what is given, a simulation or a file, as frames of replicas;
- ``measure``: what is read off them; ``uncertain``: what the model's own error makes of it;
- ``table``, ``plot``, ``files``: how it is shown and kept;
- ``call``: ``equimd.analyse``; ``convert``: other formats.
"""
