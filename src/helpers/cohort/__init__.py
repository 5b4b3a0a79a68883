"""Cohorts: gates for tables, genes and outcomes, import of other people's tables, inclusion, splits, fetching."""
