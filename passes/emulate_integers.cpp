// emulate_integers: integer ops become what they compute, in floating point: ops of ATen on float64 tensors
// that hold the integers, with the bits of the integer op. It is how debug="exact" converts.
//
// Before:
//   %q : Tensor = aten::quantize_per_tensor(%x, %scale.1, %zero_point.1, %dtype)
//   %packed = quantized::linear_prepack(%weight, %bias)
//   %r : Tensor = quantized::linear(%q, %packed, %scale, %zero_point)
//   %y : Tensor = aten::dequantize(%r)
// After, where formula(...) stands for the graph of a formula, inlined:
//   %q : (Tensor, float, int) = formula of aten::quantize_per_tensor(%x, %scale.1, %zero_point.1, %dtype)
//   %w : (Tensor, Tensor, Tensor) = prim::Constant()   # integers, scales and zero points of %weight
//   %r : (Tensor, float, int) = formula of quantized::linear(%q, %w, %bias, %scale, %zero_point)
//   %y : Tensor = formula of aten::dequantize(%r)
//
// Formulas come with the options (jitquant/exact): they take an op's arguments, a tuple of integers, scale
// and zero point for each quantized tensor, and for a packed weight what the op that packs takes. Ops that
// only move values run on the integers. An op of integers without a formula stays what it is, with a warning.

#include <set>
#include <unordered_map>

#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/lower_tuples.h>

#include "csrc/error.h"
#include "csrc/evaluate.h"
#include "csrc/graph_edit.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/quantization_params.h"
#include "csrc/target.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;
using Values = std::vector<Value*>;

const c10::TypePtr& quantized_type() {
  static const c10::TypePtr type =
      c10::TupleType::create({c10::TensorType::get(), c10::FloatType::get(), c10::IntType::get()});
  return type;
}

Value* make_tuple(Node* before, const Values& parts) {
  return before->owningGraph()->createTuple(parts)->insertBefore(before)->output();
}

// A formula takes these in the place of a quantized tensor that is known.
Value* known_tuple(Node* before, const at::Tensor& quantized) {
  return make_tuple(
      before, {constant(before, quantized.int_repr().to(at::kDouble)), constant(before, quantized.q_scale()),
               constant(before, quantized.q_zero_point())});
}

Value* known_weight_tuple(Node* before, const at::Tensor& quantized) {
  const bool is_one = quantized.qscheme() == at::kPerTensorAffine;
  const at::Tensor scales =
      is_one ? at::full({1}, quantized.q_scale(), at::kDouble) : quantized.q_per_channel_scales();
  const at::Tensor zero_points =
      is_one ? at::full({1}, quantized.q_zero_point(), at::kLong) : quantized.q_per_channel_zero_points();
  // Rows that are looked up have real zero points.
  const auto type = zero_points.is_floating_point() ? at::kDouble : at::kLong;
  return make_tuple(
      before, {constant(before, quantized.int_repr().contiguous()), constant(before, scales.to(at::kDouble)),
               constant(before, zero_points.to(type))});
}

bool is_integer_op(const Node* node) {
  static const std::set<std::string> spaces{"quantized", "onednn", "jitquant"};
  const std::string name = node->kind().toQualString();
  return spaces.count(node->kind().ns().toUnqualString()) != 0 || name.rfind("aten::quantized_", 0) == 0;
}

class Emulator {
 public:
  explicit Emulator(Context& context) : context_(context) {
    const auto& ops = context.target().prepack_ops;
    prepacks_.insert(ops.begin(), ops.end());
  }

  void visit(Node* node) {
    if (prepacks_.count(node->kind().toQualString()) != 0) {
      return;  // goes where its result is taken
    }
    if (is_op(node, kMakeQuantized) && !context_.static_tensor(node->input(0))) {
      tuples_[node->output()] = make_tuple(node, {node->input(0), node->input(1), node->input(2)});
    } else if (is_op(node, kIntRepr) && tuples_.count(node->input()) != 0) {
      node->output()->replaceAllUsesWith(part(tuples_.at(node->input()), 0, node));
    } else if (Graph* formula = formula_of(node)) {
      apply(node, *formula);
    } else if (takes_tuple(node)) {
      move_or_keep(node);
    } else if (is_integer_op(node)) {
      warn(node);
    }
  }

