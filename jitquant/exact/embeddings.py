"""Rows of integers that are looked up, and sums of them in bags: what comes of it is float."""

import torch
from torch import Tensor

from jitquant.exact.arithmetic import fma
from jitquant.exact.registry import Weight, emulates


def rows_of_bytes(weight: Weight) -> tuple[Tensor, Tensor, Tensor]:
    """Integers, scales and shifts of rows of eight bits: all float32, the shift being -z · s.

    Source: ATen, quantized/cpu/qembeddingbag_prepack.cpp, PackedEmbeddingBagWeight::prepack.
    """
    integers, scales, zero_points = weight
    return integers.float(), scales.float(), -(zero_points.float() * scales.float())


def rows_of_nibbles(weight: Weight) -> tuple[Tensor, Tensor, Tensor]:
    """Integers, scales and shifts of rows of four bits, of which an even number is stored: all float32.

    The integers come two to a byte, without a gap between rows, the first in the lower half. Scales and
    shifts, -s · z, are rounded to half precision. Source: csrc/packed_weight.cpp, pack_rows_4bit.
    """
    packed, scales, zero_points = weight
    rows = scales.numel()
    bytes = packed.flatten()
    nibbles = torch.stack([bytes.bitwise_and(15), bytes.bitwise_right_shift(4)], 1).flatten()
    features = nibbles.numel() // max(rows, 1)
    integers = nibbles[: rows * features].reshape([rows, features]).float()
    integers = torch.constant_pad_nd(integers, [0, features % 2])
    shifts = -scales.float() * zero_points.float()
    return integers, scales.float().half().float(), shifts.half().float()


def sums_in_bags(
    rows: tuple[Tensor, Tensor, Tensor],
    indices: Tensor,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
) -> Tensor:
    """The sum of the rows of each bag: bags × features, float32.

    One row behind the other, sum = fma(q, s · w, sum + shift · w), where w is the row's factor. Source:
    FBGEMM, src/EmbeddingSpMDM.cc and EmbeddingSpMDMNBit.cc, GenEmbeddingSpMDMLookup; ATen,
    quantized/cpu/qembeddingbag.cpp.
    """
    integers, scales, shifts = rows
    flat = indices.flatten()
    total = flat.numel()
    if indices.dim() == 2:
        starts = torch.arange(indices.size(0)) * indices.size(1)
    else:
        assert offsets is not None
        starts = offsets.long()
    ends = torch.cat([starts[1:], torch.full([1], total)])
    if include_last_offset and indices.dim() == 1:
        starts, ends = starts[:-1], ends[:-1]
    counts = ends - starts
    sums = torch.zeros([starts.numel(), integers.size(1)])
    most = int(counts.max().item()) if counts.numel() > 0 else 0
    for step in range(most):
        bags = (counts > step).nonzero().flatten()
        places = starts[bags] + step
        row = flat[places].long()
        scale, shift = scales[row], shifts[row]
        if per_sample_weights is not None:
            factors = per_sample_weights[places]
            scale, shift = scale * factors, shift * factors
        behind = fma(integers[row], scale.unsqueeze(1), sums[bags] + shift.unsqueeze(1))
        sums = sums.index_copy(0, bags, behind)
    return sums


@emulates("quantized::embedding_byte")
def embedding_byte(weight: Weight, indices: Tensor, pruned_weights: bool) -> Tensor:
    """fma(q, s, -z · s) of each row that is looked up. See `sums_in_bags`."""
    return sums_in_bags(rows_of_bytes(weight), indices.reshape([-1, 1]), None, None, False)


@emulates("quantized::embedding_bag_byte")
def embedding_bag_byte(
    weight: Weight,
    indices: Tensor,
    offsets: Tensor | None,
    scale_grad_by_freq: bool,
    mode: int,
    pruned_weights: bool,
    per_sample_weights: Tensor | None,
    compressed_indices_mapping: Tensor | None,
    include_last_offset: bool,
) -> Tensor:
    """See `rows_of_bytes` and `sums_in_bags`. Every mode adds up."""
    return sums_in_bags(rows_of_bytes(weight), indices, offsets, per_sample_weights, include_last_offset)


@emulates("quantized::embedding_bag_4bit_rowwise_offsets")
def embedding_bag_4bit_rowwise_offsets(
    weight: Weight,
    indices: Tensor,
    offsets: Tensor | None,
    scale_grad_by_freq: bool,
    mode: int,
    pruned_weights: bool,
    per_sample_weights: Tensor | None,
    compressed_indices_mapping: Tensor | None,
    include_last_offset: bool,
) -> Tensor:
    """See `rows_of_nibbles` and `sums_in_bags`. Every mode adds up."""
    return sums_in_bags(rows_of_nibbles(weight), indices, offsets, per_sample_weights, include_last_offset)
