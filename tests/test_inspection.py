"""The outputs of the layers, read without a trace."""

import numpy as np
import pytest

import small_problem as small
from fusedstep import nn
from fusedstep.callbacks import Callback
from fusedstep.nn.inspection import layer_outputs
from fusedstep.training import fit


def layers():
    return [
        *(nn.Flatten(), nn.Dense(6, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.3), nn.Dense(8, 8), nn.GELU()),
        *(nn.BatchNorm(8, momentum=None), nn.Tanh(), nn.Dropout(0.1), nn.Dense(8, 4, bias=False), nn.ReLU()),
        *(nn.Dropout(0.2), nn.BatchNorm(4, track_running_stats=False, affine=False), nn.LeakyReLU()),
        *(nn.Sigmoid(), nn.GELU(), nn.Dense(4, 2)),
    ]


def model(dtype=np.float32, upto=None):
    return nn.Sequential(*layers()[:upto], dtype=dtype, seed=5)


def samples(dtype=np.float32, n=12):
    return np.random.default_rng(1).normal(size=(n, 2, 3)).astype(dtype)


def everything(net):
    gradients = {p.name: p.grad.tobytes() for p in net.parameters()}
    return small.state(net), gradients, net.random_offset


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("passes", [1, 3])
def test_each_output_is_that_of_the_model_that_ends_there(dtype, passes):
    """Fused or not, each with its own mask and the moments of the batch."""
    net, x = model(dtype), samples(dtype)
    for _ in range(passes):
        y = net.forward(x)
    outputs = [output.copy() for output in layer_outputs(net, x)]
    assert len(outputs) == len(net.layers)
    np.testing.assert_array_equal(outputs[-1], y)
    for index, output in enumerate(outputs):
        part = model(dtype, index + 1)
        part.random_offset = net.random_offset - net._n_dropouts
        np.testing.assert_array_equal(output, part.forward(x), err_msg=str(net.layers[index]))


def test_nothing_changes():
    net, twin, x = model(), model(), samples()
    dy = np.ones((len(x), 2), np.float32)
    for _ in range(2):
        for each in (net, twin):
            each.forward(x)
        before, input_before = everything(net), x.tobytes()
        list(layer_outputs(net, x))
        list(layer_outputs(net, x[::2]))
        assert everything(net) == before and x.tobytes() == input_before
        # The backward pass that was pending has all it needs.
        np.testing.assert_array_equal(net.backward(dy), twin.backward(dy))
        assert everything(net) == everything(twin)


def test_a_run_that_is_watched_has_the_same_bits():
    class Watch(Callback):
        def before_step(self, run):
            list(layer_outputs(run.model, run.batch[0]))

    X, y = samples(n=40), np.arange(40) % 2
    states = []
    for callbacks in ([], [Watch()]):
        net = model()
        history = fit(
            net, small.adam(net), small.LOSS, (X, y), epochs=3, batch_size=7, callbacks=callbacks, progress=False
        )
        states.append((everything(net), history.column("train_loss")))
    assert states[0] == states[1]


def test_an_input_that_is_not_contiguous():
    net = nn.Sequential(nn.Dense(2, 3), nn.ReLU())
    x = np.arange(8, dtype=np.float32).reshape(2, 4).T
    y = net.forward(x)
    *_, last = layer_outputs(net, x)
    np.testing.assert_array_equal(last, y)
    assert np.shares_memory(x, x.base)
