// Small edits every pass needs: constants, and nodes that keep the module path and source line of what they
// replace.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

// The one way to make a constant.
torch::jit::Value* constant(torch::jit::Node* before, const c10::IValue& value);

// The value of a prim::Constant, or of a list made of constants that nothing changes.
std::optional<c10::IValue> constant_of(const torch::jit::Value* value);

// Whether a node is this op, or one of these, of any overload.
bool is_op(const torch::jit::Node* node, const char* name);
bool is_op(const torch::jit::Node* node, std::initializer_list<const char*> names);

// Puts a value into the place of the argument that the schema calls so.
void set_input(torch::jit::Node* node, const char* name, torch::jit::Value* value);

// Inserts op(inputs) before `before`, with the module path and source line of `origin`. The overload is
// resolved from the types of the inputs.
torch::jit::Value* insert_op(torch::jit::Node* before, const torch::jit::Node* origin, const std::string& op,
                             const std::vector<torch::jit::Value*>& inputs);

// Where a value's uses begin: the node after its definition, or the first of the block for a block's input.
torch::jit::Node* first_point_after(torch::jit::Value* value);

// The only user of a value, if there is just one use and it is in the same block.
torch::jit::Node* only_user(const torch::jit::Value* value);

// Whether the op asks for the shape of a tensor, whatever that holds.
bool asks_for_shape(const torch::jit::Node* node);

void eliminate_dead_code(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace jitquant
