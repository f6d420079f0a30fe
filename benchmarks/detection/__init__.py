"""Whether the guard speaks before the model is wrong."""
