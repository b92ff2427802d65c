// correct_bias: rounding a weight shifts what its op gives on average; the bias takes that back.
//
// Before:
//    = jitquant::record_means(%x, %sums, %axis)
//   %y : Tensor = aten::linear(%x, %rounded, %bias)
// After:
//   %bias.1 : Tensor = prim::GetAttr[name="_bias_0"](%self)
//   %y : Tensor = aten::linear(%x, %rounded, %bias.1)
//
// With the mean m of the inputs, bias.1 = bias + (weight - rounded) m: the mean of the result is then that of
// the float op (Nagel et al. 2019, arXiv:1906.04721, section 4.2, with means that were measured). The zeros
// around an image are not counted. Left alone: ops that calibration did not reach, and a bias that is
// computed.

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "csrc/input_statistics.h"

namespace jitquant {

namespace {

// The nearest integer, in a way that a loop can do for many numbers at once: so large a float has no
// fraction.
float nearest(float number) {
  constexpr float large = 12582912.0F;  // 1.5 * 2^23
  return (number + large) - large;
}

// What rounding takes from weight * inputs, for one row.
double error_of(const float* weight, const float* inputs, int64_t depth, float scale) {
  constexpr int64_t part = 1024;  // floats add up well only so many at a time
  const float inverse = 1 / scale;
  double sum = 0;
  for (int64_t begin = 0; begin < depth; begin += part) {
    float error = 0;
    for (int64_t i = begin; i < std::min(begin + part, depth); ++i) {
      const float integer = std::min(std::max(nearest(weight[i] * inverse), -128.0F), 127.0F);
      error += (weight[i] - integer * scale) * inputs[i];
    }
    sum += error;
  }
  return sum;
}

void correct(Context& context, const Recorded& recorded) {
  const int64_t channels = recorded.sums.size(0) - 1;
  const int64_t groups = recorded.weight.size(0);
  const int64_t outputs = recorded.weight.size(1);
  const int64_t depth = recorded.weight.size(2);
  const int64_t taps = depth * groups / channels;  // of the window, for each channel
  const at::Tensor means =
      (recorded.sums.slice(0, 0, channels) / recorded.sums[channels]).to(at::kFloat).repeat_interleave(taps);
  at::Tensor more = at::empty({groups * outputs}, at::kDouble);
  const auto* weight = recorded.weight.const_data_ptr<float>();
  const auto* scale = recorded.scale.const_data_ptr<float>();
  const auto* inputs = means.const_data_ptr<float>();
  auto* result = more.mutable_data_ptr<double>();
  at::parallel_for(0, groups * outputs, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      result[row] = error_of(weight + row * depth, inputs + row / outputs * depth, depth, scale[row]);
    }
  });
  add_to_bias(context, recorded, more);
}

}  // namespace

int64_t CorrectBias(Context& context) {
  return visit_recorded(context, kRecordMeans, [&](const Recorded& recorded) { correct(context, recorded); });
}

JITQUANT_PASS(CorrectBias, "correct_bias", "The bias takes back what rounding the weight shifts.");

}  // namespace jitquant
