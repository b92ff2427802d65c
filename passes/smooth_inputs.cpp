// smooth_inputs: channels of a linear's input that are much larger than the others are made smaller before
// they are rounded, and the weights that they meet larger, where that brings the result nearer to float.
//
// Before:
//   %n : Tensor = aten::layer_norm(%v, %shape, %weight, %bias, ...)
//   %q : Tensor = aten::quantize_per_tensor(%n, %scale, %zero_point, %dtype)
//   %x : Tensor = aten::dequantize(%q)
//    = jitquant::record_channels(%x, %sums, %lowest, %highest)
//   %y : Tensor = aten::linear(%x, %w, %b)
// After, where nothing else takes %n (%weight.1 is %weight / s, %bias.1 is %bias / s, %w.1 is %w * s):
//   %n : Tensor = aten::layer_norm(%v, %shape, %weight.1, %bias.1, ...)
//   %q : Tensor = aten::quantize_per_tensor(%n, %scale.1, %zero_point.1, %dtype)
//   %x : Tensor = aten::dequantize(%q)
//   %y : Tensor = aten::linear(%x, %w.1, %b)
// and otherwise:
//   %m : Tensor = aten::multiply(%n, %factors)
//   %q.1 : Tensor = aten::quantize_per_tensor(%m, %scale.1, %zero_point.1, %dtype)
//   ...
//
// For each channel s = max|x|^a / max|w|^(1 - a) (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438, equation
// 4). The exponent a is the one of the least expected error. Rounding to a step d is off by d^2 / 12 on
// average, so that for all outputs k together
//   the inputs give    d^2 / 12 * sum_j s_j^2 sum_k w_kj^2    with d = (max_j high_j/s_j - min_j low_j/s_j) /
//   255 the weights give   sum_k d_k^2 / 12 * sum_j E[x_j^2] / s_j^2    with d_k = max_j |w_kj s_j| / 127.
//
// Left alone: inputs for which no a halves the error; those that an integer op gives, which would have to
// give float for it; those that a linear takes whose weight is not symmetric; and linears that calibration
// did not reach.

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

#include "csrc/chain.h"
#include "csrc/dynamic.h"
#include "csrc/graph_edit.h"
#include "csrc/input_statistics.h"
#include "csrc/op_table.h"
#include "csrc/quantization_params.h"
#include "csrc/smoothing.h"
#include "csrc/target.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

constexpr double kExponents[] = {0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95};
constexpr double kWorthwhile = 0.5;  // of the error without
// Channels smaller than this part of the largest one count as that large.
constexpr double kSmallest = 1e-4;

// A quantized value that linears take.
struct Site {
  Value* value;  // dequantized
  Node* quantize;
  std::vector<Recorded> linears;
  int64_t lowest, highest;  // integers
  at::Tensor low, high;     // of each channel, as all below; double
  at::Tensor spread;        // mean squares, about the mean where the bias takes that back
};

bool is_linear_of(const torch::jit::Use& use) { return is_op(use.user, "aten::linear") && use.offset == 0; }

std::optional<Site> find_site(Node* record, const std::vector<Recorded>& linears) {
  Value* value = record->input(0);
  Node* quantize = is_dequantize(value) ? value->node()->input()->node() : nullptr;
  const auto& uses = value->uses();
  const auto takers = static_cast<size_t>(std::count_if(uses.begin(), uses.end(), is_linear_of));
  if (quantize == nullptr || !is_static_quantize(quantize) || linears.empty() || linears.size() != takers) {
    return std::nullopt;
  }
  const at::Tensor sums = linears[0].sums;
  const int64_t channels = sums.size(1) - 1;
  const at::Tensor numbers = sums.slice(1, 0, channels);
  const at::Tensor count = sums[3][channels];
  at::Tensor spread = numbers[3] / count;
  const bool corrects_bias =
      std::any_of(uses.begin(), uses.end(), [](const auto& use) { return records_sums(use.user); });
  if (corrects_bias) {
    spread = (spread - (numbers[2] / count).square()).clamp_min(0);
  }
  return Site{value,
              quantize,
              linears,
              constant_of(record->input(2))->toInt(),
              constant_of(record->input(3))->toInt(),
              numbers[0],
              numbers[1],
              spread};
}

// Where the factors of the input go.
enum class Place { Nowhere, LayerNorm, Multiply };

