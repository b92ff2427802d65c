// fuse_padding: a native convolution pads its input itself, or the quantize before it does.
//
// Before (the integer %zero_point stands for zero):
//   %p : Tensor = aten::constant_pad_nd(%x, %sides, %zero_point)
//   %k = jitquant::conv_prepack(%w, ..., %padding, ..., %zero_point, ...)
//   %y : Tensor = jitquant::conv2d(%p, %k)
// After:
//   %k = jitquant::conv_prepack(%w, ..., %wider_padding, ..., %zero_point, ...)
//   %y : Tensor = jitquant::conv2d(%x, %k)
//
// Before:
//   %p : Tensor = aten::constant_pad_nd(%x, %sides, %zero)
//   %m = jitquant::quantize_prepack(%scale, %zero_point, %none, %none)
//   %q : Tensor = jitquant::quantize(%p, %m)
//   %k = jitquant::conv_prepack(%w, ..., %padding, ...)
//   %y : Tensor = jitquant::conv2d(%q, %k)
// After:
//   %m = jitquant::quantize_prepack(%scale, %zero_point, %wider_padding, %none)
//   %q : Tensor = jitquant::quantize(%x, %m)
//   %k = jitquant::conv_prepack(%w, ..., %no_padding, ...)
//   %y : Tensor = jitquant::conv2d(%q, %k)
//
// The second where zero is another integer than 0: padding with that takes oneDNN up to half as long again,
// and the quantize, which writes the image anyway, next to nothing.
//
// Left alone: padding with other values, of the batch or channel dimension, or by less than nothing; input
// that is changed in place; and a quantize whose result something else takes too.

#include <algorithm>

#include "csrc/graph_edit.h"
#include "csrc/padding.h"
#include "csrc/pass.h"
#include "csrc/places.h"
#include "csrc/quantization_params.h"
#include "csrc/walk.h"
#include "csrc/writes.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

void widen(Frame& frame, const Frame& more) {
  for (size_t i = 0; i < frame.before.size(); ++i) {
    frame.before[i] += more.before[i];
    frame.after[i] += more.after[i];
  }
}

// As the kernels' prepack ops take it.
std::vector<int64_t> sides(const Frame& frame) {
  std::vector<int64_t> all(frame.before.size() + frame.after.size());
  std::copy(frame.after.begin(), frame.after.end(),
            std::copy(frame.before.begin(), frame.before.end(), all.begin()));
  return all;
}

size_t spatial_dimensions(const Node* conv) {
  if (is_op(conv, {"jitquant::conv1d", "jitquant::conv1d_add"})) {
    return 1;
  }
  if (is_op(conv, {"jitquant::conv2d", "jitquant::conv2d_add"})) {
    return 2;
  }
  return is_op(conv, {"jitquant::conv3d", "jitquant::conv3d_add"}) ? 3 : 0;
}

std::optional<double> number(const Context& context, const Value* value) {
  auto known = context.static_value(value);
  return known && known->isScalar() ? std::optional(known->toScalar().toDouble()) : std::nullopt;
}

class Fuser {
 public:
  Fuser(Context& context, const std::shared_ptr<torch::jit::Graph>& graph)
      : context_(context), writes_(context, graph) {}

  bool visit(Node* conv) {
    const size_t dimensions = spatial_dimensions(conv);
    Node* prepack = dimensions == 0 ? nullptr : prepack_of(conv, "jitquant::conv_prepack");
    auto given = prepack == nullptr ? std::nullopt : constant_of(prepack->namedInput("padding"));
    auto zero_point = given ? number(context_, prepack->namedInput("input_zero_point")) : std::nullopt;
    if (!zero_point || given->toIntVector().size() != dimensions) {
      return false;
    }
    Frame frame{given->toIntVector(), given->toIntVector()};
    bool changed = take_padding(conv, frame, *zero_point);
    Node* quantize = conv->input(0)->node();
    Node* quantize_prepack = only_user(conv->input(0)) != conv || dimensions != 2
                                 ? nullptr
                                 : prepack_of(quantize, "jitquant::quantize_prepack");
    if (quantize_prepack != nullptr) {
      changed = take_padding(quantize, frame, 0) || changed;
      const Frame none{{0, 0}, {0, 0}};
      if (*zero_point != 0 && sides(frame) != sides(none)) {
        set_input(quantize_prepack, "padding", constant(quantize_prepack, sides(frame)));
        frame = none;
        changed = true;
      }
    }
    if (changed) {
      set_input(prepack, "padding",
                constant(prepack, frame.before == frame.after ? frame.before : sides(frame)));
    }
    return changed;
  }

 private:
  // The node that makes the kernel of this one alone.
  static Node* prepack_of(Node* node, const char* op) {
    if (node->inputs().size() < 2) {
      return nullptr;
    }
    Value* kernel = node->inputs().back();
    return is_op(kernel->node(), op) && kernel->uses().size() == 1 ? kernel->node() : nullptr;
  }

  // Widens the frame by the padding of the node's first input, and lets it take what is padded.
  bool take_padding(Node* node, Frame& frame, double value) const {
    Node* pad = node->input(0)->node();
    const bool pads = pad->kind() == c10::aten::constant_pad_nd && !writes_.touch_any_of(pad) &&
                      number(context_, pad->namedInput("value")) == value;
    auto more = pads ? frame_of(pad, frame.before.size()) : std::nullopt;
    if (more) {
      widen(frame, *more);
      join_places({pad, node}, node);
      node->replaceInput(0, pad->input(0));
      if (pad->output()->uses().empty()) {
        pad->destroy();
      }
    }
    return more.has_value();
  }

  const Context& context_;
  const Writes writes_;
};

}  // namespace

int64_t FusePadding(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    Fuser fuser(context, graph);
    for_each_node(graph->block(), [&](Node* node) { count += fuser.visit(node); });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(FusePadding, "fuse_padding",
              "A native convolution pads its input itself, or the quantize before it.");

}  // namespace jitquant
