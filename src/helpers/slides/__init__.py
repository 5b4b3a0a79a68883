"""Slides: pixels and their resolution, tissue, tiles, quality, stains, and writing pyramids."""
