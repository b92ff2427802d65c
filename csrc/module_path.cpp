#include "csrc/module_path.h"

namespace jitquant {

using torch::jit::Module;
using torch::jit::Node;
using torch::jit::Value;

std::string path_of(const Node* node) { return node->scopeName(); }

void set_path(Node* node, const std::string& path) {
  auto root = c10::make_intrusive<torch::jit::Scope>();
  node->setScope(path.empty() ? root : root->push(c10::Symbol::scope(path)));
}

std::string join_path(const std::string& parent, const std::string& name) {
  return parent.empty() ? name : parent + "." + name;
}

std::optional<std::string> attribute_path(const Value* value) {
  std::string path;
  while (value->node()->kind() == c10::prim::GetAttr) {
    const auto& name = value->node()->s(c10::attr::name);
    path = path.empty() ? name : name + "." + path;
    value = value->node()->input();
  }
  const auto& inputs = value->owningGraph()->inputs();
  const bool is_self =
      !inputs.empty() && value == inputs[0] && value->type()->cast<c10::ClassType>() != nullptr;
  return is_self ? std::optional(path) : std::nullopt;
}

std::pair<Module, std::string> owner_of(const Module& root, const std::string& path) {
  Module owner = root;
  size_t begin = 0;
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', begin)) {
    owner = owner.attr(path.substr(begin, dot - begin)).toModule();
    begin = dot + 1;
  }
  return {owner, path.substr(begin)};
}

}  // namespace jitquant
