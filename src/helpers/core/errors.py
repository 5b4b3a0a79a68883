"""Errors that name the item, what was found, what was expected and what to do.

Every class takes one finished message. A batch over slides catches `HistobookError` and everything else of a slide
alike, writes the text to the ledger and carries on.
"""


class HistobookError(Exception):
    """Base of every error raised on purpose by histobook."""


class SpecError(HistobookError):
    """A parameter is unknown, of the wrong type or out of bounds."""


class SchemaError(HistobookError):
    """A table lacks a column, or a column holds a value of the wrong kind."""


class DuplicateError(HistobookError):
    """An id that must be unique occurs more than once."""


class OutcomeError(HistobookError):
    """A follow-up time or an event status cannot be used as given."""


class GeneError(HistobookError):
    """A gene symbol is unknown, ambiguous or missing from the expression table."""


class ResolutionError(HistobookError):
    """A slide states no resolution, or one that cannot be true."""


class SlideError(HistobookError):
    """A slide cannot be opened or read."""


class TileError(HistobookError):
    """A tiling plan is impossible, or a tile cannot be read."""


class AnnotationError(HistobookError):
    """A drawn annotation is missing, cannot be read, or does not lie on its slide."""


class StainError(HistobookError):
    """Stain vectors cannot be estimated from the pixels given."""


class FeatureError(HistobookError):
    """A feature file is of no known dialect, or does not fit the request."""


class SplitError(HistobookError):
    """A split is impossible, or lets a case (or a site) into both sides."""


class BagError(HistobookError):
    """A bag of tiles is empty, or bags do not fit each other."""


class ModelError(HistobookError):
    """A model cannot be fitted or applied to the data given."""


class StatsError(HistobookError):
    """A statistic is undefined for the data given."""


class FetchError(HistobookError):
    """A download is missing, incomplete, altered, or its licence was not accepted."""


class PhantomError(HistobookError):
    """The phantom cohort cannot be planned or rendered as asked."""


class RunError(HistobookError):
    """A chapter cannot start, continue or finish."""
