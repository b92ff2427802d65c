#include "csrc/target.h"

#include <algorithm>
#include <cctype>
#include <sstream>

#include "csrc/dynamic.h"
#include "csrc/error.h"
#include "csrc/graph_edit.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

struct Statement {
  std::string name;
  std::string op;
  std::vector<std::string> arguments;
};

std::string trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(' ');
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(' ') - begin + 1);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    parts.push_back(trim(part));
  }
  return parts;
}

std::vector<Statement> parse_recipe(const std::string& recipe) {
  std::vector<Statement> statements;
  for (const auto& text : split(recipe, ';')) {
    const size_t open = text.find('(');
    const size_t equals = text.find('=');
    const bool named = equals != std::string::npos && equals < open;
    const size_t begin = named ? equals + 1 : 0;
    statements.push_back({named ? trim(text.substr(0, equals)) : "", trim(text.substr(begin, open - begin)),
                          split(text.substr(open + 1, text.rfind(')') - open - 1), ',')});
  }
  return statements;
}

Value* empty_scalar_list(Node* before) {
  torch::jit::WithInsertPoint guard(before);
  auto* graph = before->owningGraph();
  auto type = c10::OptionalType::create(c10::NumberType::get());
  return graph->insertNode(graph->createList(type, {}))->output();
}

Value* literal(const std::string& text, Node* before) {
  if (text == "None") {
    return constant(before, c10::IValue());
  }
  if (text == "True" || text == "False") {
    return constant(before, text == "True");
  }
  if (text == "uint8") {
    return constant(before, static_cast<int64_t>(at::kByte));
  }
  if (text == "float32") {
    return constant(before, static_cast<int64_t>(at::kFloat));
  }
  if (text == "[]") {
    return empty_scalar_list(before);
  }
  if (text.front() == '\'') {
    return constant(before, text.substr(1, text.size() - 2));
  }
  return constant(before, static_cast<int64_t>(std::stoll(text)));
}

bool same_value(const c10::IValue& left, const c10::IValue& right) {
  return left.isScalar() && right.isScalar() ? left.toScalar().toDouble() == right.toScalar().toDouble()
                                             : left == right;
}

// An argument that the recipe leaves out and that has not its default value, if there is one: then leaving it
// out would change the result.
std::optional<std::string> lacking_argument(const IntegerForm& form, const Node* node) {
  std::vector<std::string> used;
  for (const auto& statement : parse_recipe(form.recipe)) {
    used.insert(used.end(), statement.arguments.begin(), statement.arguments.end());
  }
  const auto& arguments = node->schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& name = arguments[i].name();
    if (std::find(used.begin(), used.end(), name) != used.end() ||
        std::find(form.ignores.begin(), form.ignores.end(), name) != form.ignores.end()) {
      continue;
    }
    auto given = constant_of(node->input(i));
    const auto& standard = arguments[i].default_value();
    if (!given || !standard || !same_value(*given, *standard)) {
      return name;
    }
  }
  return std::nullopt;
}

// Whether the recipe's $names, such as the parameters of an input, are known here.
bool names_are_known(const IntegerForm& form, const Lowering& lowering) {
  for (const auto& statement : parse_recipe(form.recipe)) {
    for (const auto& argument : statement.arguments) {
      if (argument.front() == '$' && lowering.names.count(argument) == 0) {
        return false;
      }
    }
  }
  return true;
}

bool sums_rows(const Context& /*context*/, const Lowering& lowering) {
  constexpr int64_t sum = 0;
  auto mode = constant_of(lowering.node->namedInput("mode"));
  auto padding = lowering.node->schema().argumentIndexWithName("padding_idx");
  auto left_out = padding ? constant_of(lowering.node->namedInput("padding_idx")) : std::nullopt;
  const bool leaves_none_out = !padding || (left_out && (left_out->isNone() || left_out->toInt() < 0));
  const auto outputs = lowering.node->outputs();
  return mode && mode->toInt() == sum && leaves_none_out &&
         std::all_of(outputs.begin() + 1, outputs.end(),
                     [](const Value* output) { return !output->hasUses(); });
}

}  // namespace

