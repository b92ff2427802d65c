// round_weights: each weight is rounded up or down such that what its op gives changes least on the data of
// calibration, and the bias takes back what is left on average.
//
// Before:
//    = jitquant::record_products(%x, %sums, ...)
//   %q : Tensor = aten::quantize_per_channel(%weight, %scales, %zero_points, %axis, %dtype)
// After:
//   %weight.1 : Tensor = prim::GetAttr[name="_weight_0"](%self)
//   %q : Tensor = aten::quantize_per_channel(%weight.1, %scales, %zero_points, %axis, %dtype)
//
// With the covariance C of the inputs, a row w becomes the q for which (w - q) C (w - q)' is small: the
// inputs are rounded one after another, and the error of each is made up for by those that are left (GPTQ,
// Frantar et al. 2023, arXiv:2210.17323; with the inputs of the largest variance first, and about the mean,
// since the bias is free to move). Left alone: ops that calibration did not reach.

#include <ATen/ATen.h>

#include "csrc/graph_edit.h"
#include "csrc/input_statistics.h"

namespace jitquant {

namespace {

// Added to the diagonal, as a part of its mean: few samples say little about small variances.
constexpr double kDamping = 0.01;

struct Moments {
  at::Tensor mean;        // [groups, K]
  at::Tensor covariance;  // [groups, K, K]
};

Moments moments_of(const at::Tensor& sums) {
  const int64_t depth = sums.size(1) - 1;
  const at::Tensor count = sums.select(1, depth).select(1, depth).reshape({-1, 1, 1});
  const at::Tensor mean = sums.select(1, depth).slice(1, 0, depth) / count.squeeze(2);
  const at::Tensor products = sums.slice(1, 0, depth).slice(2, 0, depth) / count;
  return {mean, products - mean.unsqueeze(2) * mean.unsqueeze(1)};
}

// The integers of each row, [groups, outputs, K].
at::Tensor rounded(const Recorded& recorded, const at::Tensor& covariance) {
  const int64_t depth = recorded.weight.size(2);
  at::Tensor damped = covariance.clone();
  at::Tensor diagonal = damped.diagonal(0, 1, 2);
  diagonal.add_((diagonal.mean(1, true) * kDamping).clamp_min(1e-12));
  const at::Tensor order = diagonal.argsort(1, /*descending=*/true);
  const at::Tensor columns = order.unsqueeze(1);
  damped = damped.gather(1, order.unsqueeze(2).expand_as(damped)).gather(2, columns.expand({-1, depth, -1}));
  // The rows of the factor of the inverse say how the inputs that are left make up for an error.
  const at::Tensor factor = at::linalg_cholesky(at::linalg_inv(damped)).transpose(1, 2).contiguous();
  at::Tensor left = recorded.weight.to(at::kDouble).gather(2, columns.expand_as(recorded.weight));
  at::Tensor integers = at::empty_like(left);
  const at::Tensor scale = recorded.scale.squeeze(2).to(at::kDouble);
  // Of weights with fewer bits, no integer gets larger than the largest one.
  const at::Tensor most = (recorded.weight.abs().amax(2) / scale).round().clamp_max(127);
  for (int64_t i = 0; i < depth; ++i) {
    const at::Tensor column = left.select(2, i);
    const at::Tensor integer = (column / scale).round().clamp(-most, most);
    integers.select(2, i).copy_(integer);
    const at::Tensor row = factor.select(1, i).slice(1, i);
    const at::Tensor error = (column - integer * scale) / row.slice(1, 0, 1);
    left.slice(2, i).sub_(error.unsqueeze(2) * row.unsqueeze(1));
  }
  return at::empty_like(integers).scatter_(2, columns.expand_as(integers), integers);
}

void round_weight(Context& context, const Recorded& recorded) {
  const Moments moments = moments_of(recorded.sums);
  const at::Tensor weight = recorded.weight.to(at::kDouble);
  const at::Tensor nearer = rounded(recorded, moments.covariance) * recorded.scale.to(at::kDouble);
  const auto shape = context.static_tensor(recorded.quantize->input(0))->sizes().vec();
  recorded.quantize->replaceInput(
      0, context.new_attribute(recorded.quantize, "_weight_", nearer.reshape(shape).to(at::kFloat),
                               c10::TensorType::get()));
  add_to_bias(context, recorded, at::bmm(weight - nearer, moments.mean.unsqueeze(2)));
}

}  // namespace

int64_t RoundWeights(Context& context) {
  return visit_recorded(context, kRecordProducts,
                        [&](const Recorded& recorded) { round_weight(context, recorded); });
}

JITQUANT_PASS(RoundWeights, "round_weights", "Weights are rounded as calibration data asks for.");

}  // namespace jitquant
