"""Labels of given frames: ``settings``; ``task``, what the command and Python call."""