  // Before anything is replaced: only where they come from tells plain integers from floats.
  void look_at(const Node* node) {
    const bool takes_integers = std::any_of(node->inputs().begin(), node->inputs().end(),
                                            [&](const Value* input) { return plain_.count(input) != 0; });
    if (takes_integers) {
      on_plain_.insert(node);
    }
    const OpRow* row = find_row(node);
    const bool keeps = takes_integers && row != nullptr && (row->moves || row->output == Output::SameAsInput);
    if (context_.target().plain_integers && (keeps || is_integer_op(node))) {
      plain_.insert(node->outputs().begin(), node->outputs().end());
    }
  }

  int64_t count() const { return count_; }

 private:
  bool takes_tuple(const Node* node) const {
    return std::any_of(node->inputs().begin(), node->inputs().end(),
                       [&](const Value* input) { return is_tuple(input); });
  }

  // Or a list of such.
  bool is_tuple(const Value* value) const {
    if (tuples_.count(value) != 0) {
      return true;
    }
    const Node* node = value->node();
    return node->kind() == c10::prim::ListConstruct &&
           std::any_of(node->inputs().begin(), node->inputs().end(),
                       [&](const Value* element) { return tuples_.count(element) != 0; });
  }

  // Weights go where they are packed.
  static bool rounds_activation(const Node* node) {
    auto dtype = is_quantize(node) ? constant_of(node->input(3)) : std::nullopt;
    return dtype && static_cast<at::ScalarType>(dtype->toInt()) == at::kQUInt8;
  }

  Graph* formula_of(const Node* node) const {
    const auto* schema = node->maybeSchema();
    // ATen's ops run on integers and floats alike, and are replaced on the former only.
    if (schema == nullptr || (node->kind().is_aten() && !takes_tuple(node) && on_plain_.count(node) == 0 &&
                              !rounds_activation(node))) {
      return nullptr;
    }
    for (const auto& name :
         {schema->name() + "." + schema->overload_name(), std::string(node->kind().toQualString())}) {
      auto known = context_.options.formulas.find(name);
      if (known != context_.options.formulas.end()) {
        return known->second.get();
      }
    }
    return nullptr;
  }

  void apply(Node* node, Graph& formula) {
    torch::jit::WithInsertPoint guard(node);
    torch::jit::WithCurrentScope scope(*node->owningGraph(), node->scope());
    Values arguments;
    for (Value* input : node->inputs()) {
      add_argument(node, input, arguments);
    }
    if (arguments.size() != formula.inputs().size()) {
      fail("emulate_integers",
           "the formula of " + describe(node) + " takes " + std::to_string(formula.inputs().size()) +
               " arguments, and the op has " + std::to_string(arguments.size()),
           "mend the formula in jitquant/exact");
    }
    for (size_t i = 0; i < arguments.size(); ++i) {
      arguments[i] = typed(arguments[i], formula.inputs()[i]->type());
    }
    Value* result = torch::jit::insertGraph(*node->owningGraph(), formula, arguments).at(0);
    if (*result->type() == *quantized_type()) {
      tuples_[node->output()] = result;
    } else {
      node->output()->replaceAllUsesWith(result);
      node->destroy();  // one that writes over an input would not be taken for dead
    }
    ++count_;
  }

  // What the formula takes in the place of an op's input.
  void add_argument(Node* node, Value* input, Values& arguments) {
    if (auto tuple = tuples_.find(input); tuple != tuples_.end()) {
      arguments.push_back(tuple->second);
    } else if (is_tuple(input)) {
      arguments.push_back(list_of_tuples(node, input->node()));
    } else if (prepacks_.count(input->node()->kind().toQualString()) != 0) {
      for (Value* packed : input->node()->inputs()) {
        arguments.push_back(packed_argument(node, packed));
      }
    } else if (auto known = context_.static_tensor(input); known && known->is_quantized()) {
      arguments.push_back(known_tuple(node, *known));
    } else {
      arguments.push_back(input);
    }
  }

  Value* packed_argument(Node* node, Value* packed) const {
    auto known = evaluate(context_, packed);
    if (!known) {
      return packed;
    }
    const bool is_weight = known->isTensor() && known->toTensor().is_quantized();
    return is_weight ? known_weight_tuple(node, known->toTensor()) : constant(node, *known);
  }

  Value* list_of_tuples(Node* before, const Node* list) {
    Values elements;
    for (const Value* element : list->inputs()) {
      elements.push_back(tuples_.at(element));
    }
    return before->owningGraph()->createList(quantized_type(), elements)->insertBefore(before)->output();
  }

