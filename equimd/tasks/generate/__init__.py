"""Labelled frames by molecular dynamics with a reference method."""
