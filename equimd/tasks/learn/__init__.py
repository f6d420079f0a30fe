"""From a molecule and a reference method to a certified potential."""
