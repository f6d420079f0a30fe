"""One page of what a folder holds: ``call`` what commands and Python call, ``task`` which folders, ``of_*`` a kind of
folder each, ``page`` HTML with the data of its plots, ``page/`` what the browser runs."""