std::vector<IntegerForm> embedding_forms() {
  // Of any shape of indices, which ATen's quantized op is not.
  IntegerForm embedding{.op = "aten::embedding",
                        .recipe =
                            "integers = jitquant::pack_rows(weight);"
                            "columns = jitquant::pack_row_scales($weight_scales);"
                            "rows = aten::embedding(integers, indices);"
                            "scales = aten::embedding(columns, indices);"
                            "aten::mul(rows, scales)",
                        .ignores = {"padding_idx", "scale_grad_by_freq", "sparse"}};
  // As unsigned integers, of which 128 is zero.
  IntegerForm bag{.op = "aten::embedding_bag",
                  .recipe =
                      "integers = aten::int_repr(weight);"
                      "shifted = aten::bitwise_xor(integers, -128);"
                      "bytes = aten::to(shifted, uint8);"
                      "middle = aten::add($weight_zero_points, 128, 1);"
                      "zeros = aten::to(middle, float32);"
                      "rows = aten::_make_per_channel_quantized_tensor(bytes, $weight_scales, zeros, 0);"
                      "packed = quantized::embedding_bag_prepack(rows);"
                      "quantized::embedding_bag_byte(packed, indices, offsets, False, 0, False,"
                      " per_sample_weights, None, include_last_offset)",
                  .suits = sums_rows,
                  .otherwise = "it does more than to add rows up (mode='sum', without padding_idx)",
                  .ignores = {"scale_grad_by_freq", "mode", "sparse", "padding_idx"}};
  IntegerForm padded = bag;
  padded.op = "aten::embedding_bag.padding_idx";
  return {embedding, bag, padded};
}

const Target& find_target(const std::string& name) {
  for (const Target* target : {&quantized_target(), &native_target()}) {
    if (target->name == name) {
      return *target;
    }
  }
  fail("target", "there is no target '" + name + "'", "choose 'quantized' or 'native'");
}

const IntegerForm* find_form(const Target& target, const OpRow& row) {
  for (const IntegerForm& form : target.forms()) {
    if (form.op == row.op) {
      return &form;
    }
  }
  return nullptr;
}

bool has_statistics(const Context& context, const Lowering& lowering) {
  auto training = constant_of(lowering.node->namedInput("training"));
  return training && !training->toBool() &&
         context.static_tensor(lowering.node->namedInput("running_mean")) &&
         context.static_tensor(lowering.node->namedInput("running_var"));
}

bool runs_as_it_is(const Target& target, const OpRow& row) {
  const bool right = target.plain_integers ? row.moves : row.output == Output::SameAsInput;
  return right && find_form(target, row) == nullptr;
}

bool has_integer_form(const Target& target, const OpRow& row) {
  return runs_as_it_is(target, row) || find_form(target, row) != nullptr;
}

bool has_known_slopes(const Context& context, const Lowering& lowering) {
  return context.static_tensor(lowering.node->namedInput("weight")).has_value();
}

bool fills_with_zero(const Context& /*context*/, const Lowering& lowering) {
  auto value = constant_of(lowering.node->namedInput("value"));
  return value && value->isScalar() && value->toScalar().toDouble() == 0;
}

std::optional<std::string> why_always_float(const Target& target, const Node* node) {
  const OpRow* row = find_row(node);
  if (row == nullptr) {
    return "no integer form of it is known";
  }
  if (!has_integer_form(target, *row) && !has_dynamic_form(target, *row)) {
    return "the target '" + target.name + "' has no integer op for it";
  }
  return casts(node) ? std::optional<std::string>("it is told which dtype to give") : std::nullopt;
}

const IntegerForm* choose_form(const Context& context, const Lowering& lowering) {
  const OpRow* row = find_row(lowering.node);
  for (const IntegerForm& form : context.target().forms()) {
    if (form.op == row->op && (form.suits == nullptr || form.suits(context, lowering)) &&
        (form.is_activation || !lacking_argument(form, lowering.node)) && names_are_known(form, lowering)) {
      return &form;
    }
  }
  return nullptr;
}

std::string why_no_form(const Context& context, const Lowering& lowering) {
  const OpRow* row = find_row(lowering.node);
  std::string reason;
  for (const IntegerForm& form : context.target().forms()) {
    if (form.op != row->op) {
      continue;
    }
    auto argument = form.is_activation ? std::nullopt : lacking_argument(form, lowering.node);
    if (argument) {
      reason = "the integer op takes no other '" + *argument + "' than the default";
    } else if (form.suits != nullptr && !form.suits(context, lowering)) {
      reason = std::string(form.otherwise).empty() ? "no integer op of this engine suits it" : form.otherwise;
    } else {
      reason = "the scale of an input is not known in this graph";
    }
  }
  return reason;
}

Value* build_form(const IntegerForm& form, const Lowering& lowering, Node* before) {
  auto names = lowering.names;
  Value* result = nullptr;
  const auto& recipe = lowering.relu ? form.relu_recipe : lowering.sum ? form.sum_recipe : form.recipe;
  for (const auto& statement : parse_recipe(recipe)) {
    std::vector<Value*> inputs;
    for (const auto& argument : statement.arguments) {
      auto known = names.find(argument);
      inputs.push_back(known != names.end() ? known->second : literal(argument, before));
    }
    result = insert_op(before, lowering.node, statement.op, inputs);
    names[statement.name] = result;
  }
  return result;
}

}  // namespace jitquant
