"""Labels against error: frames chosen in several ways, with cheap labels before or without."""
