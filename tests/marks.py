"""What some tests need that not every machine has; where it is missing they skip and say what to do."""

import pytest
import torch

from jitquant import native
from tests.networks import IMAGENET_SAMPLE

needs_native = pytest.mark.skipif(
    not native.is_available(), reason=f"needs the native target: {native.why_not_available()}"
)
needs_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(),
    reason="needs torch.distributed, which this torch was built without: install torch's own wheel",
)
needs_photographs = pytest.mark.skipif(
    not IMAGENET_SAMPLE.is_dir(),
    reason="needs 500 photographs that are not in the repository: put them into "
    "../shared/data/imagenet_sample, as CLASS_ANYTHING.jpg",
)
