// Depthwise convolution in three dimensions: oneDNN 3.2 has none of bytes but a product of matrices for each
// channel, which takes a hundred times as long.
#pragma once

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

// In time, height and width.
struct Window {
  std::vector<int64_t> stride;
  std::vector<int64_t> before;  // padding
  std::vector<int64_t> dilation;
};

// Nothing where the loop has no such tail, or where the window is too large for exact sums.
std::function<void(Tensors, void*)> depthwise3d(const Spec& spec, const Window& window,
                                                const std::vector<int64_t>& output);

}  // namespace jitquant::runtime
