"""Drawing only: a tidy table in, an Axes out. Nothing is computed here."""
