#include "csrc/padding.h"

#include "csrc/graph_edit.h"

namespace jitquant {

std::optional<Frame> frame_of(const torch::jit::Node* pad, size_t dimensions) {
  auto sides = constant_of(pad->namedInput("pad"));
  if (!sides) {
    return std::nullopt;
  }
  const auto given = sides->toIntVector();  // from the last dimension to the first, begin and end of each
  Frame frame{std::vector<int64_t>(dimensions), std::vector<int64_t>(dimensions)};
  for (size_t i = 0; i + 1 < given.size(); i += 2) {
    const bool in_space = i / 2 < dimensions;
    if (given[i] < 0 || given[i + 1] < 0 || (!in_space && given[i] + given[i + 1] != 0)) {
      return std::nullopt;
    }
    if (in_space) {
      frame.before[dimensions - 1 - i / 2] = given[i];
      frame.after[dimensions - 1 - i / 2] = given[i + 1];
    }
  }
  return frame;
}

}  // namespace jitquant
