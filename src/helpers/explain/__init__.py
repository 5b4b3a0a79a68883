"""Explanations of models: attention, relevance, heatmaps and how faithful they are."""
