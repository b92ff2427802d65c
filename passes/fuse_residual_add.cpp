// fuse_residual_add: a convolution and the add behind it become one op on the engine that has it (onednn).
//
// Before:
//   %c = quantized::conv2d(%x, %packed, %scale, %zero_point)
//   %y = quantized::add_relu(%c, %z, %scale.1, %zero_point.1)
// After:
//   %y = quantized::conv2d_add_relu(%x, %z, %packed, %scale.1, %zero_point.1)
//
// The fused op writes its result into the memory of %z. Left alone, therefore: an add whose other operand is
// used later, or by something that is no integer op, or did not come from one; and other engines, which have
// no such op.

#include <algorithm>

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

c10::Symbol quantized(const char* name) {
  return c10::Symbol::fromQualString(std::string("quantized::") + name);
}

// Whether nobody would see the memory of `value` change at the add: it came from an integer op, which gave it
// memory of its own, and the other integer ops that use it, none of which gives a view of it, are done by
// then.
bool may_be_overwritten(const Value* value, Node* add) {
  return value->node()->kind().ns() == add->kind().ns() &&
         std::all_of(value->uses().begin(), value->uses().end(), [&](const auto& use) {
           return use.user == add || (use.user->kind().ns() == add->kind().ns() && use.user->isBefore(add));
         });
}

bool fuse(Node* add) {
  const bool relu = add->kind() == quantized("add_relu");
  if (!relu && add->kind() != quantized("add")) {
    return false;
  }
  // The later of two convolutions, so that the other operand is there already.
  for (size_t i : {1, 0}) {
    Node* conv = add->input(i)->node();
    Value* other = add->input(1 - i);
    if (conv->kind() != quantized("conv2d") || only_user(conv->output()) != add ||
        !may_be_overwritten(other, add) || !other->node()->isBefore(conv)) {
      continue;
    }
    Value* fused = insert_op(add, add, relu ? "quantized::conv2d_add_relu" : "quantized::conv2d_add",
                             {conv->input(0), other, conv->input(1), add->input(2), add->input(3)});
    add->output()->replaceAllUsesWith(fused);
    add->destroy();
    return true;
  }
  return false;
}

}  // namespace

int64_t FuseResidualAdd(Context& context) {
  if (context.options.engine != "onednn") {
    return 0;
  }
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) { count += fuse(node); });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(FuseResidualAdd, "fuse_residual_add",
              "Convolution and add become one op where the engine has it.");

}  // namespace jitquant
