#include "csrc/observer_calls.h"

#include <algorithm>
#include <cctype>

#include "csrc/module_path.h"

namespace jitquant {

std::optional<std::string> called_observer(const torch::jit::Node* node) {
  if (node->kind() != c10::prim::CallMethod || node->s(c10::attr::name) != "forward") {
    return std::nullopt;
  }
  auto path = attribute_path(node->input(0));
  const std::string prefix = kObserverPrefix;
  if (!path || path->rfind(prefix, 0) != 0 || path->size() == prefix.size() ||
      !std::all_of(path->begin() + static_cast<std::ptrdiff_t>(prefix.size()), path->end(), ::isdigit)) {
    return std::nullopt;
  }
  return path;
}

}  // namespace jitquant
