// equalize_layers: the channels between two convolutions or linears get ranges that are alike, so that one
// scale suits all of them.
//
// Before:
//   %c : Tensor = aten::conv2d(%x, %weight.1, %bias.1, ...)
//   %r : Tensor = aten::relu(%c)
//   %y : Tensor = aten::conv2d(%r, %weight.2, %bias.2, ...)
// After the same, with the rows of %weight.1 and %bias.1 divided by s, and the columns of %weight.2 times s.
//
// For a positive s, f(x / s) = f(x) / s holds of what stands between, so that %y stays what it is. With r1
// and r2 the largest weights of a channel's row and column, s = sqrt(r1 / r2) makes both sqrt(r1 r2); that
// is done over and over, as most layers are the second of one pair and the first of the next (Nagel et al.
// 2019, arXiv:1906.04721, section 4.1). Left alone: pairs with something else between them, such as a relu6,
// whose bound would move, or a pool of the channels themselves; transposed convolutions; weights used at
// several call sites; and values that something else takes too.

#include <algorithm>
#include <unordered_map>

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

constexpr int kMostSweeps = 20;
constexpr double kEnough = 0.01;  // change of a factor
constexpr double kMostByOnce = 1000;

// Whether f(x / s) = f(x) / s holds for a factor s > 0 of each channel of what a layer gives. Pools mix
// values of the last dimensions: those of a convolution with as many, but the channels of a linear.
bool is_homogeneous(const Node* node, const Node* layer) {
  if (is_op(node, {"aten::relu", "aten::leaky_relu"})) {
    return true;
  }
  const std::string name = layer->kind().toUnqualString();
  if (name.rfind("conv", 0) != 0) {
    return false;
  }
  const std::string dimensions = name.substr(std::string("conv").size());
  return is_op(node, ("aten::max_pool" + dimensions).c_str()) ||
         is_op(node, ("aten::avg_pool" + dimensions).c_str()) ||
         is_op(node, ("aten::adaptive_avg_pool" + dimensions).c_str());
}

// A convolution or linear with weights of its own.
struct Layer {
  Node* op;
  int64_t groups;
  int64_t taps;
  at::Tensor largest;        // of all taps: [groups, outputs of a group, inputs of a group]
  at::Tensor output_factor;  // [outputs]
  at::Tensor input_factor;   // [inputs]
};

struct Pair {
  Node* first;
  Node* second;
};

class Equalizer {
 public:
  explicit Equalizer(Context& context) : context_(context), uses_(context.attribute_uses()) {}

  void collect(torch::jit::Block* block) {
    for_each_node(block, [&](Node* node) {
      Node* second = is_layer(node) ? next_layer(node) : nullptr;
      auto before = second == nullptr ? std::nullopt : layer_of(node);
      auto behind = before ? layer_of(second) : std::nullopt;
      if (behind && before->output_factor.size(0) == behind->input_factor.size(0)) {
        layers_.emplace(node, *before);
        layers_.emplace(second, *behind);
        pairs_.push_back({node, second});
      }
    });
  }

  int64_t run() {
    for (int sweep = 0; sweep < kMostSweeps; ++sweep) {
      double change = 0;
      for (const Pair& pair : pairs_) {
        change = std::max(change, equalize(layers_.at(pair.first), layers_.at(pair.second)));
      }
      if (change < kEnough) {
        break;
      }
    }
    for (auto& [node, layer] : layers_) {
      write(layer);
    }
    return static_cast<int64_t>(pairs_.size());
  }

 private:
  static bool is_layer(const Node* node) {
    return is_op(node, {"aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::linear"});
  }

  static Node* next_layer(Node* node) {
    Node* next = only_taker(node->output());
    while (next != nullptr && is_homogeneous(next, node) && next->outputs().size() == 1) {
      next = only_taker(next->output());
    }
    return next != nullptr && next->kind() == node->kind() ? next : nullptr;
  }

  // The op that takes the value as its first input, if no other takes its numbers.
  static Node* only_taker(const Value* value) {
    Node* taker = nullptr;
    for (const auto& use : value->uses()) {
      if (asks_for_shape(use.user)) {
        continue;
      }
      if (taker != nullptr || use.offset != 0 || use.user->owningBlock() != value->node()->owningBlock()) {
        return nullptr;
      }
      taker = use.user;
    }
    return taker;
  }

  // Nothing where its weight may not be changed.
  std::optional<Layer> layer_of(Node* node) const {
    auto weight = context_.static_tensor(node->namedInput("weight"));
    Value* bias = node->namedInput("bias");
    auto groups = groups_of(node);
    const bool is_known = weight && groups && (bias->mustBeNone() || context_.static_tensor(bias));
    if (!is_known || weight->scalar_type() != at::kFloat || weight->numel() == 0 ||
        is_shared(uses_, node->namedInput("weight")) || is_shared(uses_, bias)) {
      return std::nullopt;
    }
    const int64_t taps = weight->numel() / (weight->size(0) * weight->size(1));
    const at::Tensor largest = weight->reshape({*groups, -1, weight->size(1), taps}).abs().amax(3);
    const int64_t inputs = weight->size(1) * *groups;
    return Layer{node, *groups, taps, largest, at::ones({weight->size(0)}), at::ones({inputs})};
  }

  // Returns by how much the factors changed.
  static double equalize(Layer& first, Layer& second) {
    const at::Tensor rows = first.largest.amax(2).flatten();
    const at::Tensor columns = second.largest.amax(1).flatten();
    const at::Tensor ratio = at::sqrt(rows / columns).clamp(1 / kMostByOnce, kMostByOnce);
    const at::Tensor factor = at::where((rows > 0) & (columns > 0), ratio, at::ones_like(ratio));
    first.largest.div_(factor.reshape({first.groups, -1, 1}));
    first.output_factor.div_(factor);
    second.largest.mul_(factor.reshape({second.groups, 1, -1}));
    second.input_factor.mul_(factor);
    return at::abs(at::log(factor)).max().item<double>();
  }

  void write(const Layer& layer) {
    const at::Tensor weight = *context_.static_tensor(layer.op->namedInput("weight"));
    const at::Tensor by_input = weight.reshape({layer.groups, -1, weight.size(1), layer.taps}) *
                                layer.input_factor.reshape({layer.groups, 1, -1, 1});
    const at::Tensor by_output = by_input.reshape({weight.size(0), -1}) * layer.output_factor.unsqueeze(1);
    if (auto bias = context_.static_tensor(layer.op->namedInput("bias"))) {
      replace_weight(context_, layer.op, "bias", *bias * layer.output_factor, /*is_shared=*/false);
    }
    replace_weight(context_, layer.op, "weight", by_output.reshape(weight.sizes()), /*is_shared=*/false);
  }

  Context& context_;
  const Uses uses_;
  std::unordered_map<Node*, Layer> layers_;
  std::vector<Pair> pairs_;
};

}  // namespace

int64_t EqualizeLayers(Context& context) {
  at::NoGradGuard no_grad;
  Equalizer equalizer(context);
  for (const auto& graph : context.graphs()) {
    equalizer.collect(graph->block());
  }
  return equalizer.run();
}

JITQUANT_PASS(EqualizeLayers, "equalize_layers", "Channels between two layers get ranges that are alike.");

}  // namespace jitquant
