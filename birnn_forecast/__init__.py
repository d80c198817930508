"""Bidirectional recurrent models for Darts that forecast, impute and smooth series with gaps."""

from birnn_forecast.models import BiGRUModel, BiLSTMModel, BiRNNModel, BRITSModel, CNNBiLSTMModel, GRINModel, URNNModel

__version__ = "0.1.0"

__all__ = [
    "BRITSModel",
    "BiGRUModel",
    "BiLSTMModel",
    "BiRNNModel",
    "CNNBiLSTMModel",
    "GRINModel",
    "URNNModel",
    "__version__",
]
