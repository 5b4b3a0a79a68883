"""Tested code behind the chapters of histobook, in layers: an import may only point to an earlier one.

core, slides, cohort, phantom, features, stats, models, explain, figures, book.
"""

__version__ = "0.1.0"
