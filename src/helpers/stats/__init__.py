"""Statistics: NumPy and pandas in, tidy tables out; no plots, and nothing slow at import."""
