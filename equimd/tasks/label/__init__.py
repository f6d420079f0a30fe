"""Labels of given frames: ``settings`` and the ``task``."""
