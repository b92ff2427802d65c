// fold_padding: padding with zeros, the same on both sides, becomes padding of the convolution behind it.
//
// Before:
//   %pad : int[] = prim::Constant[value=[1, 1, 1, 1]]()
//   %p : Tensor = aten::constant_pad_nd(%x, %pad, %zero)
//   %y : Tensor = aten::conv2d(%p, %w, %b, %stride, %padding, %dilation, %groups)
// After:
//   %y : Tensor = aten::conv2d(%x, %w, %b, %stride, %wider_padding, %dilation, %groups)
//
// Left alone: input that is changed in place, other values than zero, sides that differ (these are padded
// with the zero point later), and padding of the batch or channel dimension.

#include "csrc/graph_edit.h"
#include "csrc/padding.h"
#include "csrc/pass.h"
#include "csrc/walk.h"
#include "csrc/writes.h"

namespace jitquant {

namespace {

using torch::jit::Node;

size_t spatial_dimensions(const Node* node) {
  if (node->kind() == c10::aten::conv1d) {
    return 1;
  }
  if (node->kind() == c10::aten::conv2d) {
    return 2;
  }
  return node->kind() == c10::aten::conv3d ? 3 : 0;
}

// What the pad adds on either side of each spatial dimension, first to last.
std::optional<std::vector<int64_t>> symmetric_padding(const Node* pad, size_t dimensions) {
  auto value = constant_of(pad->namedInput("value"));
  const bool is_zero = value && value->isScalar() && value->toScalar().toDouble() == 0;
  auto frame = is_zero ? frame_of(pad, dimensions) : std::nullopt;
  return frame && frame->before == frame->after ? std::optional(frame->before) : std::nullopt;
}

bool fold_into(const Writes& writes, Node* conv) {
  const size_t dimensions = spatial_dimensions(conv);
  if (dimensions == 0 || conv->input(0)->node()->kind() != c10::aten::constant_pad_nd) {
    return false;
  }
  Node* pad = conv->input(0)->node();
  if (writes.touch_any_of(pad)) {
    return false;
  }
  auto own = constant_of(conv->namedInput("padding"));
  auto added = symmetric_padding(pad, dimensions);
  if (!own || !own->isIntList() || !added) {
    return false;
  }
  const auto before = own->toIntVector();
  for (size_t i = 0; i < dimensions; ++i) {
    (*added)[i] += before[before.size() == 1 ? 0 : i];
  }
  conv->replaceInput(0, pad->input(0));
  set_input(conv, "padding", constant(conv, *added));
  return true;
}

}  // namespace

int64_t FoldPadding(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    const Writes writes(context, graph);
    for_each_node(graph->block(), [&](Node* node) { count += fold_into(writes, node); });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(FoldPadding, "fold_padding", "Even zero padding becomes padding of the convolution behind it.");

}  // namespace jitquant