// Whether nothing but linears takes the value.
bool is_for_linears(const Site& site) {
  const auto& uses = site.value->uses();
  return only_user(site.quantize->input(0)) == site.quantize &&
         std::all_of(uses.begin(), uses.end(),
                     [](const auto& use) { return is_linear_of(use) || is_record(use.user); });
}

bool can_be_folded(const Context& context, const Site& site) {
  const Node* norm = site.quantize->input(0)->node();
  if (!is_op(norm, "aten::layer_norm") || !is_for_linears(site)) {
    return false;
  }
  auto known = [&](const char* name) {
    Value* value = norm->namedInput(name);
    auto tensor = context.static_tensor(value);
    return value->mustBeNone() || (tensor && tensor->dim() == 1);
  };
  auto shape = constant_of(norm->namedInput("normalized_shape"));
  return shape && shape->toIntVector().size() == 1 && known("weight") && known("bias");
}

// Whether it is float before it is quantized, whatever follows.
bool is_float(const Context& context, Node* node) {
  const OpRow* row = find_row(node);
  if (row == nullptr || !has_integer_form(context.target(), *row)) {
    return true;
  }
  const IntegerForm* form = find_form(context.target(), *row);
  if (form == nullptr) {
    return false;
  }
  const bool refused = is_op(node, "aten::layer_norm") && form->suits != nullptr &&
                       !form->suits(context, {.node = node, .names = {{"input", node->input(0)}}});
  return (form->takes_float && form->gives_float) || refused;
}

// The op that gives a value, or the one before where that is an elementwise function.
Node* computing_op(Value* value) {
  if (!activation_words(value->node())) {
    return value->node();
  }
  Value* input = value->node()->input(0);
  const bool is_pair = is_dequantize(input) && is_quantize(input->node()->input()->node());
  return is_pair ? input->node()->input()->node()->input(0)->node() : input->node();
}

// Whether an op, with the elementwise function behind it, can multiply the value that it gives as well.
bool takes_factors(const Context& context, Node* op, const Value* value) {
  const OpRow* row = find_row(op);
  const IntegerForm* form = find_form(context.target(), *row);
  return form != nullptr && form->takes_factors && !is_fenced(op) &&
         find_chain(op, *row, *form, /*through_pairs=*/true).end == value;
}

Place place_of(const Context& context, const Site& site) {
  if (can_be_folded(context, site)) {
    return Place::LayerNorm;
  }
  Value* value = site.quantize->input(0);
  Node* op = computing_op(value);
  const OpRow* row = find_row(op);
  // What has a weight does the function behind it too, and must not be torn from it.
  const bool fits = row != nullptr && row->weight()
                        ? is_for_linears(site) && takes_factors(context, op, value)
                        : is_float(context, value->node());
  return fits ? Place::Multiply : Place::Nowhere;
}

// The scales of the weights times `factors`, [outputs]: the integers are used as far as before.
at::Tensor scales_with(const Recorded& linear, const at::Tensor& factors) {
  const at::Tensor sizes = linear.weight[0].abs();
  at::Tensor before = sizes.amax(1);
  at::Tensor after = (sizes * factors).amax(1);
  if (is_quantize(linear.quantize)) {
    before = before.max().expand_as(before);
    after = after.max().expand_as(after);
  }
  const at::Tensor scales = linear.scale.flatten();
  return at::where(before > 0, scales * after / before, scales);
}

double step_of(const Site& site, const at::Tensor& factors) {
  const double range = ((site.high / factors).max() - (site.low / factors).min()).item<double>();
  return range / static_cast<double>(site.highest - site.lowest);
}

double expected_error(const Site& site, const at::Tensor& energy, const at::Tensor& factors) {
  const double inputs =
      std::pow(step_of(site, factors), 2) * (factors.square() * energy).sum().item<double>();
  const double spread = (site.spread / factors.square()).sum().item<double>();
  const at::Tensor narrow = factors.to(at::kFloat);
  double steps = 0;
  for (const Recorded& linear : site.linears) {
    steps += scales_with(linear, narrow).to(at::kDouble).square().sum().item<double>();
  }
  return (inputs + steps * spread) / 12;
}

at::Tensor bounded(const at::Tensor& sizes) {
  return sizes.clamp_min(std::max(sizes.max().item<double>() * kSmallest, 1e-30));
}

