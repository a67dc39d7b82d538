"""One thread, as in the worker: with more, oneDNN takes algorithms that round more (a convolution's weights)."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
