#include "csrc/observers/extremes.h"

#include <cmath>
#include <cstring>

#include "csrc/observers/vectorized.h"

namespace jitquant::observers {

namespace {

// Floats as integers of the same order. NaN comes beyond the infinities, so that it needs no test of its own,
// and minima of integers may be taken in any order, which is what lets the loop use vectors.
constexpr int32_t key_of(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

constexpr int32_t kInfinity = key_of(0x7f800000);
constexpr int32_t kMinusInfinity = key_of(static_cast<int32_t>(0xff800000U));

float value_of(int32_t key) {
  const int32_t bits = key_of(key);
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

JITQUANT_VECTORIZED void key_extremes(const float* values, int64_t count, int32_t* low, int32_t* high) {
  int32_t lowest = std::numeric_limits<int32_t>::max();
  int32_t highest = std::numeric_limits<int32_t>::min();
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits = 0;
    std::memcpy(&bits, values + i, sizeof bits);
    const int32_t key = key_of(bits);
    lowest = key < lowest ? key : lowest;
    highest = key > highest ? key : highest;
  }
  *low = lowest;
  *high = highest;
}

bool Extremes::finite() const { return std::isfinite(low) && std::isfinite(high); }

void Extremes::include(const Extremes& other) {
  low = other.low < low || std::isnan(other.low) ? other.low : low;
  high = other.high > high || std::isnan(other.high) ? other.high : high;
}

Extremes extremes_of(const float* values, int64_t count) {
  if (count == 0) {
    return {};
  }
  int32_t low = 0;
  int32_t high = 0;
  key_extremes(values, count, &low, &high);
  if (low < kMinusInfinity || high > kInfinity) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    return {nan, nan};
  }
  return {value_of(low), value_of(high)};
}

}  // namespace jitquant::observers
