"""Labels from a reference method: asked for side by side, kept one by one, each asked for once."""
