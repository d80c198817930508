"""Imputation around the models' ``impute``: as a Darts transformer, as a filter, and scored on hidden values."""

from birnn_forecast.imputation.baselines import KalmanImputer, LastValueImputer, LinearImputer, SeasonalLinearImputer
from birnn_forecast.imputation.evaluation import compare_imputers, evaluate_imputer
from birnn_forecast.imputation.imputer import Imputer
from birnn_forecast.imputation.missing import make_missing
from birnn_forecast.imputation.smoothing import BidirectionalFilter

__all__ = [
    "BidirectionalFilter",
    "Imputer",
    "KalmanImputer",
    "LastValueImputer",
    "LinearImputer",
    "SeasonalLinearImputer",
    "compare_imputers",
    "evaluate_imputer",
    "make_missing",
]
