// The scale and the zero point of a range.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace jitquant::observers {

struct IntegerRange {
  int64_t quant_min;
  int64_t quant_max;
  bool symmetric;
  double eps;  // the smallest scale
};

struct Quantizer {
  float scale;
  int64_t zero_point;
};

// What choose_qparams of jitquant/observers.py documents. The zero point is computed in the type of the
// range.
template <typename T>
Quantizer choose_quantizer(T low, T high, const IntegerRange& range) {
  low = std::min(low, T{0});
  high = std::max(high, T{0});
  if (range.symmetric) {
    const int64_t middle = (range.quant_min + range.quant_max + 1) >> 1;
    const int64_t levels = std::min(middle - range.quant_min, range.quant_max - middle);
    const double scale = static_cast<double>(std::max(-low, high)) / static_cast<double>(levels);
    return {static_cast<float>(std::max(scale, range.eps)), middle};
  }
  // In double, because the distance between two floats may be too large for a float.
  const double width = static_cast<double>(high) - static_cast<double>(low);
  const auto steps = static_cast<double>(range.quant_max - range.quant_min);
  const auto scale = static_cast<float>(std::max(width / steps, range.eps));
  const T below_zero = std::nearbyint(low / static_cast<T>(scale));
  return {scale, range.quant_min - static_cast<int64_t>(below_zero)};
}

}  // namespace jitquant::observers
