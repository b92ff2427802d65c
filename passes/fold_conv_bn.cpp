// fold_conv_bn: batch norm behind a convolution, transposed convolution or linear goes into its weight and
// bias.
//
// Before:
//   %c : Tensor = aten::conv2d(%x, %weight, %none, ...)
//   %y : Tensor = aten::batch_norm(%c, %gamma, %beta, %mean, %var, %false, ...)
// After:
//   %weight : Tensor = prim::GetAttr[name="weight"](%conv)
//   %bias : Tensor = prim::GetAttr[name="bias"](%conv)
//   %y : Tensor = aten::conv2d(%x, %weight, %bias, ...)
// where the weight is now times gamma / sqrt(var + eps), and the bias (bias - mean) times that, plus beta.
//
// A weight that is used at several call sites stays as it is, and each site gets folded weights of its own.
// Left alone: batch norm that trains, that has no running statistics, whose channels are not those of the op
// before it, or whose input something else uses too. Behind a linear the features are taken to be the
// dimension that is normalized, as they are for a matrix, unless something requires more dimensions.

#include <algorithm>

#include <ATen/ATen.h>

#include "csrc/graph_edit.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/static_weights.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

struct BatchNorm {
  at::Tensor scale;  // of each channel, in double
  at::Tensor shift;
};

std::optional<BatchNorm> read_batch_norm(const Context& context, const Node* node) {
  auto training = constant_of(node->namedInput("training"));
  auto eps = constant_of(node->namedInput("eps"));
  auto mean = context.static_tensor(node->namedInput("running_mean"));
  auto var = context.static_tensor(node->namedInput("running_var"));
  if (!training || training->toBool() || !eps || !mean || !var) {
    return std::nullopt;
  }
  BatchNorm norm;
  norm.scale = at::rsqrt(var->to(at::kDouble) + eps->toDouble());
  if (auto gamma = context.static_tensor(node->namedInput("weight"))) {
    norm.scale = norm.scale * gamma->to(at::kDouble);
  } else if (!node->namedInput("weight")->mustBeNone()) {
    return std::nullopt;
  }
  norm.shift = -mean->to(at::kDouble) * norm.scale;
  if (auto beta = context.static_tensor(node->namedInput("bias"))) {
    norm.shift = norm.shift + beta->to(at::kDouble);
  } else if (!node->namedInput("bias")->mustBeNone()) {
    return std::nullopt;
  }
  return norm;
}

// The weight with each output channel scaled. Along axis 1, as in a transposed convolution, a group's outputs
// repeat for each group of inputs.
at::Tensor scale_channels(const at::Tensor& weight, const at::Tensor& scale, int64_t axis, int64_t groups) {
  std::vector<int64_t> shape(static_cast<size_t>(weight.dim()), 1);
  shape[static_cast<size_t>(axis)] = weight.size(axis);
  at::Tensor factor;
  if (axis == 0) {
    factor = scale.reshape(shape);
  } else {
    factor = scale.reshape({groups, -1}).repeat_interleave(weight.size(0) / groups, 0);
    shape[0] = weight.size(0);
    factor = factor.reshape(shape);
  }
  return (weight.to(at::kDouble) * factor).to(weight.scalar_type());
}

// Whether nothing but the batch norm uses the numbers; others may ask for the shape, which stays the same.
bool feeds_only(const Value* value, const Node* user) {
  return value->node()->owningBlock() == user->owningBlock() &&
         std::all_of(value->uses().begin(), value->uses().end(),
                     [&](const auto& use) { return use.user == user || asks_for_shape(use.user); });
}

// Whether something requires that many dimensions, as scripted BatchNorm2d and 3d do: then a linear gives no
// matrix, and its features are not the channels of the batch norm.
bool is_required_to_have_space(const Value* value) {
  return std::any_of(value->uses().begin(), value->uses().end(), [](const auto& use) {
    if (use.user->kind() != c10::aten::dim) {
      return false;
    }
    const auto& asked = use.user->output()->uses();
    return std::any_of(asked.begin(), asked.end(), [](const auto& comparison) {
      const Node* node = comparison.user;
      auto number = is_op(node, {"aten::ne", "aten::eq"}) ? constant_of(node->input(1)) : std::nullopt;
      return number && number->isInt() && number->toInt() > 3;
    });
  });
}

bool fold_into(Context& context, const Uses& uses, Node* norm_node) {
  Node* op = norm_node->input(0)->node();
  const OpRow* row = find_row(op);
  if (row == nullptr || !row->weight() || !row->bias || !feeds_only(op->output(), norm_node) ||
      (op->kind() == c10::aten::linear && is_required_to_have_space(op->output()))) {
    return false;
  }
  Value* weight_value = op->namedInput(*row->weight());
  Value* bias_value = op->namedInput(*row->bias);
  auto weight = context.static_tensor(weight_value);
  auto bias = context.static_tensor(bias_value);
  auto norm = read_batch_norm(context, norm_node);
  auto groups = groups_of(op);
  if (!weight || !norm || !groups || (!bias && !bias_value->mustBeNone())) {
    return false;
  }
  const int64_t channels = weight->size(row->weight_axis) * (row->weight_axis == 0 ? 1 : *groups);
  if (channels != norm->scale.size(0)) {
    return false;
  }
  const bool shared = is_shared(uses, weight_value) || is_shared(uses, bias_value);
  const at::Tensor folded_weight = scale_channels(*weight, norm->scale, row->weight_axis, *groups);
  at::Tensor folded_bias = norm->shift;
  if (bias) {
    folded_bias = folded_bias + bias->to(at::kDouble) * norm->scale;
  }
  replace_weight(context, op, row->weight()->c_str(), folded_weight, shared);
  replace_weight(context, op, row->bias->c_str(), folded_bias.to(weight->scalar_type()), shared);
  norm_node->output()->replaceAllUsesWith(op->output());
  norm_node->destroy();
  return true;
}

}  // namespace

int64_t FoldConvBn(Context& context) {
  int64_t count = 0;
  at::NoGradGuard no_grad;
  const Uses uses = context.attribute_uses();
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) {
      count += node->kind() == c10::aten::batch_norm && fold_into(context, uses, node);
    });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(FoldConvBn, "fold_conv_bn", "Batch norm goes into the weight and bias before it.");

}  // namespace jitquant
