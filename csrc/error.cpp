#include "csrc/error.h"

#include <vector>

#include "csrc/module_path.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::SourceRange;

std::string file_and_line(const SourceRange& range) {
  auto place = range.file_line_col();
  if (!place) {
    return "";
  }
  const auto& [file, line, column] = *place;
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(line);
}

bool is_library_code(const SourceRange& range) {
  auto place = range.file_line_col();
  return place && std::get<0>(*place).find("torch/nn/") != std::string::npos;
}

}  // namespace

std::string source_line(const Node* node) {
  std::vector<SourceRange> frames{node->sourceRange()};
  if (node->callstack()) {
    for (const auto& entry : (*node->callstack())->vec()) {
      frames.insert(frames.begin() + 1, std::get<1>(entry));
    }
  }
  for (const auto& frame : frames) {
    if (!is_library_code(frame) && !file_and_line(frame).empty()) {
      return file_and_line(frame);
    }
  }
  return file_and_line(frames.front());
}

std::string describe(const Node* node) {
  std::string text = node->kind().toQualString();
  const std::string line = source_line(node);
  const std::string path = path_of(node);
  if (!line.empty()) {
    text += " at " + line;
  }
  if (!path.empty()) {
    text += " (" + path + ")";
  }
  return text;
}

void fail(const std::string& pass, const Node* node, const std::string& cause, const std::string& remedy) {
  throw QuantizationError(pass + ": " + describe(node) + " " + cause + "; " + remedy);
}

void fail(const std::string& pass, const std::string& cause, const std::string& remedy) {
  throw QuantizationError(pass + ": " + cause + "; " + remedy);
}

}  // namespace jitquant
