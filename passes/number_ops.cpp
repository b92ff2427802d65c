// number_ops: each op of the user's is given its number, which fusion hands on to what gives its value then
// (csrc/places.h), so that values of the float model and of the integer one can be compared.
//
// Before: %y : Tensor = aten::conv2d(%x, ...)
// After:  %y : Tensor = aten::conv2d[places=[0, 0]](%x, ...)
//
// Left alone: what quantizes, dequantizes or asks for shapes.

#include "csrc/pass.h"
#include "csrc/places.h"
#include "csrc/report.h"
#include "csrc/walk.h"

namespace jitquant {

int64_t NumberOps(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    int64_t number = 0;
    for_each_node(graph->block(), [&](torch::jit::Node* node) {
      if (computes(context, node)) {
        set_places(node, {number++});
      }
    });
    count += number;
  }
  return count;
}

JITQUANT_PASS(NumberOps, "number_ops", "Each op gets its number, by which its value is found in the end.");

}  // namespace jitquant
