// freeze: attributes become constants, and what nothing reads any more is dropped; the methods and attributes
// that a user asked for stay.
//
// Before: %weight : Tensor = prim::GetAttr[name="weight"](%conv)
// After:  %weight : Tensor = prim::Constant[value=<Tensor>]()

#include <torch/csrc/jit/passes/freeze_module.h>

#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

int64_t count_reads(const Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(),
                  [&](torch::jit::Node* node) { count += node->kind() == c10::prim::GetAttr; });
  }
  return count;
}

}  // namespace

int64_t Freeze(Context& context) {
  const int64_t before = count_reads(context);
  std::vector<std::string> kept = context.options.preserved_attrs;
  for (const auto& attribute : context.module.named_attributes(/*recurse=*/false)) {
    // A file cannot hold an object as a constant.
    if (attribute.value.isObject() && !attribute.value.isModule()) {
      kept.push_back(attribute.name);
    }
  }
  for (const auto& method : context.module.get_methods()) {
    if (method.name() != "forward") {
      kept.push_back(method.name());
    }
  }
  torch::jit::freeze_module_inplace(&context.module, kept);
  return before - count_reads(context);
}

JITQUANT_PASS(Freeze, "freeze", "Attributes become constants.");

}  // namespace jitquant
