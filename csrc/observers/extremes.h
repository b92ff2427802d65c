// The smallest and the largest of many floats, with NaN and infinity kept.
#pragma once

#include <cstdint>
#include <limits>

namespace jitquant::observers {

struct Extremes {
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();

  bool finite() const;
  // NaN in one of them is NaN in the result, as torch.aminmax has it.
  void include(const Extremes& other);
};

Extremes extremes_of(const float* values, int64_t count);

}  // namespace jitquant::observers
