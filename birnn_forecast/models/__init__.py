"""The Darts models."""

from birnn_forecast.models.birnn import BiGRUModel, BiLSTMModel, BiRNNModel
from birnn_forecast.models.brits import BRITSModel
from birnn_forecast.models.cnn_bilstm import CNNBiLSTMModel
from birnn_forecast.models.grin import GRINModel
from birnn_forecast.models.urnn import URNNModel

__all__ = ["BRITSModel", "BiGRUModel", "BiLSTMModel", "BiRNNModel", "CNNBiLSTMModel", "GRINModel", "URNNModel"]