  // None is of the type that the formula says, so that its branches stay well typed.
  static Value* typed(Value* argument, const c10::TypePtr& type) {
    if (!argument->mustBeNone() || type->kind() != c10::TypeKind::OptionalType) {
      return argument;
    }
    Graph* graph = argument->owningGraph();
    return graph->insertNode(graph->create(c10::prim::Constant))->output()->setType(type);
  }

  // An op without a formula that takes integers.
  void move_or_keep(Node* node) {
    const OpRow* row = find_row(node);
    const bool moves = row != nullptr && row->moves;
    if (node->kind() == c10::prim::ListConstruct) {
      return;  // its user takes the tuples
    }
    if (node->kind() == c10::prim::ListUnpack || moves || asks_for_shape(node)) {
      move(node);
    } else {
      keep(node);
    }
  }

  // The first output, or all in a list, keep the first input's parameters.
  void move(Node* node) {
    Value* source = nullptr;
    for (size_t i = 0; i < node->inputs().size(); ++i) {
      if (auto tuple = tuples_.find(node->input(i)); tuple != tuples_.end()) {
        source = source == nullptr ? tuple->second : source;
        node->replaceInput(i, part(tuple->second, 0, node));
      }
    }
    if (asks_for_shape(node) || source == nullptr) {
      return;
    }
    for (Value* output : tensor_outputs(node)) {
      Node* after = first_point_after(output);
      tuples_[output] = make_tuple(after, {output, part(source, 1, after), part(source, 2, after)});
    }
    ++count_;
  }

  // It runs on integers, as it is.
  void keep(Node* node) {
    warn(node);
    for (size_t i = 0; i < node->inputs().size(); ++i) {
      auto tuple = tuples_.find(node->input(i));
      if (tuple == tuples_.end()) {
        continue;
      }
      Value* integers =
          insert_op(node, node, "aten::to",
                    {part(tuple->second, 0, node), constant(node, static_cast<int64_t>(at::kByte))});
      node->replaceInput(i,
                         insert_op(node, node, kMakeQuantized,
                                   {integers, part(tuple->second, 1, node), part(tuple->second, 2, node)}));
    }
    if (node->outputs().size() == 1 && node->output()->type()->isSubtypeOf(*c10::TensorType::get()) &&
        !is_dequantize(node->output())) {
      take_back(node->output());
    }
  }

  void take_back(Value* quantized) {
    Node* after = quantized->node()->next();
    const Node* origin = quantized->node();
    Value* integers = insert_op(after, origin, kIntRepr, {quantized});
    Value* numbers =
        insert_op(after, origin, "aten::to", {integers, constant(after, static_cast<int64_t>(at::kDouble))});
    tuples_[quantized] = make_tuple(after, {numbers, insert_op(after, origin, "aten::q_scale", {quantized}),
                                            insert_op(after, origin, "aten::q_zero_point", {quantized})});
  }

  static Value* part(Value* tuple, int64_t index, Node* before) {
    torch::jit::WithInsertPoint guard(before);
    Graph* graph = before->owningGraph();
    const auto& type = tuple->type()->expectRef<c10::TupleType>().elements().at(static_cast<size_t>(index));
    Value* number = graph->insertConstant(index);
    return graph->insertNode(graph->createTupleIndex(tuple, number, type))->output();
  }

  void warn(const Node* node) {
    context_.warnings.push_back("debug=\"exact\": " + describe(node) +
                                " has no formula and runs on integers, as it does without debug");
  }

  Context& context_;
  std::set<std::string> prepacks_;
  std::set<const Value*> plain_;    // what may be plain integers; a formula looks at the type
  std::set<const Node*> on_plain_;  // what takes them
  std::unordered_map<const Value*, Value*> tuples_;  // what stands in the place of a quantized tensor
  int64_t count_ = 0;
};

}  // namespace

int64_t EmulateIntegers(Context& context) {
  int64_t count = 0;
  at::NoGradGuard no_grad;
  for (auto graph : context.graphs()) {
    Emulator emulator(context);
    std::vector<Node*> nodes;  // what formulas consist of is no integer op
    for_each_node(graph->block(), [&](Node* node) { nodes.push_back(node); });
    for (const Node* node : nodes) {
      emulator.look_at(node);
    }
    for (Node* node : nodes) {
      emulator.visit(node);
    }
    count += emulator.count();
    eliminate_dead_code(graph);
    torch::jit::LowerSimpleTuples(graph);
    torch::jit::ConstantPropagation(graph);
    torch::jit::LowerSimpleTuples(graph);
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(EmulateIntegers, "emulate_integers",
              "Integer ops become what they compute, in floating point.");

}  // namespace jitquant
