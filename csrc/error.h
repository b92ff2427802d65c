// One way to raise, and one way to say where in the user's model a node stands.
#pragma once

#include <stdexcept>
#include <string>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

struct QuantizationError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// "model.py:12": the innermost line that is not torch.nn's own; empty where none is known.
std::string source_line(const torch::jit::Node* node);

// "aten::conv2d at model.py:12 (layer1.0.conv1)".
std::string describe(const torch::jit::Node* node);

// Raises "<pass>: <node> <cause>; <remedy>".
[[noreturn]] void fail(const std::string& pass, const torch::jit::Node* node, const std::string& cause,
                       const std::string& remedy);
[[noreturn]] void fail(const std::string& pass, const std::string& cause, const std::string& remedy);

}  // namespace jitquant
