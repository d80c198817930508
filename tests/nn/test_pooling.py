import numpy as np
import torch

from birnn_forecast.nn.pooling import POOLINGS
from tests import reference


def arguments():
    torch.manual_seed(0)
    states, final = torch.randn(2, 6, 4, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    valid = torch.arange(6)[None, :] >= torch.tensor([0, 2])[:, None]
    return states, final, valid


def test_attention_equals_the_loop_over_the_valid_steps():
    states, final, valid = arguments()
    pooling = POOLINGS["attention"](4, 3).double()
    w, u, c, v = (
        p.detach().numpy()
        for p in (pooling.key.weight, pooling.query.weight, pooling.query.bias, pooling.score.weight[0])
    )
    out = pooling(states, final, valid).detach()
    for row, start in enumerate([0, 2]):
        expected = reference.attention(states[row, start:].numpy(), final[row].numpy(), w, u, c, v)
        np.testing.assert_allclose(out[row], expected, atol=1e-12)
    weight = pooling.weights(states, final, valid)
    torch.testing.assert_close(weight.sum(1), torch.ones(2, dtype=torch.float64))
    assert (weight[1, :2] == 0).all()


def test_mean_takes_the_valid_steps_and_last_the_final_state():
    states, final, valid = arguments()
    mean = POOLINGS["mean"](4, 3)(states, final, valid)
    torch.testing.assert_close(mean[1], states[1, 2:].mean(0))
    assert POOLINGS["last"](4, 3)(states, final, valid) is final
