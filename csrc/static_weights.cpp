#include "csrc/static_weights.h"

#include "csrc/graph_edit.h"
#include "csrc/module_path.h"

namespace jitquant {

using torch::jit::Node;
using torch::jit::Value;

bool is_shared(const Uses& uses, const Value* value) {
  auto path = attribute_path(value);
  auto found = path ? uses.find(*path) : uses.end();
  return found != uses.end() && found->second > 1;
}

void replace_weight(Context& context, Node* op, const char* argument, const at::Tensor& data,
                    bool is_shared) {
  Value* value = op->namedInput(argument);
  const bool is_attribute = value->node()->kind() == c10::prim::GetAttr;
  const std::string name = is_attribute ? value->node()->s(c10::attr::name) : argument;
  // A bias that was None goes where the weight is.
  Value* beside = op->namedInput("weight");
  set_input(op, argument, context.set_static(op, beside, name, data, is_shared ? nullptr : value));
}

}  // namespace jitquant
