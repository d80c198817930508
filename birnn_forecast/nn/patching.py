"""Windows read patch by patch instead of step by step."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from birnn_forecast.eager import is_whole
from birnn_forecast.nn.recurrent import valid_steps


class PatchEncoder(nn.Module):
    """A recurrent encoder over patches: as many steps at once as a season has, say.

    Patches end with the window; the steps that the first one lacks are 0, as are those before a row's start. A dense
    layer embeds each patch, the encoder reads the embeddings, and another one, with weights for each place in a patch,
    leads back to the steps, each of which adds what stands there. The recurrence is shorter by the length of a patch,
    and reaches as many times further.

    Parameters
    ----------
    patch_length
        Steps of a patch.
    encoder
        The class of the encoder.
    input_size
        Features per step.
    **params
        Parameters of the encoder; `hidden_size` is also the size of an embedding, half of it that of a step's state.

    References
    ----------
    S. Lin et al., "SegRNN: Segment Recurrent Neural Network for Long-Term Time Series Forecasting", 2023,
    https://arxiv.org/abs/2308.11200, section 3.2.
    """

    def __init__(self, patch_length: int, encoder: Any, input_size: int, **params: Any):
        super().__init__()
        self.patch_length, size = patch_length, params["hidden_size"]
        self.embed = nn.Linear(patch_length * input_size, size)
        self.encoder = encoder(input_size=size, **params)
        self.state_size, self.final_size = max(1, size // 2), self.encoder.final_size
        self.expand = nn.Linear(self.encoder.state_size, patch_length * self.state_size)
        self.local = nn.Linear(input_size, self.state_size, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time features"], start: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time state"], Float[Tensor, "batch final"]]:
        """Return a state for each step, and the encoder's final state."""
        batch, time, _ = x.shape
        patches = -(-time // self.patch_length)
        lacking = patches * self.patch_length - time
        valid = valid_steps(start, time)
        known = x if is_whole(valid) else torch.where(valid[:, :, None], x, 0.0)
        embedded = self.embed(pad(known, (0, 0, lacking, 0)).reshape(batch, patches, -1))
        first = torch.div(start + lacking, self.patch_length, rounding_mode="floor")
        states, final = self.encoder(torch.relu(embedded), first)
        steps = self.expand(states).reshape(batch, patches * self.patch_length, -1)[:, lacking:]
        return torch.relu(steps + self.local(x)), final
