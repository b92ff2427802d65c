// What an aten::constant_pad_nd puts around a tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

// Of each dimension of space, first to last: before it and after it.
struct Frame {
  std::vector<int64_t> before;
  std::vector<int64_t> after;
};

// Nothing where the sizes are not constants, where one of them is negative, or where the pad puts something
// around another dimension than the last ones.
std::optional<Frame> frame_of(const torch::jit::Node* pad, size_t dimensions);

}  // namespace jitquant
