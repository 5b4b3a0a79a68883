"""Time to event: Kaplan–Meier, log-rank, Cox, proportional hazards, concordance; tidy tables in and out, no plots.

`event` True means that it happened; False means that follow-up ended before it did. `risk` and `score` are higher
where the outlook is worse. Times may be in any unit; a horizon is in the same one. Everybody whose time is at least
t is at risk at t, so a case that leaves at t still counts there ("just before t"); time 0 is kept. lifelines draws
the curves and fits the Cox models; tests hold both against R's `survival`.
"""

from helpers.stats.concordance import compute_concordance
from helpers.stats.cox import (
    Cutoff,
    Scale,
    check_covariates,
    estimate_hazard_ratio,
    fit_cox,
    fit_cutoff,
    fit_uni_and_multivariable,
    scale_score,
    summarize_log_ratios,
)
from helpers.stats.follow_up import Z95, check_outcomes, truncate_follow_up
from helpers.stats.kaplan_meier import (
    compare_logrank,
    compare_rmst,
    count_at_risk,
    estimate_follow_up,
    estimate_median,
    estimate_rmst,
    fit_km,
)
from helpers.stats.proportionality import (
    Transform,
    check_proportional_hazards,
    compute_natural_spline,
    compute_schoenfeld,
    estimate_ratio_by_horizon,
    estimate_ratio_by_period,
    transform_time,
)

__all__ = [
    "Z95",
    "Cutoff",
    "Scale",
    "Transform",
    "check_covariates",
    "check_outcomes",
    "check_proportional_hazards",
    "compare_logrank",
    "compare_rmst",
    "compute_concordance",
    "compute_natural_spline",
    "compute_schoenfeld",
    "count_at_risk",
    "estimate_follow_up",
    "estimate_hazard_ratio",
    "estimate_median",
    "estimate_ratio_by_horizon",
    "estimate_ratio_by_period",
    "estimate_rmst",
    "fit_cox",
    "fit_cutoff",
    "fit_km",
    "fit_uni_and_multivariable",
    "scale_score",
    "summarize_log_ratios",
    "transform_time",
    "truncate_follow_up",
]
