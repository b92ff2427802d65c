// erase_shapes: forgets the sizes and dtypes that tracing wrote on values; they held for one input only, and
// after quantization not even for that.
//
// Before: %y : Float(1, 8, 32, 32, strides=[8192, 1024, 32, 1]) = aten::relu(%x)
// After:  %y : Tensor = aten::relu(%x)

#include <torch/csrc/jit/passes/shape_analysis.h>

#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

bool has_shape(const torch::jit::Value* value) {
  auto type = value->type()->cast<c10::TensorType>();
  return type != nullptr && *type != *c10::TensorType::get();
}

}  // namespace

int64_t EraseShapes(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for (const auto* input : graph->inputs()) {
      count += has_shape(input);
    }
    for_each_node(graph->block(), [&](torch::jit::Node* node) {
      for (const auto* output : node->outputs()) {
        count += has_shape(output);
      }
    });
    torch::jit::EraseShapeInformation(graph);
  }
  return count;
}

JITQUANT_PASS(EraseShapes, "erase_shapes", "Forgets the sizes and dtypes that tracing wrote on values.");

}  // namespace jitquant
