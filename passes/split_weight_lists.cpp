// split_weight_lists: a recurrent layer that takes its parameters as one list takes a list made of single
// ones, so that each matrix can be observed, quantized and packed. A scripted module has an attribute for the
// list, and a frozen one a constant.
//
// Before:
//   %weights : Tensor[] = prim::GetAttr[name="_flat_weights"](%lstm)
//   %y, %h, %c = aten::lstm(%x, %hx, %weights, ...)
// After:
//   %weight_ih_l0 : Tensor = prim::GetAttr[name="weight_ih_l0"](%lstm)
//   %weight_hh_l0 : Tensor = prim::GetAttr[name="weight_hh_l0"](%lstm)
//   %weights : Tensor[] = prim::ListConstruct(%weight_ih_l0, %weight_hh_l0, ...)
//   %y, %h, %c = aten::lstm(%x, %hx, %weights, ...)
//
// A tensor that no attribute beside the list holds becomes a constant, and all do where another method of the
// module may take the list. Left alone: lists that are not the
// same in every call.

#include <map>

#include <ATen/ATen.h>

#include "csrc/graph_edit.h"
#include "csrc/module_path.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// The tensors beside a list that is an attribute.
NamedTensors tensors_beside(const Context& context, const Value* list) {
  NamedTensors tensors;
  if (auto path = attribute_path(list)) {
    const auto owner = owner_of(context.module, *path).first;
    for (const auto& attribute : owner.named_attributes(/*recurse=*/false)) {
      if (attribute.value.isTensor()) {
        tensors.emplace_back(attribute.name, attribute.value.toTensor());
      }
    }
  }
  return tensors;
}

bool are_one(const at::Tensor& left, const at::Tensor& right) {
  return left.data_ptr() == right.data_ptr() && left.sizes() == right.sizes() &&
         left.strides() == right.strides();
}

// Loading and copying may make two tensors of one.
bool are_equal(const at::Tensor& left, const at::Tensor& right) {
  return left.sizes() == right.sizes() && left.scalar_type() == right.scalar_type() && at::equal(left, right);
}

const std::string* name_of(const at::Tensor& tensor, const NamedTensors& tensors) {
  for (const auto& same : {are_one, are_equal}) {
    for (const auto& [name, candidate] : tensors) {
      if (same(tensor, candidate)) {
        return &name;
      }
    }
  }
  return nullptr;
}

// A constant for each tensor, so that what takes it several times is known to take the same.
using Constants = std::map<std::pair<const void*, std::vector<int64_t>>, at::Tensor>;

const at::Tensor& only_copy(Constants& constants, const at::Tensor& tensor) {
  auto& kept = constants[{tensor.const_data_ptr(), tensor.sizes().vec()}];
  kept = kept.defined() ? kept : tensor.detach();
  return kept;
}

Value* read_single(Node* before, Value* list, const at::Tensor& tensor, const NamedTensors& tensors,
                   Constants& constants) {
  const std::string* name = name_of(tensor, tensors);
  if (name == nullptr) {
    return constant(before, only_copy(constants, tensor));
  }
  torch::jit::WithInsertPoint guard(before);
  Value* read = before->owningGraph()->insertGetAttr(list->node()->input(), *name);
  read->setType(c10::TensorType::get());
  read->node()->copyMetadata(before);
  return read;
}

// Freezing refuses attributes that share memory, as a list and what is in it would where a method is left
// that takes the list.
bool has_other_methods(const Context& context) {
  return context.module.get_methods().size() > context.methods().size();
}

bool split(const Context& context, Constants& constants, Node* node, size_t index) {
  Value* list = node->input(index);
  const bool is_split = list->node()->kind() == c10::prim::ListConstruct;
  auto known = is_split ? std::nullopt : context.static_value(list);
  if (!known || !known->isTensorList()) {
    return false;
  }
  const NamedTensors tensors = has_other_methods(context) ? NamedTensors() : tensors_beside(context, list);
  std::vector<Value*> singles;
  for (const at::Tensor& tensor : known->toTensorVector()) {
    singles.push_back(read_single(node, list, tensor, tensors, constants));
  }
  Node* made = node->owningGraph()->createList(c10::TensorType::get(), singles)->insertBefore(node);
  made->copyMetadata(node);
  node->replaceInput(index, made->output());
  return true;
}

}  // namespace

int64_t SplitWeightLists(Context& context) {
  int64_t count = 0;
  Constants constants;
  at::NoGradGuard no_grad;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) {
      const OpRow* row = find_row(node);
      for (const auto& name : row == nullptr ? std::vector<std::string>() : row->weights) {
        count += split(context, constants, node, *node->schema().argumentIndexWithName(name));
      }
    });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(SplitWeightLists, "split_weight_lists", "Lists of weights become lists of single weights.");

}  // namespace jitquant
