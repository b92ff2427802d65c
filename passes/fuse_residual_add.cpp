// fuse_residual_add: a convolution and the add behind it become one op on the engine that has it (onednn).
//
// Before:
//   %c = quantized::conv2d(%x, %packed, %scale, %zero_point)
//   %y = quantized::add_relu(%c, %z, %scale.1, %zero_point.1)
// After:
//   %y = quantized::conv2d_add_relu(%x, %z, %packed, %scale.1, %zero_point.1)
//
// The fused op writes its result into the memory of %z. Left alone, therefore: an add whose other operand is
// used later, or by something that is no integer op, or did not come from one, or is not sure to have the
// same shape, or has scale 1 and zero point 0; and other engines, which have no such op. On the native target
// the two are one op from the start, and the same conditions decide whether it may overwrite %z
// (jitquant::conv2d_add_) or takes a copy; there %z may be what a float op gave as well, if that is sure to
// have memory of its own.

#include <algorithm>

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/places.h"
#include "csrc/quantization_params.h"
#include "csrc/target.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

// The prepack of a convolution, if that keeps the size of its input: then the channels are what its weight
// says.
Node* size_keeping_prepack(const Node* conv) {
  Node* prepack = conv->input(1)->node();
  if (!is_op(prepack, "quantized::conv2d_prepack")) {
    return nullptr;
  }
  auto stride = constant_of(prepack->namedInput("stride"));
  auto padding = constant_of(prepack->namedInput("padding"));
  auto dilation = constant_of(prepack->namedInput("dilation"));
  return stride && padding && dilation ? prepack : nullptr;
}

std::optional<at::Tensor> weight_of(const Context& context, const Node* prepack) {
  const Node* quantize = prepack->input(0)->node();
  return quantize->inputs().empty() ? std::nullopt : context.static_tensor(quantize->input(0));
}

bool keeps_size(const Node* prepack, const at::Tensor& weight) {
  const auto stride = constant_of(prepack->namedInput("stride"))->toIntVector();
  const auto padding = constant_of(prepack->namedInput("padding"))->toIntVector();
  const auto dilation = constant_of(prepack->namedInput("dilation"))->toIntVector();
  for (size_t i = 0; i < 2; ++i) {
    if (stride[i] != 1 || 2 * padding[i] != dilation[i] * (weight.size(static_cast<int64_t>(i) + 2) - 1)) {
      return false;
    }
  }
  return true;
}

// Whether `value` is sure to have the shape of what `conv` gives: convolutions that keep the size lead from
// it to there, at least two, since the fused op must not overwrite what it reads. (An add would broadcast;
// the fused op does not.)
bool has_shape_of(const Context& context, const Value* value, const Node* conv) {
  int64_t channels = -1;
  for (const Node* link = conv; is_op(link, {"quantized::conv2d", "quantized::conv2d_relu"});
       link = link->input(0)->node()) {
    const Node* prepack = size_keeping_prepack(link);
    auto weight = prepack == nullptr ? std::nullopt : weight_of(context, prepack);
    auto groups = prepack == nullptr ? std::nullopt : constant_of(prepack->namedInput("groups"));
    if (!weight || !groups || !keeps_size(prepack, *weight)) {
      return false;
    }
    channels = channels < 0 ? weight->size(0) : channels;
    if (link->input(0) == value) {
      return link != conv && channels == weight->size(1) * groups->toInt();
    }
  }
  return false;
}

// Float ops before a residual, of which the result is never a view of what they take.
bool gives_own_memory(const Node* node) {
  return is_op(node, {"aten::layer_norm", "aten::add", "aten::linear", "aten::embedding"});
}

// Whether nobody would see the memory of `value` change at the add: it came from an integer op of the same
// block, which gave it memory of its own, and the other integer ops that use it, none of which gives a view
// of it, are done by then.
bool may_be_overwritten(const Value* value, Node* add) {
  return (value->node()->kind().ns() == add->kind().ns() || gives_own_memory(value->node())) &&
         value->node()->owningBlock() == add->owningBlock() &&
         std::all_of(value->uses().begin(), value->uses().end(), [&](const auto& use) {
           return use.user == add || asks_for_shape(use.user) ||
                  (use.user->kind().ns() == add->kind().ns() && use.user->isBefore(add));
         });
}

// A packed weight keeps the kernel of its last call, and a summand with scale 1 and zero point 0 is no reason
// for ATen to make another: behind a plain convolution of the same parameters the summand would be forgotten.
bool is_sure_to_be_added(const Context& context, Value* other) {
  auto params = qparams_of(other);
  auto scale = params ? context.static_value(params->scale) : std::nullopt;
  auto zero_point = params ? context.static_value(params->zero_point) : std::nullopt;
  return scale && zero_point && !(scale->toDouble() == 1 && zero_point->toInt() == 0);
}

bool fuse(const Context& context, Node* add) {
  const bool relu = is_op(add, "quantized::add_relu");
  if (!relu && !is_op(add, "quantized::add")) {
    return false;
  }
  // The later of two convolutions, so that the other operand is there already.
  for (size_t i : {1, 0}) {
    Node* conv = add->input(i)->node();
    Value* other = add->input(1 - i);
    if (!is_op(conv, "quantized::conv2d") || only_user(conv->output()) != add ||
        !may_be_overwritten(other, add) || !has_shape_of(context, other, conv) ||
        !is_sure_to_be_added(context, other)) {
      continue;
    }
    Value* fused = insert_op(add, add, relu ? "quantized::conv2d_add_relu" : "quantized::conv2d_add",
                             {conv->input(0), other, conv->input(1), add->input(2), add->input(3)});
    join_places({conv, add}, fused->node());
    add->output()->replaceAllUsesWith(fused);
    add->destroy();
    return true;
  }
  return false;
}

// On the native target the two are one op already. Where it may, it takes the memory of what it adds.
bool write_in_place(Node* conv) {
  if (!is_op(conv,
             {"jitquant::conv1d_add", "jitquant::conv2d_add", "jitquant::conv3d_add", "jitquant::linear_add",
              "jitquant::linear_dynamic_add", "jitquant::linear_bfloat16_add"}) ||
      conv->input(0) == conv->input(1) || !may_be_overwritten(conv->input(1), conv)) {
    return false;
  }
  Value* kernel = conv->input(2);
  if (kernel->uses().size() != 1 || !kernel->node()->maybeSchema()) {
    return false;
  }
  const auto place = kernel->node()->schema().argumentIndexWithName("sum");
  if (!place) {
    return false;
  }
  kernel->node()->replaceInput(*place, constant(kernel->node(), std::string("in_place")));
  Value* written = insert_op(conv, conv, conv->kind().toQualString() + std::string("_"),
                             {conv->input(0), conv->input(1), kernel});
  join_places({conv}, written->node());
  conv->output()->replaceAllUsesWith(written);
  conv->destroy();
  return true;
}

}  // namespace

int64_t FuseResidualAdd(Context& context) {
  const bool plain = context.target().plain_integers;
  if (!plain && context.options.engine != "onednn") {
    return 0;
  }
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(),
                  [&](Node* node) { count += plain ? write_in_place(node) : fuse(context, node); });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(FuseResidualAdd, "fuse_residual_add",
              "Convolution and add become one op where the engine has it.");

}  // namespace jitquant
