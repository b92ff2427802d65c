// fold_prepack: weights are quantized and packed now, once, and not at each call.
//
// Before:
//   %q : Tensor = aten::quantize_per_channel(%weight, %scales, %zero_points, %axis, %dtype)
//   %packed = quantized::conv2d_prepack(%q, %bias, ...)
// After:
//   %packed = prim::GetAttr[name="_jit_pass_packed_weight_0"](%self)
//
// Where stock torch cannot save what the op gives (oneDNN's opaque tensors), the attribute is a small
// TorchScript object that keeps it and packs it anew when the file is loaded. What several places pack alike,
// such as a cell that is called at each step of a traced loop, is packed once. Left alone: packing whose
// inputs are not the same in every call.

#include <sstream>
#include <unordered_map>

#include "csrc/evaluate.h"
#include "csrc/graph_edit.h"
#include "csrc/module_path.h"
#include "csrc/packed_weight.h"
#include "csrc/pass.h"
#include "csrc/target.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

constexpr const char* kPrefix = "_jit_pass_packed_weight_";

// Scales and the like by what they hold, weights by where they are.
std::string words_for_tensor(const at::Tensor& tensor) {
  constexpr int64_t kFew = 4096;
  std::ostringstream words;
  words << tensor.scalar_type() << tensor.sizes();
  if (tensor.layout() == at::kStrided && !tensor.is_quantized() && tensor.numel() <= kFew) {
    const at::Tensor numbers = tensor.contiguous();
    words.write(static_cast<const char*>(numbers.const_data_ptr()),
                static_cast<std::streamsize>(numbers.nbytes()));
  } else {
    words << static_cast<const void*>(tensor.unsafeGetTensorImpl());
  }
  return words.str();
}

// What a value is in words, so that two of the same words are the same in every call.
std::string words_for(const Value* value) {
  if (auto path = attribute_path(value)) {
    return "." + *path;
  }
  std::ostringstream words;
  if (auto known = torch::jit::toIValue(value)) {
    if (known->isTensor()) {
      return words_for_tensor(known->toTensor());
    }
    words << *known;
    return words.str();
  }
  words << value->node()->kind().toQualString() << '(';
  for (const Value* input : value->node()->inputs()) {
    words << words_for(input) << ',';
  }
  words << ')';
  return words.str();
}

// What packs a weight. A kernel without one keeps plans for the sizes at its place, so that each place has
// one of its own.
bool may_be_shared(const Node* node) {
  return std::any_of(node->inputs().begin(), node->inputs().end(), [](const Value* input) {
    const auto list = input->type()->cast<c10::ListType>();
    const auto& type = list ? list->getElementType() : input->type();
    return type->isSubtypeOf(*c10::TensorType::get()) || type->kind() == c10::TypeKind::ClassType;
  });
}

// Reads an attribute once more, before `before`.
Value* read_again(const Value* attribute, Node* before) {
  auto* graph = before->owningGraph();
  if (attribute->node()->kind() != c10::prim::GetAttr) {
    return graph->inputs()[0];
  }
  Value* owner = read_again(attribute->node()->input(), before);
  torch::jit::WithInsertPoint guard(before);
  Value* read = graph->insertGetAttr(owner, attribute->node()->s(c10::attr::name));
  read->node()->copyMetadata(before);
  return read->setType(attribute->type());
}

std::vector<c10::Symbol> prepack_kinds(const Target& target) {
  std::vector<c10::Symbol> symbols;
  for (const auto& op : target.prepack_ops) {
    symbols.push_back(c10::Symbol::fromQualString(op));
  }
  return symbols;
}

using Packed = std::unordered_map<std::string, Value*>;  // by words_for

bool fold(Context& context, Packed& known, Node* node) {
  const std::string words = may_be_shared(node) ? words_for(node->output()) : std::string();
  if (auto same = known.find(words); same != known.end()) {
    node->output()->replaceAllUsesWith(read_again(same->second, node));
    node->destroy();
    return true;
  }
  auto arguments = evaluate_inputs(context, node);
  if (!arguments) {
    return false;
  }
  Value* packed = nullptr;
  const auto unit = context.module._ivalue()->compilation_unit();
  if (auto holder = make_packed_weight(unit, node->kind(), *arguments)) {
    Value* read = context.new_attribute(node, kPrefix, *holder, holder->type());
    torch::jit::WithInsertPoint guard(node);
    packed = node->owningGraph()->insertGetAttr(read, kPackedTensor);
  } else {
    torch::jit::Stack stack = *arguments;
    node->getOperation()(stack);
    packed = context.new_attribute(node, kPrefix, stack.back(), node->output()->type());
  }
  node->output()->replaceAllUsesWith(packed);
  node->destroy();
  if (!words.empty()) {
    known[words] = packed;
  }
  return true;
}

}  // namespace

int64_t FoldPrepack(Context& context) {
  int64_t count = 0;
  const auto kinds = prepack_kinds(context.target());
  at::NoGradGuard no_grad;
  Packed known;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) {
      const bool packs = std::find(kinds.begin(), kinds.end(), node->kind()) != kinds.end();
      count += packs && fold(context, known, node);
    });
  }
  for (const auto& graph : context.graphs()) {  // at last: what one method reads, another reads again
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(FoldPrepack, "fold_prepack", "Weights are quantized and packed once, at conversion.");

}  // namespace jitquant
