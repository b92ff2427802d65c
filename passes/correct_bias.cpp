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

#include <ATen/ATen.h>

#include "csrc/input_statistics.h"

namespace jitquant {

namespace {

void correct(Context& context, const Recorded& recorded) {
  const int64_t channels = recorded.sums.size(0) - 1;
  const at::Tensor means = recorded.sums.slice(0, 0, channels) / recorded.sums[channels];
  const int64_t groups = recorded.weight.size(0);
  const int64_t each = channels / groups;  // and of each channel all taps of the window
  const at::Tensor error =
      (recorded.weight - recorded.rounded).reshape({groups, recorded.weight.size(1), each, -1}).sum(3);
  add_to_bias(context, recorded, at::bmm(error, means.reshape({groups, each, 1}).to(at::kFloat)));
}

}  // namespace

int64_t CorrectBias(Context& context) {
  return visit_recorded(context, kRecordMeans, [&](const Recorded& recorded) { correct(context, recorded); });
}

JITQUANT_PASS(CorrectBias, "correct_bias", "The bias takes back what rounding the weight shifts.");

}  // namespace jitquant
