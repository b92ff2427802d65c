// Which convolutions torch's oneDNN computes wrong: measured with oneDNN 3.12 (torch 2.13), on random
// geometries against exact sums. A newer oneDNN has to be measured again before a line of this goes.
#include "csrc/onednn_faults.h"

#include <c10/util/accumulate.h>

#include "csrc/graph_edit.h"
#include "csrc/quantization_params.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

std::vector<int64_t> integers_of(const Node* conv, const char* name) {
  auto known = constant_of(conv->namedInput(name));
  return known && known->isIntList() ? known->toIntVector() : std::vector<int64_t>{};
}

// Of an input whose zero point each call decides it is not sure either.
bool is_sure_to_have_zero_at_0(const Context& context, const Lowering& lowering) {
  auto found = lowering.names.find("$input_zero_point");
  auto zero_point = found == lowering.names.end() ? std::nullopt : context.static_value(found->second);
  return zero_point && zero_point->isInt() && zero_point->toInt() == 0;
}

// The share of the input's zero point is wrong where the result has more channels for each group than a
// vector has lanes, for some sizes, by up to 250 steps: with AMX's tiles, and without them where the groups
// have one input channel. A kernel of one position has one share for all of the image, which is right.
bool misplaces_zero_point(const Context& context, const Lowering& lowering, const at::Tensor& weight) {
  constexpr int64_t lanes = 16;
  auto groups = constant_of(lowering.node->namedInput("groups"));
  const int64_t positions = c10::multiply_integers(weight.sizes().slice(2));
  return groups && groups->toInt() > 1 && weight.size(0) > lanes * groups->toInt() && positions > 1 &&
         !is_sure_to_have_zero_at_0(context, lowering);
}

// A result that no pixel has a share in, as its place lies in the padding with all of the kernel: wrong for
// some sizes, and for some the process dies (https://github.com/uxlfoundation/oneDNN/issues/5942).
bool has_place_without_pixels(const Node* conv, const at::Tensor& weight) {
  const auto padding = integers_of(conv, "padding");
  const auto dilation = integers_of(conv, "dilation");
  for (size_t i = 0; i < padding.size() && i < dilation.size(); ++i) {
    const int64_t reach = (weight.size(static_cast<int64_t>(i) + 2) - 1) * dilation[i];
    if (padding[i] > reach) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::optional<at::Tensor> float_weight_of(const Context& context, const Node* conv) {
  const OpRow* row = find_row(conv);
  if (row == nullptr || !row->weight()) {
    return std::nullopt;
  }
  Value* weight = conv->namedInput(*row->weight());
  // Insertion put a quantize and a dequantize between the weight and the convolution.
  while (is_dequantize(weight) || is_quantize(weight->node()) ||
         weight->node()->kind() == c10::aten::quantize_per_channel) {
    weight = weight->node()->input(0);
  }
  return context.static_tensor(weight);
}

bool is_wrong_in_onednn(const Context& context, const Lowering& lowering) {
  auto weight = float_weight_of(context, lowering.node);
  return weight && (misplaces_zero_point(context, lowering, *weight) ||
                    has_place_without_pixels(lowering.node, *weight));
}

}  // namespace jitquant
