"""The golden record: what the whole package answered before it was moved about, and that it still does."""
