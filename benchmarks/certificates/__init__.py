"""Certificates of learn held to account by fresh runs."""
