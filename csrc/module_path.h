// Where things live in the module tree. After inlining, a node's scope is the dotted path of the module it
// came from.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

// The dotted path of the module whose code the node was; empty for the top module.
std::string path_of(const torch::jit::Node* node);
void set_path(torch::jit::Node* node, const std::string& path);

// "layer1.0.weight" for a chain of prim::GetAttr that starts at the method's self; nothing for any other
// value. Self itself is "".
std::optional<std::string> attribute_path(const torch::jit::Value* value);

// The owner of a dotted path and the last name in it.
std::pair<torch::jit::Module, std::string> owner_of(const torch::jit::Module& root, const std::string& path);

std::string join_path(const std::string& parent, const std::string& name);

}  // namespace jitquant
