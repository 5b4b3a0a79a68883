"""Vocabulary, errors, specs, paths, provenance and the per-slide ledger: what every other layer stands on."""
