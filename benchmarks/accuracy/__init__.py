"""Errors on test frames by the published protocols, beside published and retrained peers."""
