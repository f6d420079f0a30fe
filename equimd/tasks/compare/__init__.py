"""Two or more models side by side on one molecule: errors, time of a step, conservation, how long dynamics holds.

- ``measures``: what is measured, one model or one trajectory at a time; the conservation benchmark uses it, too;
- ``task``: constant-energy runs of several models from one start, and everything about them;
- ``table``: the table and the plot; ``call``: what the command and Python call, and what it returns.
"""