// s of each channel; nothing where it is better left alone.
std::optional<at::Tensor> choose_factors(const Site& site) {
  std::vector<at::Tensor> rows;
  for (const Recorded& linear : site.linears) {
    rows.push_back(linear.weight[0]);
  }
  const at::Tensor weight = at::cat(rows);
  const at::Tensor energy = weight.square().sum(0).to(at::kDouble);
  const at::Tensor inputs = bounded(at::maximum(site.high, -site.low));
  const at::Tensor weights = bounded(weight.abs().amax(0).to(at::kDouble));
  double least = expected_error(site, energy, at::ones_like(inputs)) * kWorthwhile;
  std::optional<at::Tensor> best;
  for (const double exponent : kExponents) {
    const at::Tensor factors = inputs.pow(exponent) / weights.pow(1 - exponent);
    const double error = expected_error(site, energy, factors);
    if (error < least) {
      least = error;
      best = factors;
    }
  }
  return best;
}

Value* new_tensor(Context& context, Node* before, const char* prefix, const at::Tensor& data) {
  return context.new_attribute(before, prefix, data, c10::TensorType::get());
}

void scale_weight(Context& context, const Recorded& linear, const at::Tensor& factors) {
  Node* op = linear.op;
  Node* old = linear.quantize;
  const at::Tensor narrow = factors.to(at::kFloat);
  const at::Tensor scales = scales_with(linear, narrow);
  std::vector<Value*> inputs(old->inputs().begin(), old->inputs().end());
  inputs[0] = new_tensor(context, op, "_weight_", linear.weight[0] * narrow);
  inputs[1] = is_quantize(old)
                  ? context.new_attribute(op, "_scale_", scales[0].item().toDouble(), c10::FloatType::get())
                  : new_tensor(context, op, "_scale_", scales);
  Value* quantized = insert_op(op, op, old->kind().toQualString(), inputs);
  set_input(op, "weight", insert_op(op, op, "aten::dequantize", {quantized}));
}

void scale_norm(Context& context, Node* norm, const at::Tensor& factors) {
  auto weight = context.static_tensor(norm->namedInput("weight"));
  auto bias = context.static_tensor(norm->namedInput("bias"));
  const at::Tensor scaled = (weight ? weight->detach() : at::ones_like(factors)) / factors;
  set_input(norm, "weight", new_tensor(context, norm, "_weight_", scaled.to(at::kFloat)));
  if (bias) {
    set_input(norm, "bias", new_tensor(context, norm, "_bias_", (bias->detach() / factors).to(at::kFloat)));
  }
}

// The scaled value, quantized and dequantized.
Value* insert_pair(Context& context, const Site& site, const at::Tensor& factors, Place place) {
  Node* before = site.quantize;
  Value* value = before->input(0);
  if (place == Place::LayerNorm) {
    scale_norm(context, value->node(), factors);
  } else {
    Value* inverse = new_tensor(context, before, "_factors_", (1 / factors).to(at::kFloat));
    value = insert_op(before, before, kSmooth, {value, inverse});
  }
  const double step = std::max(step_of(site, factors), 1e-30);
  const double low = (site.low / factors).min().item<double>();
  const int64_t zero_point = site.lowest + static_cast<int64_t>(std::nearbyint(-low / step));
  Value* quantized = insert_op(
      before, before, "aten::quantize_per_tensor",
      {value, context.new_attribute(before, "_scale_", step, c10::FloatType::get()),
       context.new_attribute(before, "_zero_point_", zero_point, c10::IntType::get()), before->input(3)});
  return insert_op(before, before, "aten::dequantize", {quantized});
}

bool smooth(Context& context, Node* record, const std::vector<Recorded>& linears) {
  auto site = find_site(record, linears);
  const Place place = site ? place_of(context, *site) : Place::Nowhere;
  auto factors = place == Place::Nowhere ? std::nullopt : choose_factors(*site);
  if (!factors) {
    return false;
  }
  Value* scaled = insert_pair(context, *site, *factors, place);
  scale_records(context, site->value, scaled, 1 / *factors);
  for (const Recorded& linear : site->linears) {
    linear.op->replaceInput(0, scaled);
    scale_weight(context, linear, *factors);
  }
  return true;
}

}  // namespace

int64_t SmoothInputs(Context& context) {
  int64_t count = 0;
  take_records(context, kRecordChannels, [&](Node* record, const std::vector<Recorded>& linears) {
    count += smooth(context, record, linears);
  });
  return count;
}

JITQUANT_PASS(SmoothInputs, "smooth_inputs", "Large channels of what linears take are made smaller.");

}  // namespace jitquant
