"""What all tests have in common: the same random numbers in every run, one thread, and no noise."""

from collections.abc import Iterator

import pytest
import torch

from tests.marks import needs_native


def pytest_configure(config: pytest.Config) -> None:
    # torch says at the first such convolution that it copies the input.
    config.addinivalue_line("filterwarnings", "ignore:Using padding='same' with even kernel:UserWarning")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and on a busy machine lose much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Each test starts from the same seed, so that it gives the same alone and among others."""
    torch.manual_seed(0)


@pytest.fixture(params=["quantized", pytest.param("native", marks=needs_native)])
def target(request: pytest.FixtureRequest) -> str:
    """Both targets, for tests that take no target of their own."""
    return request.param
